"""``torch = "keep"``: environments on top of a torch that is there, which is never touched."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# An ELF header: 64 bits, little endian, a shared library for x86-64; what is measured of a torch begins so.
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00" + bytes(44)
NVIDIA = "2.6.0a0+ecf3bae40a.nv25.01"  # on no index
KEEP = '[envs.bnb]\ntorch = "keep"\n'
SITE = Path("lib", f"python3.{sys.version_info.minor}", "site-packages")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the folders are those of Linux")


def lay(site: Path, name: str, version: str, *requires: str) -> None:
    """An installed distribution: its metadata, and a module of that name (torch is laid as it is measured)."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (info / "METADATA").write_text("\n".join([*lines, ""]))
    (info / "RECORD").write_text("")
    if name != "torch":
        (site / f"{name}.py").write_text(f"VERSION = {version!r}\n")
        return
    (site / "torch" / "lib").mkdir(parents=True)
    (site / "torch" / "__init__.py").write_text("")
    (site / "torch" / "version.py").write_text(f"__version__ = '{version}'\ncuda = None\n")
    (site / "torch" / "lib" / "libtorch_python.so").write_bytes(ELF + b"\0")


def make_base(prefix: Path, version: str = NVIDIA) -> Path:
    """A venv such as a container's: its torch asks for more than there is, and one package needs an old one."""
    venv.create(prefix, symlinks=True, with_pip=False)
    site = prefix / SITE
    lay(site, "torch", version, "sympy==1.13.1", "nvidia-nccl-cu12==2.21.5")
    lay(site, "numpy", "1.26.4")
    lay(site, "sympy", "1.13.1")
    lay(site, "packaging", "23.0")
    lay(site, "careful", "1.0", "packaging<24")
    return prefix


def tree(folder: Path) -> dict[str, Any]:
    """Every file, folder and link: kind and rights, size, time, and its bytes where these are few."""
    found: dict[str, Any] = {}
    for path in sorted([folder, *folder.rglob("*")]):
        stat = path.lstat()
        small = path.is_file() and not path.is_symlink() and stat.st_size < 1 << 18
        data = hashlib.sha256(path.read_bytes()).hexdigest() if small else ""
        target = os.readlink(path) if path.is_symlink() else ""
        found[str(path)] = (stat.st_mode, stat.st_size, stat.st_mtime_ns, stat.st_ino, data, target)
    return found


def synced(project: Any, **changes: str) -> dict[str, Any]:
    """What ``sync`` did for the one environment, without its kernels: this torch has none."""
    document: dict[str, Any] = project.done("sync", "--no-verify", **changes)["generations"][0]
    return document


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base")


def test_only_what_is_missing_comes_on_top(empty: Any, base: Path, tmp_path: Path) -> None:
    """Of a container's packages those that fit stay; one that a requirement needs newer is hidden, and that is said.
    Then the base is upgraded, another venv is activated, and the base goes."""
    (empty.root / "bnbenv.toml").write_text(f'{KEEP}requirements = ["packaging>=24"]\n')
    (base / SITE / "ipykernel_launcher.py").touch()
    before = tree(base)
    done = synced(empty, VIRTUAL_ENV=str(base))
    assert empty.done("jupyter", JUPYTER_DATA_DIR=str(tmp_path / "jupyter"))["installed"]  # by what is below
    assert tree(base) == before
    assert done["choice"]["torch"]["source"] == "existing"
    lock = (empty.root / "pylock.bnb.toml").read_text()
    assert [line for line in lock.splitlines() if line.startswith("name = ")] == [
        'name = "bitsandbytes"',
        'name = "packaging"',
    ]
    assert any("packaging" in note and "hides 23.0" in note for note in done["notes"]), done["notes"]
    assert any(note.startswith("careful below asks for another packaging") for note in done["notes"])
    # With nothing activated, isolated from the user or not, and wherever it is started.
    code = "import numpy, packaging, torch.version; print(numpy.VERSION, torch.version.__version__, packaging.__file__)"
    for options in ((), ("-I",), ("-s",)):
        numpy, torch, packaging = empty.python(code, *options).split()
        assert (numpy, torch) == ("1.26.4", NVIDIA)
        assert str(empty.root.resolve()) in packaging
    assert list(empty.drift()) == ["unverified"]
    (row,) = empty("status", "--json").document["environments"]
    assert row["notes"] == [f"its torch is the one in {base / SITE / 'torch'}"]

    # It stays with this torch while another one would be found first; lock looks anew.
    other = make_base(tmp_path / "other", "2.9.1")
    assert list(empty.drift(VIRTUAL_ENV=str(other))) == ["unverified"]
    plan = empty("plan", "--json", VIRTUAL_ENV=str(other)).document
    assert [action["action"] for action in plan["actions"]] == ["verify"]
    own = empty.root / ".venv-bnb"
    assert empty.done("lock", VIRTUAL_ENV=str(own))["locks"][0]["choice"] == done["choice"]  # its own is none to lie on
    assert empty.done("lock", VIRTUAL_ENV=str(other))["locks"][0]["choice"]["torch"]["version"] == "2.9.1"
    assert synced(empty)["generation"] == 2
    assert empty.python("import torch.version; print(torch.version.__version__)") == "2.9.1"
    # An index has that version too, which requires what this one does without.
    assert 'name = "nvidia' not in (empty.root / "pylock.bnb.toml").read_text()

    # An upgrade below it.
    shutil.rmtree(other)
    make_base(other, "2.10.0")
    assert empty.drift()["base-changed"].endswith("torch was 2.9.1 and is 2.10.0")
    assert synced(empty)["choice"]["torch"]["version"] == "2.10.0"
    assert empty.generation() == 3
    library = other / SITE / "torch" / "lib" / "libtorch_python.so"
    library.touch()
    assert "was replaced" in empty.drift()["base-changed"]

    def since() -> str:
        return str([one["what"] for one in empty("plan", "--json").document["actions"] if one["action"] == "lock"])

    assert since() == "[]"  # the same bytes
    library.write_bytes(ELF + b"\0\0")
    assert "the torch that is there is another build of 2.10.0 than it was" in since()
    library.write_bytes(ELF + b"\0")
    (other / SITE / "numpy-1.26.4.dist-info" / "METADATA").write_text("Name: numpy\nVersion: 1.26.5\n")
    assert "below it numpy was 1.26.4 and is 1.26.5" in since()

    shutil.rmtree(other)
    assert "is gone" in empty.drift()["base-gone"]
    ended = empty("sync", "--no-verify", "--json")
    assert ended.code == 4, ended
    assert empty.generation() == 3


