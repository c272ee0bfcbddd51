#!/usr/bin/env python3
"""Has real programs print the failures that tests/doctor/printed holds, and writes what they print there.

usage: print_failures.py --python PYTHON [--wheels FOLDER] [--work FOLDER] [NAME ...]

PYTHON is an interpreter with a CPU build of torch (2.13 printed what is there); nothing is installed in it. What a
case needs besides is taken from the package index and laid before it with PYTHONPATH: some 9 GB unpacked, kept in
--work. A machine without a GPU prints all of it: where bitsandbytes is to believe in one, torch is told what to answer
(its CUDA version, that a GPU is there, its capability) by a ``sitecustomize``; the library that loads or does not,
and every word about it, is bitsandbytes' own. cases.toml says for each case what is installed, changed and run, and
the cause that the doctor must name. Paths, addresses and names of this machine are made neutral.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRINTED = Path(__file__).resolve().parent.parent / "tests" / "doctor" / "printed"
LIMIT = 300
ELF_MACHINE = 18  # offset of e_machine in an ELF header
AARCH64 = 183

# Run at interpreter start. Nothing but torch's answers is changed: bitsandbytes asks these and no others.
SITE = """
import os
if os.environ.get("PRINT_CUDA") or os.environ.get("PRINT_HIP"):
    import torch
    if os.environ.get("PRINT_HIP"):
        torch.version.hip = os.environ["PRINT_HIP"]
    else:
        torch.version.cuda = os.environ["PRINT_CUDA"]
    capability = tuple(int(part) for part in os.environ["PRINT_CAPABILITY"].split("."))
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_capability = lambda device=None: capability
    torch._C._cuda_getCurrentRawStream = lambda index: 0
    torch.Tensor.cuda = lambda self, *given, **named: self
