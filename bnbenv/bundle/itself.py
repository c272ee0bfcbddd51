"""bnbenv's own wheel, made of what is installed here, and what installs it on a machine that has nothing.

An installer may have put it anywhere, from a wheel or from a checkout; what runs here is what the other machine gets.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import bnbenv
from bnbenv.errors import Failed
from bnbenv.matrix.load import find_data

_DATE = (1980, 1, 1, 0, 0, 0)
_PARTS = ("METADATA", "entry_points.txt")


def requirements() -> list[str]:
    """What this bnbenv needs, as its metadata says, extras left out; of uv the very version that is here. Raises
    Failed."""
    from importlib.metadata import version

    wanted = [text for text in _own().requires or [] if "extra ==" not in text]
    others = [text for text in wanted if not re.match(r"uv\b(?!-)", text)]
    return [*others, f"uv=={version('uv')}"]


def _own() -> Distribution:
    try:
        return distribution("bnbenv")
    except PackageNotFoundError:
        message = "bnbenv runs from a folder here and is not installed, so its wheel cannot be made"
        raise Failed("not-installed", message, "Install it (pip install .), then run it again.") from None


def write_wheel(folder: Path) -> Path:
    """Make the wheel of this bnbenv in a folder: the same bytes for the same files. Raises Failed, OSError."""
    own = _own()
    version = own.version
    info = f"bnbenv-{version}.dist-info"
    path = folder / f"bnbenv-{version}-py3-none-any.whl"
    texts = {f"{info}/{name}": text.encode() for name in _PARTS if (text := own.read_text(name))}
    texts[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: bnbenv\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    lines = []
    with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in (*code(), *texts.items()):
            _put(archive, name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            lines.append(f"{name},sha256={digest},{len(data)}\n")
        _put(archive, f"{info}/RECORD", "".join([*lines, f"{info}/RECORD,,\n"]).encode())
    return path


def code() -> Iterator[tuple[str, bytes]]:
    """The files of the package, and those of the matrix, which may lie beside it."""
    package, matrices = Path(bnbenv.__file__).parent, find_data()
    for root, prefix in ((package, "bnbenv"), (matrices, "bnbenv/matrices")):
        for path in sorted(root.rglob("*")):
            parts = path.relative_to(root).parts
            hidden = any(part == "__pycache__" or part.startswith(".") for part in parts)
            beside = root == package and parts[0] == "matrices"
            if path.is_file() and not hidden and not beside and path.suffix != ".pyc":
                yield "/".join((prefix, *parts)), path.read_bytes()


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _DATE)
    info.external_attr = 0o644 << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data)


def pinned(versions: Mapping[str, str], hashes: Mapping[str, str]) -> str:
    """A file of requirements with a hash each, as pip and uv read it. Pure."""
    return "".join(f"{name}=={versions[name]} --hash=sha256:{hashes[name]}\n" for name in sorted(versions))


INSTALL = """\
#!/bin/sh
# Installs bnbenv out of this unpacked bundle, without network: sh install.sh [FOLDER]
# FOLDER (default: .tool) is where it goes. Then, where the project is to be:
#   FOLDER/bin/bnbenv sync --offline --bundle THE.tar
set -eu
unset CDPATH
here=$(cd -- "$(dirname -- "$0")" && pwd)
folder=${1:-.tool}
system=$(uname -s | tr '[:upper:]' '[:lower:]')
[ "$system" != darwin ] || system=macos
machine=$(uname -m)
case $machine in amd64) machine=x86_64 ;; arm64) machine=aarch64 ;; esac

# The list of what bnbenv needs on a Python of this system: prints its name, or nothing.
list_for() {
  minor=$("$1" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || return 0
  list=$here/tool/$system-$machine-$minor.txt
  if [ -f "$list" ]; then echo "$list"; fi
}

python= list=
for name in python3 python3.15 python3.14 python3.13 python3.12 python3.11 python3.10; do
  found=$(command -v "$name" || true)
  [ -n "$found" ] || continue
  list=$(list_for "$found")
  if [ -n "$list" ]; then python=$found; break; fi
done
if [ -z "$python" ]; then
  for archive in "$here"/python/*/cpython-*-"$(uname -m)"-*.tar.gz; do
    [ -f "$archive" ] || continue
    mkdir -p "$folder.python"
    tar -xzf "$archive" -C "$folder.python"
    python=$(cd "$folder.python/python/bin" && pwd)/python3
    list=$(list_for "$python")
    [ -z "$list" ] || break
  done
fi
if [ -z "$list" ]; then
  echo "error: this bundle has no bnbenv for a Python of this machine ($system $machine)" >&2
  echo "it has: $(ls "$here/tool" | sed 's/\\.txt$//' | tr '\\n' ' ')" >&2
  exit 4
fi

# Whether a file's sha256 stands in the list. Nothing of a file is run before.
listed() {
  "$python" -I -c 'import hashlib, sys
sys.exit(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest() not in open(sys.argv[2]).read())' "$1" "$list"
}

work=$folder.new
rm -rf "$work"
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
for wheel in "$here"/files/uv-*"$machine"*.whl; do
  if listed "$wheel"; then "$python" -I -m zipfile -e "$wheel" "$work"; fi
done
uv=$(ls "$work"/uv-*.data/scripts/uv 2>/dev/null) || {
  echo "error: the uv of this bundle is missing or was changed: none has a sha256 that $list names" >&2
  exit 1
}
chmod +x "$uv"
"$uv" venv --quiet --no-config --allow-existing --python "$python" "$folder"
"$uv" pip install --quiet --no-config --no-cache --offline --no-index --require-hashes \\
  --find-links "$here/files" --python "$folder/bin/python" -r "$list"
echo "installed: $folder/bin/bnbenv"
echo "next, in the folder of the project: $(cd "$folder" && pwd)/bin/bnbenv sync --offline --bundle THE.tar"
"""
