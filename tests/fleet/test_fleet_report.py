"""The page of a plan or a rollout: what it says, whatever is missing, and whatever hosts say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bnbenv.fleet.report import page

SCREENS = Path(__file__).parent.parent / "cli" / "screens"

PLAN: dict[str, Any] = {
    "schema": "bnbenv.fleet-plan/1",
    "project": "/srv/qlora",
    "environments": ["bnb"],
    "asked": True,
    "hosts": 3,
    "classes": [
        {
            "id": "0123456789ab",
            "title": "NVIDIA H200 (sm_90), driver 580.65.06, glibc 2.36",
            "hosts": [{"host": "a", "state": "in-sync"}, {"host": "b", "state": "change"}],
            "gets": [
                {
                    "env": "bnb",
                    "backend": "cuda",
                    "choice": {
                        "python": "3.12",
                        "torch": {"version": "2.14.1", "cuda": "13.0", "source": "default-index"},
                        "bitsandbytes": {"version": "0.50.2"},
                        "packages": [],
                    },
                    "notes": [],
                    "conflict": [],
                    "options": [],
                }
            ],
        },
        {
            "id": "ba9876543210",
            "title": "Tesla K80 (sm_37)",
            "hosts": [{"host": "old", "state": "none"}],
            "gets": [
                {
                    "env": "bnb",
                    "backend": None,
                    "choice": None,
                    "notes": [],
                    "conflict": [{"rule": "gpu", "because": "no torch has code for sm_37", "source": "matrix"}],
                    "options": [
                        {"change": "leave out GPU 0", "gives": "", "command": "bnbenv sync --backend cpu"},
                        {"change": "another GPU", "gives": "", "command": None},
                    ],
                }
            ],
        },
    ],
    "left_out": [
        {"host": "down", "code": "unreachable", "because": "no route", "next_step": "Look at it"},
        {"host": "half", "code": "reboot-required", "because": "the driver was upgraded", "next_step": "Reboot it"},
    ],
    "remarks": [{"host": "b", "because": "GPU 1 does not answer"}],
    "one_lock": {
        "fits_all": False,
        "pins": [{"env": "bnb", "torch": "2.14.1", "package": "bitsandbytes", "version": "0.50.2", "python": "3.12"}],
        "hosts": ["old"],
        "in_the_way": [
            {
                "id": "ba9876543210",
                "title": "Tesla K80 (sm_37)",
                "hosts": ["old"],
                "why": [{"env": "bnb", "conflict": [{"because": "no code for sm_37"}], "options": []}],
            }
        ],
    },
}


class Seen(HTMLParser):
    """The elements of a page with the names of their attributes, and what is to be read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: Counter[tuple[str, ...]] = Counter()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        key = (tag, *(name for name, _ in attrs))
        self.elements[key] += 1

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_plan_has_what_each_class_gets_and_every_host() -> None:
    text = Seen(page(PLAN)).text
    for said in (
        "Plan of bnbenv: qlora",
        "5 hosts in 2 classes",
        "1 nothing fits",
        "bnb: bitsandbytes 0.50.2, torch 2.14.1 (CUDA 13.0), Python 3.12",
        "bnb: no torch has code for sm_37",
        "would help: leave out GPU 0",
        "To be rebooted: 1 host",
        "in the way: Tesla K80 (sm_37) (old)",
        "GPU 1 does not answer",
        "no route",
    ):
        assert said in text, said


@pytest.mark.parametrize("path", sorted(SCREENS.glob("fleet-[cps]*.json")), ids=lambda path: str(path.stem))
def test_every_host_of_a_sample_document_is_on_its_page(path: Path) -> None:
    document = json.loads(path.read_text())
    if document["schema"] == "bnbenv.fleet-collection/1":
        return
    text = Seen(page(document)).text
    named = ("host", "not_in_sync", "hosts_in_sync")
    hosts = {value for key, value in leaves(document) if key in named}
    assert [name for name in hosts if name not in text] == []
    if document["schema"] == "bnbenv.fleet-check/1":
        assert f"{document['hosts']} hosts." in text and text.startswith("Check of bnbenv", text.index("Check"))


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, one in value.items():
            yield from leaves(one, name)
    elif isinstance(value, list):
        for one in value:
            yield from leaves(one, key)
    else:
        yield key, value


def altered(value: Any, change: Any, keep: tuple[str, ...] = ("schema",)) -> Any:
    if isinstance(value, dict):
        return {key: one if key in keep else altered(one, change) for key, one in value.items()}
    if isinstance(value, list):
        return [altered(one, change) for one in value]
    return change(value)


def test_no_text_becomes_a_part_of_the_page() -> None:
    lie = "\"'><script>alert(1)</script><b onclick=x>\x1b]0;x\x07\u202e\ud800</style>"
    plain = page(altered(PLAN, lambda one: "word" if isinstance(one, str) else one))
    lying = page(altered(PLAN, lambda one: lie if isinstance(one, str) else one))
    assert Seen(lying).elements == Seen(plain).elements
    assert not set("\x1b\x07\u202e\ud800") & set(lying)
    lying.encode()


def every_part(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in parts:
        yield (*path, key)
        yield from every_part(one, (*path, key))


@pytest.mark.parametrize("wrong", [None, 7, "text", [], {}, [7], {"a": 1}])
def test_whatever_is_missing_or_of_another_kind_the_rest_is_shown(wrong: Any) -> None:
    check = json.loads((SCREENS / "fleet-check-apart.json").read_text())
    for given, path in ((one, path) for one in (PLAN, check) for path in every_part(one)):
        document = json.loads(json.dumps(given))
        inner = document
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = wrong
        assert page(document).endswith("</html>\n"), path
    assert "0 hosts in 0 classes" in Seen(page({})).text


def test_a_plan_writes_its_page_where_it_is_asked_to(tmp_path: Path, tool_environ: dict[str, str]) -> None:
    hosts = tmp_path / "facts"
    hosts.mkdir()
    for name, recorded in {
        "gpu-1": "linux-x86_64__580.65.06__h200-sm90",
        "half": "linux-x86_64__mismatch__nogpu",
    }.items():
        shutil.copy(SCREENS.parent.parent / "hosts" / recorded / "facts.json", hosts / f"{name}.json")
    words = [sys.executable, "-m", "bnbenv", "fleet", "plan", "--facts", str(hosts), "--shipped", "--html"]

    def run(file: str) -> subprocess.CompletedProcess[str]:
        command = [*words, str(tmp_path / file)]
        return subprocess.run(command, cwd=tmp_path, env=tool_environ, capture_output=True, text=True, check=False)

    assert run("plan.html").returncode == 3
    text = Seen((tmp_path / "plan.html").read_text()).text
    assert "To be rebooted: 1 host" in text and "gpu-1" in text
    refused = run("nowhere/plan.html")
    assert refused.returncode == 2 and "error: --html: " in refused.stderr
