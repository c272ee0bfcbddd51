"""One page to look at: template, style and script of this folder with the solver's tables in it."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

from bnbenv import __version__

_FOLDER = Path(__file__).parent
_SCRIPTS = ("answer.js", "view.js", "pick.js")


def make_page(grid: dict[str, Any]) -> str:
    """The page as HTML; ``grid`` is what ``solve.grid.draw_grid`` gives. The same tables give the same bytes.

    Its policy admits this very style and script and nothing from anywhere else.
    """
    style = _text("page.css")
    script = "".join(_text(name) for name in _SCRIPTS)
    parts = {
        "style": style,
        "script": script,
        "style-hash": _hash(style),
        "script-hash": _hash(script),
        "version": __version__,
        "date": escape(grid["date"]),
        "data": _data(grid),
    }
    return re.sub(r"\{([a-z-]+)\}", lambda match: parts[match[1]], _text("page.html"))


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()


def _data(grid: dict[str, Any]) -> str:
    """JSON that ends no script element, whatever stands in it."""
    return json.dumps(grid, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
