"""The report of a rollout in a real Chromium: by keyboard, on a phone, in the dark, on paper, with 10,000 hosts."""

from __future__ import annotations

import re
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bnbenv.fleet.report import page

pytestmark = pytest.mark.xdist_group("page")  # one browser for all

LIE = '</script><img src=x onerror="document.title=1">\x1b[31m\u202e'


def rollout(hosts: int = 40) -> dict[str, Any]:
    """A document of every state, and of a host that lies."""
    states = ("changed", "in-sync", "in-use", "reboot", "verify-failed", "unreachable", "not-tried")
    choice = {"python": "3.12", "torch": {"version": "2.14.1", "cuda": "13.0"}, "bitsandbytes": {"version": "0.50.2"}}
    gets = [{"env": "bnb", "backend": "cuda", "choice": choice, "because": "", "lock": "b" * 64}]
    content = {"sha256": "a" * 64, "size": 293_800_000}
    rows: list[dict[str, Any]] = [
        {
            "host": f"node{number:05}",
            "class": f"{number % 5:012x}",
            "state": states[number % len(states)],
            "because": "" if number % 7 < 2 else f"a reason of kind {number % 7}",
            "next_step": "" if number % 7 < 2 else "Run it again",
            "canary": number < 5,
            "rolled_back": [],
        }
        for number in range(hosts)
    ]
    rows.append({"host": LIE, "class": None, "state": "bad-answer", "because": LIE, "next_step": LIE, "canary": False})
    kinds = [
        {"id": f"{kind:012x}", "title": f"NVIDIA H{kind}00 (sm_90), driver 580.65.06, glibc 2.36", "hosts": hosts // 5}
        | {"gets": gets, "content": content, "error": None, "halted_by": ""}
        | {"states": [{"state": "changed", "hosts": hosts // 7}]}
        for kind in range(5)
    ]
    return {
        "schema": "bnbenv.fleet-sync/1",
        "bnbenv": "0.1.0",
        "project": "/srv/qlora",
        "inventory": ["hosts.ini"],
        "started": "2026-11-22T02:00:00+00:00",
        "seconds": 312.4,
        "ended": "stopped",
        "because": "5 hosts failed, and 4 may fail (--max-failures)",
        "classes": kinds,
        "hosts": rows,
        "run_again": "bnbenv fleet sync -i hosts.ini",
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    for hosts in (40, 10_000):
        (folder / f"{hosts}.html").write_text(page(rollout(hosts)), encoding="utf-8")
    return folder


@pytest.fixture
def tab(browser: Any, files: Path) -> Iterator[Callable[..., Any]]:
    """``tab(hosts)`` opens the page; no error is told, and nothing is asked from elsewhere."""
    browser.width(1280)
    browser.media()

    def load(hosts: int = 40) -> Any:
        browser.open((files / f"{hosts}.html").as_uri())
        return browser

    yield load
    browser("0")
    noisy = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
    assert [event for event in browser.events if event["method"] in noisy] == []
    asked = [event["params"]["request"]["url"] for event in browser.events if "requestWillBeSent" in event["method"]]
    assert [url for url in asked if not url.startswith(("file://", "about:"))] == []


def test_what_a_host_says_is_shown_and_not_obeyed(tab: Callable[..., Any]) -> None:
    shown = tab()
    assert shown("document.images.length") == 0
    assert shown("document.title") == "Rollout of bnbenv: qlora"
    text = shown("document.body.innerText")
    assert "</script><img src=x" in text and "\\x1b[31m\\u202e" in text
    assert "\x1b" not in text and "\u202e" not in text


def test_by_keyboard_to_a_state_and_to_a_host(tab: Callable[..., Any]) -> None:
    shown = tab()
    shown.press("Tab")
    assert shown("document.activeElement.textContent") == "6 failed verification"  # the worst first
    shown.press("Enter")
    assert shown("location.hash") == "#state-verify-failed"
    for _ in range(20):
        if shown("document.activeElement.id") == "filter":
            break
        shown.press("Tab")
    shown.type("node00003 reason")
    assert shown("document.getElementById('shown').textContent") == "1 host"
    seen = "[...document.querySelectorAll('.host-list li')].filter((one) => one.checkVisibility())"
    assert shown(f"{seen}.map((one) => one.textContent)") == ["node00003 (canary)"]
    assert shown("document.querySelectorAll('input:not([aria-label])')[0].labels.length") == 1
    assert shown("new Set([...document.querySelectorAll('[id]')].map((one) => one.id)).size") == shown(
        "document.querySelectorAll('[id]').length"
    )


def test_hosts_to_be_rebooted_are_one_list_to_copy(tab: Callable[..., Any]) -> None:
    listed = tab()("document.querySelector('[aria-label=\"hosts to be rebooted\"]').innerText")
    assert listed == ",".join(f"node{number:05}" for number in range(3, 40, 7))


def test_on_a_phone_nothing_lies_beside_the_screen(tab: Callable[..., Any]) -> None:
    shown = tab()
    shown.width(360, 740)
    assert shown("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    assert shown("Math.min(...[...document.querySelectorAll('a, input')].map((one) => one.offsetHeight))") >= 24
    assert "hosts: 8" in shown("getComputedStyle(document.querySelector('td'), '::before').content").replace(
        '"', ""
    ) + shown("document.querySelector('td').innerText")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_in_the_dark(scheme: str, tab: Callable[..., Any]) -> None:
    shown = tab()
    shown.media("", scheme)
    ratio, what, count = shown.contrast()
    assert count > 100 and ratio >= 4.5, what
    assert (shown("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)") == (scheme == "light")


def test_on_paper_every_host_is_there(tab: Callable[..., Any]) -> None:
    shown = tab()
    shown.media("print", "dark")
    assert shown("document.getElementById('filter').checkVisibility()") is False
    names = re.findall(r"node\d{5}", shown("document.getElementById('hosts').parentElement.innerText"))
    assert sorted(set(names)) == [f"node{number:05}" for number in range(40)]
    ratio, what, _ = shown.contrast()
    assert ratio >= 4.5, what
    assert b64decode(shown.send("Page.printToPDF", preferCSSPageSize=True)["data"]).startswith(b"%PDF")


def test_ten_thousand_hosts(tab: Callable[..., Any], files: Path) -> None:
    assert (files / "10000.html").stat().st_size < 1_500_000
    shown = tab(10_000)
    assert shown("document.querySelectorAll('.host-list li').length") == 10_001
    # Reading and laying out, as the browser itself timed it; generous, since others use the machine too.
    assert shown("performance.timing.loadEventEnd - performance.timing.responseStart") < 10_000
    shown("document.getElementById('filter').focus()")
    began = time.monotonic()
    shown.type("node09999")
    assert shown("document.getElementById('shown').textContent") == "1 host"
    assert time.monotonic() - began < 10