@pytest.mark.parametrize(("asked", "stays"), [("sympy>=1.14", "sympy 1.13.1"), ("numpy>=2", "numpy 1.26.4")])
def test_what_torch_requires_or_is_built_for_is_not_hidden(empty: Any, base: Path, asked: str, stays: str) -> None:
    (empty.root / "bnbenv.toml").write_text(f'{KEEP}requirements = ["{asked}"]\n')
    ended = empty("sync", "--no-verify", "--json", VIRTUAL_ENV=str(base))
    assert ended.code == 4, ended
    assert ended.document["error"]["message"].endswith(f"as it is: {stays}")
    assert not (empty.root / ".venv-bnb").exists()


def test_transformers_that_goes_without_this_torch_is_not_taken(empty: Any, base: Path) -> None:
    """5.23 switches off every torch before 2.6, and a container's 2.6.0a0 is one; only its extra says so."""
    (empty.root / "bnbenv.toml").write_text(f'{KEEP}requirements = ["transformers"]\n')
    empty.done("lock", VIRTUAL_ENV=str(base))
    lock = (empty.root / "pylock.bnb.toml").read_text()
    found = re.search(r'name = "transformers"\nversion = "(\d+)\.(\d+)', lock)
    assert found and (int(found[1]), int(found[2])) < (5, 23), found


def test_a_cluster_modules_folder(empty: Any, tmp_path: Path) -> None:
    """In PYTHONPATH: whether the module has to be loaded is tried; another bitsandbytes in there is refused. torch and
    its numpy are two modules; what bnbenv needs itself it takes of neither, and people's own code is left out."""
    folder, beside, code = (tmp_path / "apps" / name / SITE for name in ("torch", "bundle", "code"))
    lay(folder, "torch", "2.9.1", "numpy")
    lay(beside, "numpy", "2.1.0")
    (beside / "filelock.py").write_text("raise ImportError('of another Python')")
    code.mkdir(parents=True)
    lay(folder, "bitsandbytes", "0.40.0")
    needed = "import os\nif 'apps' not in os.environ.get('LD_LIBRARY_PATH', ''):\n    raise ImportError('libfoo.so')\n"
    (folder / "torch" / "__init__.py").write_text(needed)
    (empty.root / "bnbenv.toml").write_text(KEEP)
    loaded = {"PYTHONPATH": os.pathsep.join(map(str, (code, folder, beside))), "LD_LIBRARY_PATH": "/apps"}
    refused = empty("sync", "--no-verify", "--json", **loaded)
    assert (refused.code, refused.document["error"]["code"]) == (1, "hidden-package"), refused
    assert "bitsandbytes 0.40.0 and not" in refused.document["error"]["message"]
    shutil.rmtree(folder / "bitsandbytes-0.40.0.dist-info")
    notes = synced(empty, **loaded)["notes"]
    (note,) = [note for note in notes if "folder of PYTHONPATH" in note]
    assert note.endswith("(ImportError: libfoo.so): load the module in each shell first")
    assert 'name = "numpy"' not in (empty.root / "pylock.bnb.toml").read_text()
    assert str(code) not in (empty.root / ".venv-bnb" / SITE / "zzz-bnbenv-base.pth").read_text()
    for variables in ({}, loaded):  # without the module's variables, and with them
        assert list(empty.drift(**variables)) == ["unverified"]
    assert empty.done("lock")["locks"][0]["changed"] is False
    assert empty.python("import numpy, torch; print(numpy.VERSION)", LD_LIBRARY_PATH="/apps") == "2.1.0"
    (folder / "torch" / "__init__.py").write_text("")
    again = empty.done("sync", "--no-verify", "--fresh")["generations"][0]["notes"]
    assert [note for note in again if note.endswith("so no module has to be loaded for this environment")]


