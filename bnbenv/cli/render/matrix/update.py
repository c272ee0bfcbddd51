"""How ``bnbenv matrix update`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import listed, wrap

MOST = 5  # names in one line; more are counted


def render(document: dict[str, Any]) -> str:
    check = document["check"]
    lines = wrap(_answer(document))
    for verb, rows in (("new" if check else "added", document["added"]), ("changed", document["changed"])):
        lines += [line for row in rows for line in wrap(f"{verb} {_row(row)}", "  ")]
    lines += [line for row in document["failed"] for line in _failed(row)]
    lines += _together(document["left_out"], "left out")
    lines += _together(document["gone"], "kept the row of")
    lines += _silent(document["unreachable"])
    if not check and (document["added"] or document["changed"]):
        lines += wrap(f"{document['fetched'] / 1e6:.1f} MB were loaded; the rows are in {document['folder']}")
    if check and (document["added"] or document["changed"]):
        lines.append("next: bnbenv matrix update")
    elif document["failed"]:
        lines.append("next: bnbenv matrix update (tries those again)")
    return "\n".join(lines)


def _answer(document: dict[str, Any]) -> str:
    added, changed, failed = (len(document[name]) for name in ("added", "changed", "failed"))
    holds = f"{document['unchanged']} known row{'s hold' if document['unchanged'] != 1 else ' holds'}"
    if not (added or changed or failed):
        return f"up to date: {holds}"
    verbs = ("is new", "are new") if document["check"] else ("was added", "were added")
    parts = [f"{_rows(added)} {verbs[added != 1]}"] if added else []
    would = "would change" if document["check"] else "changed"
    parts += [f"{_rows(changed)} {would}"] if changed else []
    parts += [f"{failed} wheel{'s' if failed != 1 else ''} could not be measured"] if failed else []
    return f"{listed(parts)}; {holds}"


def _rows(count: int) -> str:
    return f"{count} row{'s' if count != 1 else ''}"


def _row(row: dict[str, Any]) -> str:
    place = f", {row['source']}/{row['index']}" if row["index"] else ""
    because = f": {row['because']}" if row["because"] else ""
    return f"{row['project']} {row['version']} ({row['os']} {row['machine']}{place}){because}"


def _failed(row: dict[str, str]) -> list[str]:
    named = row["filename"] in row["because"]  # most sentences name the file
    return wrap(f"failed {row['because']}" if named else f"failed {row['filename']}: {row['because']}", "  ")


def _together(rows: list[dict[str, str]], what: str) -> list[str]:
    """One line for all files of one reason."""
    lines = []
    for because in dict.fromkeys(row["because"] for row in rows):
        first, *more = [row["filename"] for row in rows if row["because"] == because]
        names = f"{first} and {len(more)} more" if more else first
        lines += wrap(f"{what} {names}: {because}", "  ")
    return lines


def _silent(rows: list[dict[str, str]]) -> list[str]:
    if not rows:
        return []
    names = listed([row["index"] for row in rows]) if len(rows) <= MOST else f"{len(rows)} variants"
    because = f"PyTorch's own index was not read for {names}: {rows[0]['because']}"
    return wrap(f"{because}; what is declared of its builds stays")
