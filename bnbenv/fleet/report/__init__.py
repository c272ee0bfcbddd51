"""One self-contained HTML page of a rollout, a plan or a check: to be mailed, kept and printed. Pure.

What hosts say is shown, never believed: every text is escaped, control characters are shown as escapes, and the page's
own policy admits its style and its script alone. The script only filters; without it everything is there to read.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

from bnbenv import __version__
from bnbenv.fleet.report.parts import body

_FOLDER = Path(__file__).parent

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src '{style-hash}'; \
script-src '{script-hash}'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="bnbenv {version}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}<script>{script}</script>
</body>
</html>
"""


def page(document: Mapping[str, Any]) -> str:
    """The page of a document of ``fleet sync``, ``fleet plan`` or ``fleet check``, as HTML.

    Fields that a document lacks are left out. The same document gives the same bytes.
    """
    style, script = _text("page.css"), _text("filter.js")
    title, inner = body(document)
    parts = {
        "style": style,
        "style-hash": _hash(style),
        "script": script,
        "script-hash": _hash(script),
        "version": escape(str(document.get("bnbenv") or __version__)),
        "title": title,
        "body": inner,
    }
    return re.sub(r"\{([a-z-]+)\}", lambda match: parts[match[1]], _PAGE)


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()