"""

KEPT = "huggingface\\.co|pytorch\\.org|numpy\\.org"  # whose pages a message points to; no other host stays
NEUTRAL: tuple[tuple[str, str], ...] = (
    (rf"https?://(?!(?:{KEPT})[/\s'])[\w.-]+", "https://host.example"),
    (r"git@[\w.-]+:", "git@host.example:"),
    (r"(?m)^(Looking in (indexes|links)|WARNING: Location |WARNING: You are using pip|\[notice\]).*\n", ""),
    (r"(?m)^Platform: .*$", "Platform: Linux-6.1.0-x86_64-with-glibc2.36"),
    (r"(?m)^([WE])\d{4} [\d:.]+ \d+ ", r"\g<1>0101 00:00:00.000000 1000 "),
    (r"0x[0-9a-f]{6,}", "0x7f0000000000"),
    (r"/tmp/tmpxft_[0-9a-f_-]+", "/tmp/tmpxft_0001"),
    (r"tmp[0-9a-z_]{8}\b", "tmp00000000"),
    (r"\(Request ID: [^)]*\)", "(Request ID: 0000)"),
)


class Printer:
    """Prepares what a case needs and runs it.

    ``python``: an interpreter with CPU torch; ``work``: a folder that is kept; ``wheels``: wheels that are at hand.
    """

    def __init__(self, python: Path, work: Path, wheels: Path | None) -> None:
        self.python = python.absolute()
        self.work = work.resolve()
        self.wheels = wheels
        self.site = work / "site"
        self.site.mkdir(parents=True, exist_ok=True)
        (self.site / "sitecustomize.py").write_text(SITE)

    def packages(self, requirements: list[str]) -> Path:
        """A folder that holds exactly these distributions, without those that they depend on."""
        key = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:12]
        folder = self.work / "packages" / key
        if not (folder / ".complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
            command += ["--find-links", str(self.wheels)] if self.wheels else []
            subprocess.run([*command, *requirements], check=True)
            (folder / ".complete").touch()
        return folder

    def changed(self, folder: Path, changes: list[str]) -> Path:
        """A copy in which files are removed or altered: a hard link is replaced, never written through."""
        copy = self.work / "changed"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy, copy_function=os.link)
        for change in changes:
            what, pattern, *rest = change.split("|")
            found = sorted(copy.glob(pattern))
            if not found:
                raise SystemExit(f"nothing matches {pattern}")
            for path in found:
                data = path.read_bytes()
                path.unlink()
                if what != "remove":
                    path.write_bytes(altered(what, data, rest))
        return copy

    def run(self, case: dict[str, Any]) -> str:
        """All that the case's command prints."""
        folder = self.packages(case.get("packages", [])) if case.get("packages") else None
        if folder and case.get("change"):
            folder = self.changed(folder, case["change"])
        stand_ins = self.work / "stand-ins"
        shutil.rmtree(stand_ins, ignore_errors=True)
        stand_ins.mkdir()
        for name, text in case.get("modules", {}).items():
            (stand_ins / name).parent.mkdir(parents=True, exist_ok=True)
            (stand_ins / name).write_text(text)
        project = self.work / "project"
        shutil.rmtree(project, ignore_errors=True)
        project.mkdir()
        for name, text in case.get("files", {}).items():
            (project / name).write_text(text)
        lay = [stand_ins, *([folder] if folder else []), self.site]
        words = {
            "python": str(self.python),
            "packages": str(folder),
            "wheels": str(self.wheels),
            "tool": sys.executable,
            "bin": str(Path(sys.executable).parent),
        }
        certificates = {name: os.environ[name] for name in ("SSL_CERT_FILE", "UV_SYSTEM_CERTS") if name in os.environ}
        environment = {
            **certificates,
            "PATH": os.environ["PATH"],
            "HOME": str(self.work / "home"),
            "PYTHONPATH": os.pathsep.join(str(path) for path in lay),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "PRINT_CUDA": case.get("cuda", ""),
            "PRINT_HIP": case.get("hip", ""),
            "PRINT_CAPABILITY": case.get("capability", "8.6"),
            **{name: value.format(**words) for name, value in case.get("env", {}).items()},
        }
        command = [word.format(**words) for word in case["run"]]
        ended = subprocess.run(
            command,
            check=False,
            cwd=project,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
        )
        return self.neutral(ended.stdout.decode("utf-8", "replace"), lay)

    def neutral(self, text: str, lay: list[Path]) -> str:
        """The text as another machine would have printed it."""
        base = subprocess.run(
            [self.python, "-c", "import sys, sysconfig; print(sys.prefix); print(sysconfig.get_path('stdlib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for folder in (*lay, self.work / "changed"):
            text = text.replace(str(folder), "/home/USER/venv/lib/python3.11/site-packages")
        for path, instead in (
            (str(self.work / "project"), "/home/USER/project"),
            (str(self.work / "home"), "/home/USER"),
            (str(self.work), "/home/USER/work"),
            (base[1], "/usr/lib/python3.11"),
            (base[0], "/home/USER/venv"),
            (str(Path(sys.prefix)), "/home/USER/tools"),
            (str(self.wheels), "/home/USER/wheels"),
        ):
            text = text.replace(path, instead)
        for pattern, instead in NEUTRAL:
            text = re.sub(pattern, instead, text)
        return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def altered(what: str, data: bytes, rest: list[str]) -> bytes:
    """``truncate`` keeps the first bytes, ``text`` puts another of the same length, ``machine`` names another CPU."""
    if what == "truncate":
        return data[: int(rest[0])]
    if what == "text":
        old, new = (word.encode() for word in rest)
        if len(old) != len(new) or old not in data:
            raise SystemExit(f"cannot put {new!r} for {old!r}")
        return data.replace(old, new)
    if what == "machine":
        return data[:ELF_MACHINE] + AARCH64.to_bytes(2, "little") + data[ELF_MACHINE + 2 :]
    if what == "garbage":
        return b"\0" * len(data[:4096])
    raise SystemExit(f"unknown change {what}")


def main() -> None:
    """Print the cases that are named, or all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--python", type=Path, required=True, help="an interpreter with a CPU build of torch")
    parser.add_argument("--wheels", type=Path, help="a folder with wheels that are at hand")
    parser.add_argument("--work", type=Path, default=Path("print-failures"), help="where packages are kept")
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    cases = tomllib.loads((PRINTED / "cases.toml").read_text())["case"]
    printer = Printer(given.python, given.work, given.wheels)
    for case in cases:
        if not given.names or case["name"] in given.names:
            (PRINTED / f"{case['name']}.txt").write_text(printer.run(case))
            print(case["name"], flush=True)


if __name__ == "__main__":
    main()