def test_the_users_own_packages(empty: Any, tmp_path: Path) -> None:
    """torch in them is kept; without it they are left out, as in any venv."""
    own = tmp_path / "user" / SITE
    lay(own, "torch", "2.9.1")
    lay(own, "numpy", "2.1.0")
    (empty.root / "bnbenv.toml").write_text(f'{KEEP}python = "=={sys.version_info.major}.{sys.version_info.minor}.*"\n')
    synced(empty, PYTHONUSERBASE=str(tmp_path / "user"))
    for options in ((), ("-I",)):
        assert empty.python("import numpy; print(numpy.__file__)", *options) == str(own / "numpy.py")
    other = tmp_path / "another user" / SITE
    lay(other, "numpy", "3.0.0")
    code = f"import sys; print({str(other)!r} in sys.path)"
    assert empty.python(code, PYTHONUSERBASE=str(tmp_path / "another user")) == "False"


def _debian_python() -> str | None:
    found = shutil.which("python3", path="/usr/bin")
    folder = f"/usr/local/lib/python3.{sys.version_info.minor}/dist-packages"
    code = f"import sys; sys.exit({folder!r} not in sys.path)"
    return folder if found and subprocess.run([found, "-I", "-c", code], check=False).returncode == 0 else None


def test_the_systems_python_with_a_base_that_cannot_be_written(empty: Any, tmp_path: Path) -> None:
    """torch in dist-packages, as in NVIDIA's containers; it belongs to somebody else and is mounted read-only."""
    place = _debian_python()
    if place is None:
        pytest.skip("no Debian Python of this version in /usr/bin, which keeps packages in dist-packages")
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace can be made (unshare -rm)")
    packages = tmp_path / "packages"
    lay(packages, "torch", NVIDIA, "numpy")
    lay(packages, "numpy", "1.26.4")
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    system = subprocess.run(["/usr/bin/python3", "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    (empty.root / "bnbenv.toml").write_text(f'{KEEP}python = "=={minor}.*"\n')
    mount = f'mount --bind {packages} {place} && mount -o remount,bind,ro {place} && exec "$@"'
    words = ["unshare", "-rm", "sh", "-c", mount, "sh"]
    done = subprocess.run(
        [*words, sys.executable, "-m", "bnbenv", "sync", "--no-verify", "--json"],
        cwd=empty.root, env=empty.changed(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = (empty.root / ".venv-bnb" / "pyvenv.cfg").read_text()
    assert "include-system-site-packages = true" in config and f"version_info = {system}" in config
    shown = (empty.root / ".venv-bnb" / SITE / "zzz-bnbenv-base.pth").read_text()
    assert "addsitedir" not in shown  # its interpreter shows that folder by itself
    python = str(empty.root / ".venv-bnb" / "bin" / "python")
    code = "import numpy, torch; print(numpy.VERSION, torch.__file__)"
    seen = subprocess.run([*words, python, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert seen.stdout.split() == ["1.26.4", f"{place}/torch/__init__.py"]


@pytest.mark.real
def test_real_kernels_on_top_of_a_real_torch(copies: Callable[..., Any], empty: Any) -> None:
    """In a venv that others made: bitsandbytes comes on top and its kernels run; nothing below is as much as touched,
    with bytecode neither. A torch that cannot be imported fails the verification, and the environment in use stays."""
    with copies() as project:
        base = (project.root / ".venv-bnb").resolve()
        for path in (base / SITE).glob("bitsandbytes*"):
            shutil.rmtree(path)
        shutil.rmtree(base / SITE / "torch" / "__pycache__")  # an import would write it again
        before = tree(base)
        (empty.root / "bnbenv.toml").write_text(KEEP)
        environ = {"VIRTUAL_ENV": str(base), "PYTHONDONTWRITEBYTECODE": None}
        (done,) = empty.done("sync", **environ)["generations"]
        assert done["verified"] is True
        assert tree(base) == before
        assert empty.drift() == {}
        (step,) = done["verification"]["devices"]
        assert step["torch"] == done["choice"]["torch"]["version"]
        assert step["library_path"].startswith(str((empty.root / ".bnbenv").resolve()))
        lock = (empty.root / "pylock.bnb.toml").read_text()
        assert [line for line in lock.splitlines() if line.startswith("name = ")] == ['name = "bitsandbytes"']

        (base / SITE / "torch" / "lib" / "libtorch_cpu.so").unlink()
        ended = empty("sync", "--json", **environ)
        assert ended.code == 5, ended
        assert empty.generation() == 1
