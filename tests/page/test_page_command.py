"""``bnbenv matrix html``: what it writes, where, and what it leaves alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli import main
from bnbenv.cli.page import make_page

pytestmark = pytest.mark.xdist_group("page")  # one page and one browser for all

# A page of a part of the matrix, by its digest; a second Python orders its sets in another way.
SMALL = """\
from hashlib import sha256
from msgspec.structs import replace
from bnbenv.cli.page import make_page
from bnbenv.matrix.load import load_matrix
from bnbenv.solve.grid import draw_grid
matrix = load_matrix()
wheels = tuple(row for row in matrix.bitsandbytes if row.version >= "0.49.2")
torch = tuple(row for row in matrix.torch if row.version.startswith(("2.13", "2.15")))
page = make_page(draw_grid(replace(matrix, bitsandbytes=wheels, torch=torch)))
print(sha256(page.encode()).hexdigest())
"""


def test_the_document_is_about_the_file(page_file: Path, page_document: dict[str, Any]) -> None:
    content = page_file.read_bytes()
    assert content.startswith(b"<!doctype html>")  # the fixture had another page there
    assert page_document == {
        "schema": "bnbenv.matrix-html/1",
        "path": str(page_file),
        "bytes": len(content),
        "sha256": sha256(content).hexdigest(),
        "rows": page_document["rows"],
    }
    assert min(page_document["rows"].values()) > 50
    assert len(content) < 2_000_000
    assert [path.name for path in page_file.parent.iterdir()] == [page_file.name]


def test_the_page_names_no_address_that_it_could_load(page_file: Path) -> None:
    text = page_file.read_text()
    markup = re.sub(r'(<script type="application/json" id="data">).*?(</script>)', r"\1\2", text, flags=re.S)
    assert "://" not in markup
    assert not re.search(r"<(link|img|iframe|object|embed|base)\b|<script[^>]* src", text)


def test_the_same_rows_give_the_same_bytes() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", SMALL],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_rows_are_data_whatever_stands_in_them() -> None:
    """A user's own rows are shown, too."""
    hostile = "</script><script>alert(1)</script><!--{script}"
    page = make_page({"date": hostile, "texts": [hostile]})
    assert "alert(1)" in page and page.count("<script") == make_page({"date": "", "texts": []}).count("<script")
    data = re.search(r'id="data">(.*?)</script>', page)
    assert data is not None and json.loads(data[1])["texts"] == [hostile]


@pytest.mark.parametrize(
    ("name", "text"), [("bnbenv.toml", "[envs.bnb]\n"), ("index.html", "<!doctype html>\n<p>Mine")]
)
def test_what_is_no_page_of_bnbenv_is_left_alone(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / name
    mine.write_text(text)
    assert main(["matrix", "html", str(tmp_path if name == "index.html" else mine)]) == 2
    assert "is there already and is no page of bnbenv" in " ".join(capsys.readouterr().err.split())
    assert mine.read_text() == text
