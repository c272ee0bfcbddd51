"""The project that scripts/soak.py shoots at: bnbenv in it, its environment's Python, its wheels, its processes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENV = "bnb"
BNBENV = (sys.executable, "-m", "bnbenv")
PATIENCE = 600.0  # seconds that any one command may take
QUANTIZE = """\
import bitsandbytes.functional as F, torch
torch.manual_seed(0)
rows = torch.randn(64, 64)
packed, state = F.quantize_4bit(rows, quant_type="nf4")
error = (F.dequantize_4bit(packed, state) - rows).abs().mean().item()
assert 0 < error < 0.1, error  # the mean error of NF4 on normal values is 0.073
"""


class Broken(Exception):
    """What was found wrong after a kill."""


@dataclass(frozen=True)
class Project:
    """The folder under fire, and bnbenv in it."""

    root: Path
    environ: dict[str, str]

    @property
    def generations(self) -> Path:
        return self.root / ".bnbenv" / "generations" / ENV

    @property
    def link(self) -> Path:
        return self.root / f".venv-{ENV}"

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*BNBENV, *words, "--json"],
            cwd=self.root,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, codes: tuple[int, ...] = (0,)) -> Any:
        """The document of a command that has to end with one of these codes. Raises Broken."""
        process = self.start(*words)
        out, err = process.communicate(timeout=PATIENCE)
        if process.returncode not in codes:
            raise Broken(f"{' '.join(words)} ended with {process.returncode}: {err.strip()}")
        return json.loads(out)

    def python(self, code: str) -> None:
        """Run the environment's own Python, with nothing activated."""
        words = [str(self.link / "bin" / "python"), "-c", code]
        try:
            done = subprocess.run(
                words, env=self.environ, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        except OSError as error:
            raise Broken(f"the environment's Python cannot be started: {error}") from None
        if done.returncode:
            raise Broken(f"the environment's Python ended with {done.returncode}: {done.stderr.strip()[-2000:]}")

    def leftovers(self) -> list[str]:
        """What a run that was killed may leave and the next sync has to delete."""
        found = [path.name for path in self.root.iterdir() if ".new-" in path.name or path.name.endswith(".part")]
        found += [path.name for path in (self.root / ".bnbenv").iterdir() if path.name.endswith(".part")]
        finished = {path.stem for path in self.generations.glob("[0-9]*.json")}
        return found + [p.name for p in self.generations.iterdir() if p.name.split(".")[0] not in finished]

    def next_number(self) -> int:
        names = [path.name.split(".")[0] for path in self.generations.iterdir()]
        return max((int(name) for name in names if name.isdecimal()), default=0) + 1

    def wish(self, version: str) -> None:
        """Ask for another version of a tiny package, so that the next sync has to lock anew."""
        text = f'[envs.{ENV}]\nrequirements = ["soaktiny=={version}"]\n[sources]\nfind-links = ["wheels"]\n'
        (self.root / "bnbenv.toml").write_text(text)


def digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def make_wheel(folder: Path, version: str) -> None:
    info = f"soaktiny-{version}.dist-info"
    files = {
        "soaktiny.py": f"VERSION = '{version}'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: soaktiny\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: soak\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{name},sha256={digest(text)},{len(text)}\n" for name, text in files.items()]
    files[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"])
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"soaktiny-{version}-py3-none-any.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)


def descendants(pid: int) -> dict[int, str]:
    """The processes below one, with their command lines."""
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        with contextlib.suppress(OSError):
            for file in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
                for child in map(int, file.read_text().split()):
                    found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
                    waiting.append(child)
    return found
