"""The parts of the page, each from what the document says of it. Pure. Every text passes ``_said`` on its way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

Document = Mapping[str, Any]
_LONGEST = 600  # signs of one text; a host may send more

# How a state is called, and what it is: good, to be waited for, or bad. The order is that of the page.
STATES = {
    "verify-failed": ("failed verification", "bad"),
    "failed": ("failed", "bad"),
    "unreachable": ("unreachable", "bad"),
    "no-bnbenv": ("no bnbenv", "bad"),
    "bad-answer": ("unreadable answer", "bad"),
    "unknown-facts": ("facts unknown", "bad"),
    "no-combination": ("nothing fits", "bad"),
    "no-content": ("no bundle", "bad"),
    "reboot": ("reboot required", "wait"),
    "reboot-required": ("reboot required", "wait"),
    "in-use": ("left, in use", "wait"),
    "busy": ("another bnbenv is at work", "wait"),
    "moved": ("changed meanwhile by others", "wait"),
    "interrupted": ("interrupted", "wait"),
    "not-tried": ("not tried", "wait"),
    "would-change": ("would change", "wait"),
    "not-in-sync": ("not in sync", "wait"),
    "change": ("to change", "wait"),
    "none": ("no environment yet", "wait"),
    "unknown": ("only the facts are known", "wait"),
    "changed": ("changed and verified", "good"),
    "in-sync": ("in sync", "good"),
}


def body(document: Document) -> tuple[str, str]:
    """The page's title and its body, as HTML."""
    rows = _rows(document)
    name = _said(str(document.get("project") or "").rstrip("/").rpartition("/")[2])
    title = f"{_what(document)} of bnbenv{f': {name}' if name else ''}"
    counts = Counter(row["state"] for row in rows)
    inner = "".join(
        [
            f"<header>\n<h1>{title}</h1>\n{_head(document)}</header>\n<main>\n",
            _summary(document, counts, rows),
            _reboots(rows),
            _classes(document),
            _remarks(document),
            _hosts(document, rows),
            f"</main>\n<footer><p>{_made_by(document)}</p></footer>\n",
        ]
    )
    return title, inner


def _rows(document: Document) -> list[dict[str, Any]]:
    """Every host of the document: of a rollout they are one list, of a plan those of its classes and those in none."""
    if _what(document) == "Check":
        return _checked(document)
    kinds: list[tuple[Any, Document]] = []
    for kind in _each(document, "classes"):
        refused = {} if all(one.get("choice") for one in _each(kind, "gets")) else {"state": "no-combination"}
        kinds += [(kind.get("id"), {**one, **refused}) for one in _each(kind, "hosts")]
    left = ((None, one) for one in _each(document, "left_out"))
    rows: list[dict[str, Any]] = [dict(one) for one in _each(document, "hosts")]
    rows += [{"class": kind, **one} for kind, one in (*kinds, *left)]
    for row in rows:
        state = str(row.get("state") or row.get("code") or "unknown")
        row["state"] = "reboot" if state == "reboot-required" else state
    return rows


def _checked(document: Document) -> list[dict[str, Any]]:
    """Every host of a check, which lists hosts by what there is to say of them; of some there are several reasons."""
    said: dict[str, list[str]] = {}
    for one in _each(document, "reasons"):
        for host in _listed(one.get("hosts")):
            env = f"{one['env']}: " if one.get("env") else ""
            said.setdefault(str(host), []).append(f"{env}{one.get('because', '')}")
    rows = [{"host": str(host), "state": "in-sync"} for host in _listed(document.get("hosts_in_sync"))]
    rows += [{"host": host, "state": "not-in-sync", "because": "; ".join(some)} for host, some in said.items()]
    rows += [{**one, "state": "reboot"} for one in _each(document, "reboot")]
    return rows + [{**one, "state": str(one.get("state"))} for one in _each(document, "no_answer")]


def _what(document: Document) -> str:
    schema = str(document.get("schema", "")).partition("/")[0]
    return {"bnbenv.fleet-plan": "Plan", "bnbenv.fleet-check": "Check"}.get(schema, "Rollout")


def _head(document: Document) -> str:
    facts = [
        ("project", document.get("project")),
        ("inventory", ", ".join(map(str, _listed(document.get("inventory"))))),
        ("started", document.get("started") or document.get("created")),
        ("took", _duration(document.get("seconds"))),
        ("bnbenv", document.get("bnbenv")),
    ]
    shown = "".join(f"<dt>{name}</dt><dd>{_said(value)}</dd>" for name, value in facts if value)
    return f"<dl>{shown}</dl>\n" if shown else ""


