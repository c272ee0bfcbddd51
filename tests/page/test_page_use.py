"""The page in a real Chromium, as people use it: by keyboard, on a phone, in the dark, on paper, with a link."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("page")  # one page and one browser for all

# Of a mixed box: with cells of every kind.
MIXED = (
    "#platform=linux-x86_64&driver=575.51.03&gpu=sm_70:Tesla+V100-SXM2-32GB&gpu=sm_86&libc=glibc-2.31&cell=0.46.1,12.8"
)
LATER = "#platform=windows-x86_64&driver=581.57&gpu=sm_103"

STATES = "[...new Set([...document.querySelectorAll('#grid button')].map((one) => one.className))].sort()"


@pytest.fixture
def tab(browser: Any, page_file: Path) -> Iterator[Callable[..., Any]]:
    """``tab(fragment)`` opens the page; whatever is done, no error is told and nothing is asked from elsewhere."""
    address = page_file.as_uri()
    browser.width(1280)
    browser.media()

    def load(fragment: str = "") -> Any:
        browser.open(address + fragment)
        return browser

    yield load
    browser("0")  # what was told until now is here
    told = [event for event in browser.events if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
    told += [event for event in browser.events if event["method"] == "Runtime.consoleAPICalled"]
    assert told == []
    asked = {
        event["params"]["request"]["url"].partition("#")[0]
        for event in browser.events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert asked <= {address, "about:blank"}


def focused(page: Any) -> str:
    return str(
        page("document.activeElement.id || document.activeElement.dataset.key || document.activeElement.tagName")
    )


def text_of(page: Any, name: str) -> str:
    return str(page(f"document.getElementById({json.dumps(name)}).innerText"))


def test_by_keyboard_alone(tab: Callable[..., Any]) -> None:
    page = tab("#platform=linux-x86_64")
    order = []
    for _ in range(7):
        page.press("Tab")
        order.append(focused(page))
    assert order == ["platform", "driver", "state", "libc-name", "libc", "torch", "search"]
    page.type("rtx 5090")
    assert "found" in text_of(page, "search-hint")
    page.press("Enter")
    assert page("picks.gpus") == [{"arch": "sm_120", "name": "GeForce RTX 5090"}]
    assert focused(page) == "search"
    for _ in range(5):
        page.press("Shift+Tab")
    page("document.getElementById('driver').select()")
    page.type("535.183.01")
    assert "cannot be used: driver 535.183.01 does not support Blackwell" in text_of(page, "choice")
    page("document.getElementById('driver').select()")
    page.type("580.65.06")
    assert "bnbenv sync --torch" in text_of(page, "choice")
    assert page("byId('said').ariaLive + byId('said').textContent").startswith("polite" + "bitsandbytes 0.")
    for _ in range(20):
        if focused(page).count(","):
            break
        page.press("Tab")
    first = focused(page)
    assert first.count(",") == 1
    page.press("ArrowDown", "ArrowRight", "End", "Home", "ArrowDown", "ArrowLeft", "ArrowUp")
    here = focused(page)
    assert here.count(",") == 1 and here != first
    assert page("document.querySelectorAll('#grid [tabindex=\"0\"]').length") == 1
    page.press("Enter")
    version, _, column = here.partition(",")
    assert f"bitsandbytes {version}, CUDA {column}" in text_of(page, "detail")
    assert page("document.activeElement.getAttribute('aria-pressed')") == "true"
    assert page("byId('said').textContent").startswith(f"bitsandbytes {version}, CUDA {column}. ")
    page.press("Escape")
    assert page("document.getElementById('detail').hidden") is True
    assert focused(page) == here


def test_a_table_with_heads_and_cells_that_say_what_they_are(tab: Callable[..., Any]) -> None:
    page = tab(MIXED)
    assert page(STATES) == ["good", "idle", "no", "override"]
    heads = page("[...document.querySelectorAll('#grid th')].map((one) => one.scope)")
    assert set(heads) == {"col", "row"}
    signs = page(
        "Object.fromEntries([...document.querySelectorAll('#grid button')]"
        ".map((one) => [one.className, one.textContent.trim()[0]]))"
    )
    assert len(set(signs.values())) == len(signs)  # not by colour alone
    labels = page("[...document.querySelectorAll('#grid button')].map((one) => one.getAttribute('aria-label'))")
    assert all(label.startswith("bitsandbytes 0.") and ": " in label for label in labels)
    detail = text_of(page, "detail")
    assert (
        "libbitsandbytes_cuda128.so of bitsandbytes 0.46.1 has no code for GPU 0 (Tesla V100-SXM2-32GB, sm_70)"
        in detail
    )
    assert "measured 20" in detail and "sha256:" in detail
    assert page("document.querySelectorAll('input:not([aria-label]), select:not([aria-label])').length") > 0
    unnamed = (
        "[...document.querySelectorAll('input, select')].filter((one) => !one.labels.length && !one.ariaLabel).length"
    )
    assert page(unnamed) == 0


@pytest.mark.parametrize("fragment", [MIXED, LATER, "#platform=macos-aarch64"])
def test_on_a_phone_the_page_does_not_scroll_sideways(fragment: str, tab: Callable[..., Any]) -> None:
    page = tab(fragment)
    page.width(360, 740)
    page("document.getElementById('as-list').click()")
    assert page("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    assert page("document.getElementById('scroll').clientWidth") <= 360
    small = "[...document.querySelectorAll('select, input:not([type=checkbox]), #grid button')]"
    small += ".filter((one) => one.checkVisibility())"
    assert page(f"Math.min(...{small}.map((one) => one.getBoundingClientRect().height))") >= 24


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_in_the_dark(scheme: str, tab: Callable[..., Any]) -> None:
    page = tab(MIXED)
    page.media("", scheme)
    page("document.getElementById('as-list').click()")
    page("byId('legend').append(...Object.keys(STATES).map((state) => make('li', { class: state }, state)))")
    ratio, what, count = page.contrast()
    assert count > 300 and ratio >= 4.5, what
    ground = page("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


def test_on_paper_every_reason_is_listed(tab: Callable[..., Any]) -> None:
    page = tab(MIXED)
    page.media("print", "dark")
    assert page("getComputedStyle(document.getElementById('picks')).display") == "none"
    assert text_of(page, "summary").startswith(
        "Linux on x86-64, driver 575.51.03, Tesla V100-SXM2-32GB (sm_70) + sm_86, glibc"
    )
    listed = text_of(page, "list-body")
    cells = "result.rows.flatMap((row) => row.cells)"
    wanted = page(f"{cells}.flatMap((cell) => toldAll(cell.against || [])).map((one) => one.because)")
    assert len(wanted) > 100
    assert [reason for reason in set(wanted) if reason not in listed] == []
    ratio, what, _ = page.contrast()
    assert ratio >= 4.5, what
    pdf = b64decode(page.send("Page.printToPDF", preferCSSPageSize=True)["data"])
    assert pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page\n") > 3


def test_a_link_brings_back_what_was_picked(tab: Callable[..., Any]) -> None:
    page = tab(MIXED)
    before = text_of(page, "choice"), text_of(page, "detail"), text_of(page, "grid")
    link = page("location.hash")
    assert tab(LATER)("picks.platform") == "windows-x86_64"
    page = tab(link)
    assert (text_of(page, "choice"), text_of(page, "detail"), text_of(page, "grid")) == before
    page("document.getElementById('torch').value = '2.8.0@default'")
    page("document.getElementById('torch').dispatchEvent(new Event('change'))")
    assert "torch=2.8.0%40default" in page("location.hash")
    page(
        "new Promise((done) => { addEventListener('hashchange', () => setTimeout(done)); "
        "location.hash = '#platform=macos-aarch64'; })"
    )
    assert page("[picks.platform, result.columns.join()]") == ["macos-aarch64", "CPU"]


def test_a_link_with_anything_in_it_does_no_harm(tab: Callable[..., Any]) -> None:
    for fragment in (
        "#platform=beos&driver=x&state=__proto__&libc=glibc-9.9.9.9.9&torch=1&cell=9,9&gpu=sm_0",
        "#gpu=sm_90:<img src=x onerror=alert(1)>&driver=%00&cell=%22]&libc=musl-1",
        "#%E0%A4%A&&==&platform=linux-x86_64&platform=x&driver=99999999",
    ):
        page = tab(fragment)
        assert page("document.querySelectorAll('#grid button').length") > 20
        assert page("document.images.length") == 0


@pytest.mark.parametrize(
    ("fragment", "compiles"),
    [("#platform=linux-x86_64&driver=535.183.01&gpu=sm_70&libc=glibc-2.17", True), ("#platform=macos-x86_64", False)],
)
def test_where_no_wheel_fits_it_says_whether_one_might_be_compiled(
    fragment: str, compiles: bool, tab: Callable[..., Any]
) -> None:
    said = tab(fragment)("byId('choice-body').textContent")
    assert ("says whether bitsandbytes can be compiled for it" in said) == compiles, said


def test_the_policy_of_the_page_forbids_the_network(browser: Any, page_file: Path) -> None:
    browser.open(page_file.as_uri())
    tried = browser(
        """new Promise((done) => {
          const seen = [];
          addEventListener("securitypolicyviolation", (event) => {
            seen.push(event.effectiveDirective);
            if (seen.length === 3) done([seen.sort(), typeof hit]);
          });
          fetch("https://elsewhere.invalid/x").catch(() => {});
          new Image().src = "https://elsewhere.invalid/x.png";
          document.body.append(Object.assign(document.createElement("script"), { textContent: "window.hit = 1" }));
          setTimeout(() => done(seen), 20000);
        })"""
    )
    assert tried == [["connect-src", "img-src", "script-src-elem"], "undefined"]
