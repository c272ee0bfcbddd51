"""What the tests of the page share: the page, and a real Chromium that is driven by its DevTools protocol on a pipe."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli import main

_NAMES = ("chromium-headless-shell", "chromium", "google-chrome", "chromium-browser", "chrome")
_OPTIONS = (
    "--remote-debugging-pipe",
    "--headless",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # nothing could be reached
)
# The browser reads commands from its file 3 and writes answers to its file 4.
_ON_3_AND_4 = """\
import fcntl, os, sys
reading, writing = (fcntl.fcntl(int(word), fcntl.F_DUPFD, 10) for word in sys.argv[1:3])
os.dup2(reading, 3), os.dup2(writing, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39}
KEYS |= {"ArrowDown": 40, "Escape": 27}

# The text of least contrast: the ratio of WCAG 2 with what lies behind each piece of text that is seen.
CONTRAST = """\
(() => {
  const parts = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
  const light = (color) => {
    const [r, g, b] = parts(color).map((part) => part / 255)
      .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor, alpha = parts(color)[3];
      if (alpha === undefined || alpha === 1) return color;
      if (alpha > 0) throw new Error(`translucent: ${one.outerHTML}`);
    }
    return "rgb(255, 255, 255)";
  };
  let worst = [21, ""], count = 0;
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!(own || node.matches("input")) || !node.checkVisibility()) continue;
    if (node.closest("option, datalist, .unseen")) continue;
    const pair = [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => a - b);
    const ratio = (pair[1] + 0.05) / (pair[0] + 0.05);
    count++;
    if (ratio < worst[0]) worst = [ratio, node.outerHTML.slice(0, 200)];
  }
  return [...worst, count];
})()"""


class Chromium:
    """One tab of a browser. ``events`` are what the browser told on its own, the oldest first."""

    def __init__(self, program: str, folder: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()

        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        ends = (ours[0], theirs[1])
        command = [sys.executable, "-c", _ON_3_AND_4, *map(str, ends), program, *_OPTIONS, *root]
        command += [f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(command, pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(ours[0])
        os.close(theirs[1])
        self._to, self._from, self._read = ours[1], theirs[0], b""
        self._count, self._session = 0, ""
        self.events: list[dict[str, Any]] = []
        target = next(one for one in self.send("Target.getTargets")["targetInfos"] if one["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command of the protocol."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        rest = json.dumps(message).encode() + b"\0"
        while rest:
            rest = rest[os.write(self._to, rest) :]
        while True:
            found = self._next()
            if found.get("id") == self._count:
                assert "error" not in found, (method, found["error"])
                result: dict[str, Any] = found["result"]
                return result
            self.events.append(found)

    def _next(self, seconds: float = 60) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._from], [], [], seconds)
            data = os.read(self._from, 1 << 20) if ready else b""
            assert data, "the browser went away or hangs"
            self._read += data
        text, _, self._read = self._read.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        return found

    def open(self, address: str) -> None:
        """Load a page and wait until it is there."""
        self.events.clear()
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=address)
        end = time.monotonic() + 60
        while self("document.readyState + document.documentElement?.dataset.ready") != "completeyes":
            assert time.monotonic() < end, self.events

    def __call__(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, *keys: str) -> None:
        """Keys as a person presses them."""
        for key in keys:
            plain = key.removeprefix("Shift+")
            how = {"key": plain, "windowsVirtualKeyCode": KEYS[plain], "modifiers": 8 if plain != key else 0}
            text = {"Enter": "\r", " ": " "}.get(plain)
            more = {"text": text} if text else {}
            self.send("Input.dispatchKeyEvent", type="keyDown", **how, **more)
            self.send("Input.dispatchKeyEvent", type="keyUp", **how)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def width(self, pixels: int, height: int = 800) -> None:
        """A screen of that width; of a phone below 600."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=pixels, height=height, deviceScaleFactor=1, mobile=pixels < 600
        )

    def media(self, kind: str = "", scheme: str = "light") -> None:
        """``print`` or the screen, light or dark."""
        self.send(
            "Emulation.setEmulatedMedia", media=kind, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def contrast(self) -> list[Any]:
        """The least contrast of any text that is seen, what that is, and how many texts there are."""
        found: list[Any] = self(CONTRAST)
        return found

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._to)
        os.close(self._from)


@pytest.fixture(scope="session")
def page_document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``bnbenv matrix html --json`` says of the page of the shipped rows, in a folder with an older one."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text('<!doctype html><meta name="generator" content="bnbenv 0.0.9">old')
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["matrix", "html", str(folder), "--shipped", "--json"]) == 0
    document: dict[str, Any] = json.loads(said.getvalue())
    return document


@pytest.fixture(scope="session")
def page_file(page_document: dict[str, Any]) -> Path:
    return Path(page_document["path"])


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium is here (Debian and Ubuntu: apt install {_NAMES[0]})")
    one = Chromium(program, tmp_path_factory.mktemp("chromium"))
    yield one
    one.close()