def _summary(document: Document, counts: Counter[str], rows: Sequence[Document]) -> str:
    lines = []
    if document.get("dry_run"):
        lines.append("<p><strong>Only asked: no host was changed.</strong></p>")
    ended = str(document.get("ended") or "")
    if ended and ended != "done":
        how = "bad" if ended == "stopped" else "wait"
        because = document.get("because")
        lines.append(f'<p><strong class="mark {how}">{_said(ended)}</strong> {_said(because or "")}</p>')
    kinds = sum(1 for _ in _each(document, "classes"))
    among = f" in {_number(kinds, 'class', 'classes')}" if _what(document) != "Check" else ""
    lines.append(f"<p>{_number(len(rows), 'host')}{among}.</p>")
    new = len(_listed(document.get("bootstrapped")))
    lines += [f"<p>bnbenv itself was installed on {_number(new, 'host')}.</p>"] if new else []
    chips = [
        f'<li><a class="{_kind(state)}" href="#state-{_anchor(state)}">{counts[state]} {_called(state)}</a></li>'
        for state in _ordered(counts)
    ]
    lines += [f'<ul class="counts" aria-label="hosts by state">{"".join(chips)}</ul>'] if chips else []
    lines += _one_lock(document)
    again = document.get("run_again") or document.get("next_step")
    lines += [f'<p>next:</p><pre tabindex="0" aria-label="command">{_said(again)}</pre>'] if again else []
    return f'<section aria-labelledby="summary"><h2 id="summary">Summary</h2>\n{chr(10).join(lines)}\n</section>\n'


def _one_lock(document: Document) -> list[str]:
    """Of a plan with ``--one-lock``: the combination, and which hosts stand in its way."""
    found = document.get("one_lock")
    if not isinstance(found, Mapping):
        return []
    pins = "; ".join(_said(f"{one.get('env')}: {_pins(one)}") for one in _each(found, "pins")) or "none"
    whose = "all hosts" if found.get("fits_all") else "all but those below"
    lines = [f"<p>One lock for {whose}: {pins}</p>"]
    for one in _each(found, "in_the_way"):
        said = "<br>".join(_refused(why) for why in _each(one, "why"))
        who = _listed(one.get("hosts"))
        names = ", ".join(map(_said, who[:20])) + (f" and {len(who) - 20} more" if who[20:] else "")
        lines.append(f"<p>in the way: {_said(one.get('title', ''))} ({names})<br>{said}</p>")
    return lines


def _pins(one: Document) -> str:
    own = f"{one.get('package')} {one.get('version')}, " if one.get("package") else ""
    return f"{own}torch {one.get('torch')}, Python {one.get('python')}"


def _refused(one: Document) -> str:
    """Why nothing fits an environment, and the first things that would change it, escaped."""
    because = "; ".join(str(part.get("because")) for part in _each(one, "conflict")) or one.get("because") or "nothing"
    lines = [f"{_said(one.get('env', ''))}: {_said(because)}"]
    for option in list(_each(one, "options"))[:3]:
        command = f": <code>{_said(option['command'])}</code>" if option.get("command") else ""
        lines.append(f'<span class="soft">would help: {_said(option.get("change", ""))}</span>{command}')
    return "<br>".join(lines)


def _reboots(rows: Iterable[Document]) -> str:
    names = [str(row.get("host", "")) for row in rows if row["state"] == "reboot"]
    if not names:
        return ""
    return (
        f'<section aria-labelledby="reboots"><h2 id="reboots">To be rebooted: {_number(len(names), "host")}</h2>\n'
        "<p>A reboot is due since their driver was upgraded. The list can be copied, for reboots and for --limit.</p>\n"
        f'<pre tabindex="0" aria-label="hosts to be rebooted">{",".join(map(_said, names))}</pre>\n</section>\n'
    )


def _classes(document: Document) -> str:
    kinds = list(_each(document, "classes"))
    if not kinds:
        return ""
    lines = []
    for one in kinds:
        states = ", ".join(f"{row.get('hosts')} {_called(row.get('state'))}" for row in _each(one, "states"))
        cells = {"hosts": str(_how_many(one.get("hosts"))), "gets": _gets(one), "how it went": states}
        if not states:
            del cells["how it went"]
        shown = "".join(f'<td data-head="{head}">{text}</td>' for head, text in cells.items())
        lines.append(f'<tr><th scope="row">{_said(one.get("title", ""))} <code>{_said(one.get("id", ""))}</code></th>')
        lines.append(f"{shown}</tr>")
    went = any(True for one in kinds for _ in _each(one, "states"))
    heads = ["class", "hosts", "gets", *(["how it went"] if went else [])]
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        '<section aria-labelledby="kinds"><h2 id="kinds">Classes</h2>\n'
        f'<div id="scroll"><table id="classes"><thead><tr>{top}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>\n</section>\n"
    )


def _gets(kind: Document) -> str:
    """What a class gets, by environment; or why it gets nothing."""
    lines = []
    for one in _each(kind, "gets"):
        said = _choice(one.get("choice"))
        lines.append(f"{_said(one.get('env', ''))}: {said}" if said else _refused(one))
    content = kind.get("content")
    if isinstance(content, Mapping) and content.get("sha256"):
        size = f", {_size(content['size'])}" if isinstance(content.get("size"), (int, float)) else ""
        lines.append(f'<span class="soft">bundle <code>{_said(str(content["sha256"])[:12])}</code>{size}</span>')
    error = kind.get("error")
    if isinstance(error, Mapping):
        step = f" next: {_said(error.get('next_step'))}" if error.get("next_step") else ""
        lines.append(f'<span class="mark bad">{_said(error.get("message", ""))}</span>{step}')
    if kind.get("halted_by"):
        lines.append(f'<span class="mark bad">stopped by {_said(kind["halted_by"])}</span>')
    return "<br>".join(lines)


