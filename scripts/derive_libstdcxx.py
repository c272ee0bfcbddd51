#!/usr/bin/env python3
"""Write bnbenv/build/libstdcxx.toml: which libstdc++ the systems have whose C library a wheel tag names.

    uv pip install --target FOLDER auditwheel
    python scripts/derive_libstdcxx.py FOLDER

It is what auditwheel's manylinux policies say, of every machine the lower.
"""

from __future__ import annotations

import argparse
import json
import re
from datetime import datetime, timezone
from pathlib import Path

from bnbenv.matrix.drivers import number
from bnbenv.paths import write_atomically

OUT = Path(__file__).resolve().parent.parent / "bnbenv" / "build" / "libstdcxx.toml"
MACHINES = ("x86_64", "aarch64")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where auditwheel is installed")
    folder = parser.parse_args().folder
    info = next(folder.glob("auditwheel-*.dist-info")).name
    policies = json.loads((folder / "auditwheel" / "policy" / "manylinux-policy.json").read_text(encoding="utf-8"))
    newest: dict[str, str] = {}
    for policy in policies:
        tag = re.fullmatch(r"manylinux_(\d+_\d+)", policy["name"])
        known = [policy["symbol_versions"].get(machine, {}).get("GLIBCXX") for machine in MACHINES]
        if tag and all(known):
            newest[tag[1].replace("_", ".")] = min((max(some, key=number) for some in known), key=number)
    lines = [
        "# The newest GLIBCXX of libstdc++ on every system whose wheel tag names a glibc: manylinux_2_17 and so on.",
        "# Written by scripts/derive_libstdcxx.py.",
        f'source = "auditwheel {info.split("-")[1].removesuffix(".dist")}, policy/manylinux-policy.json"',
        f'date = "{datetime.now(timezone.utc).date()}"',
        "",
        "[newest]",
        *(f'"{glibc}" = "{newest[glibc]}"' for glibc in sorted(newest, key=number)),
    ]
    write_atomically(OUT, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