def _choice(choice: object) -> str:
    """``bitsandbytes 0.50.2, torch 2.15.0 (CUDA 13.2), Python 3.12``, escaped."""
    if not isinstance(choice, Mapping):
        return ""
    parts = []
    wheel, torch = choice.get("bitsandbytes"), choice.get("torch")
    if isinstance(wheel, Mapping):
        parts.append(f"bitsandbytes {wheel.get('version')}")
    parts += [f"{one.get('name')} {one.get('version')}" for one in _each(choice, "packages")]
    if isinstance(torch, Mapping):
        cuda = f"CUDA {torch['cuda']}" if torch.get("cuda") else "CPU"
        parts.append(f"torch {torch.get('version')} ({cuda})")
    parts += [f"Python {choice['python']}"] if choice.get("python") else []
    return _said(", ".join(parts))


def _remarks(document: Document) -> str:
    """What a plan passed over."""
    lines = "".join(
        f"<li>{_said(one.get('host', ''))}: {_said(one.get('because', ''))}</li>" for one in _each(document, "remarks")
    )
    return (
        f'<section aria-labelledby="remarks"><h2 id="remarks">Passed over</h2><ul>{lines}</ul></section>\n'
        if lines
        else ""
    )


def _hosts(document: Document, rows: Sequence[Document]) -> str:
    if not rows:
        return ""
    titles = {str(one.get("id")): str(one.get("title", "")) for one in _each(document, "classes")}
    states: dict[str, dict[tuple[str, str, str], list[Document]]] = {}
    for row in rows:
        key = (str(row.get("class") or ""), str(row.get("because") or ""), str(row.get("next_step") or ""))
        states.setdefault(row["state"], {}).setdefault(key, []).append(row)
    parts = [
        '<section aria-labelledby="hosts"><h2 id="hosts">Hosts</h2>\n<p class="screen" hidden><label for="filter">'
        'Show only hosts with</label><input id="filter" type="search" autocomplete="off" spellcheck="false"> '
        '<span id="shown" aria-live="polite"></span></p>\n'
    ]
    for state in _ordered(states):
        groups = states[state]
        count = sum(map(len, groups.values()))
        parts.append(f'<section class="state" aria-labelledby="state-{_anchor(state)}">')
        parts.append(f'<h3 id="state-{_anchor(state)}"><span class="mark {_kind(state)}">{_called(state)}</span> ')
        parts.append(f"{_number(count, 'host')}</h3>\n")
        parts += [_group(key, some, titles) for key, some in groups.items()]
        parts.append("</section>\n")
    return "".join([*parts, "</section>\n"])


def _group(key: tuple[str, str, str], rows: Sequence[Document], titles: Mapping[str, str]) -> str:
    """Hosts of one class that have the same to say."""
    kind, because, next_step = key
    said = [f"<p>{_said(because)}</p>"] if because else []
    said += [f'<p class="soft">next: {_said(next_step)}</p>'] if next_step else []
    said += [f'<p class="soft">{_said(titles[kind])}</p>'] if kind in titles else []
    names = "".join(f"<li>{_said(row.get('host', ''))}{_remark(row)}</li>" for row in rows)
    words = _said(f"{because} {next_step} {titles.get(kind, '')} {kind}")
    return f'<div class="group" data-words="{words}">{"".join(said)}<ul class="host-list">{names}</ul></div>\n'


def _remark(row: Document) -> str:
    back = ", ".join(map(str, _listed(row.get("rolled_back"))))
    remarks = [*(["canary"] if row.get("canary") else []), *([f"switched back: {back}"] if back else [])]
    return f" ({_said(', '.join(remarks))})" if remarks else ""


def _made_by(document: Document) -> str:
    version = document.get("bnbenv")
    more = "nothing on this page is asked from elsewhere"
    return f"Written by bnbenv{f' {_said(version)}' if version else ''}; {more}."


def _each(document: Document, name: str) -> Iterator[Document]:
    """The objects of a list, if it is one."""
    return (one for one in _listed(document.get(name)) if isinstance(one, Mapping))


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _how_many(value: object) -> int:
    """``hosts`` of a class: a number, or their names."""
    return value if isinstance(value, int) else len(_listed(value))


def _ordered(states: Iterable[str]) -> list[str]:
    known = list(STATES)
    return sorted(states, key=lambda state: (known.index(state) if state in known else -1, state))


def _called(state: object) -> str:
    return _said(STATES.get(str(state), (str(state), ""))[0])


def _kind(state: str) -> str:
    return STATES.get(state, ("", "bad"))[1]


def _anchor(state: str) -> str:
    return "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in state[:40])


def _number(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _duration(seconds: object) -> str:
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 <= seconds < 1e9:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _said(value: object) -> str:
    """A text to look at: escaped, without signs that turn or hide what stands beside them, and not too long."""
    text = str(value)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    if not text.isprintable():
        text = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return escape(text)
