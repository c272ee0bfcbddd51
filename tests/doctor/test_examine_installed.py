"""What is installed, told without importing it: torch whole and damaged, and what is left of other versions."""

from __future__ import annotations

import json
import os
import shutil
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bnbenv.doctor.examine import Ports, Where, examine
from bnbenv.doctor.model import Examination, Leftover
from bnbenv.envs.project import Project
from bnbenv.errors import UsageError
from bnbenv.facts.model import decode_facts
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import Matrix
from bnbenv.paths import Sysroot
from bnbenv.process import Command, Finished

HOSTS = Path(__file__).parents[1] / "hosts"
VERSION_PY = "__version__ = '2.9.1+cu128'\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n"


@lru_cache(maxsize=1)
def matrix() -> Matrix:
    return load_matrix()


class Nothing:
    """No program is there: files tell all of it."""

    def run(self, command: Command) -> Finished:
        raise FileNotFoundError(command.argv[0])


class Site:
    """A conda-like environment of Python 3.11 of which only site-packages matters."""

    def __init__(self, root: Path) -> None:
        self.root, self.prefix = root, root / "env"
        self.site = self.prefix / "lib" / "python3.11" / "site-packages"
        self.site.mkdir(parents=True)
        (self.prefix / "bin").mkdir()
        (self.prefix / "bin" / "python3.11").write_text("")
        (self.prefix / "lib" / "python3.11" / "os.py").write_text("")

    def write(self, name: str, content: str | bytes = "") -> Path:
        path = self.site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def install(self, name: str, version: str, own: str | None = None, files: tuple[str, ...] = ()) -> Path:
        """A distribution with a RECORD; ``files`` hold ten bytes each, ``own`` is what its code says its version is."""
        info = f"{name}-{version}.dist-info"
        self.write(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\n")
        self.write(f"{name}/__init__.py", f'__version__ = "{own or version}"\n')
        for file in files:
            self.write(file, b"0123456789")
        self.write(f"{info}/RECORD", "".join(f"{one},sha256=x,10\n" for one in files) + f"{info}/RECORD,,\n")
        return self.site / info

    def torch(self) -> Path:
        """A torch for CUDA 12.8, as far as its files are looked at."""
        shutil.rmtree(self.site / "torch", ignore_errors=True)
        self.write("torch/__init__.py")
        self.write("torch/version.py", VERSION_PY)
        self.write("torch/_C.cpython-311-x86_64-linux-gnu.so", library())
        for name in ("libtorch_cpu.so", "libtorch.so", "libc10.so", "libc10_cuda.so", "libtorch_cuda.so"):
            self.write(f"torch/lib/{name}", library())
        self.write("torch/lib/libtorch_python.so", library(b"sm_75\0" + b" " * 5000 + b"xsm_70 sm_86 sm_90\0"))
        return self.site / "torch"

    def examine(self) -> Examination:
        facts = decode_facts((HOSTS / "linux-x86_64__535.183.01__t4-sm75" / "facts.json").read_bytes(), "facts")
        for name in ("home", "here", "sys"):
            (self.root / name).mkdir(exist_ok=True)
        ports = Ports({}, Nothing(), Sysroot(self.root / "sys"), self.root / "home")
        return examine(Where(self.root / "here", path=str(self.prefix)), facts, ports, matrix())

    def leftovers(self) -> tuple[Leftover, ...]:
        return self.examine().leftovers


def library(content: bytes = b"", missing: int = 0) -> bytes:
    """The header of a 64-bit ELF whose section table, of one entry, ends the file; ``missing`` bytes short of it."""
    at = 64 + len(content)
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, at, 0, 64, 56, 0, 64, 1, 0
    )
    return (head + content + bytes(64))[: at + 64 - missing]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_torch_is_read_without_an_import(site: Site) -> None:
    site.torch()
    torch = site.examine().torch
    assert torch is not None
    assert (torch.version, torch.cuda, torch.hip, torch.fault) == ("2.9.1+cu128", "12.8", None, None)
    assert torch.arch_list == ("sm_70", "sm_86", "sm_90")


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("__init__.py", None, "has no __init__.py"),
        ("version.py", None, "version.py is missing"),
        ("version.py", "", "names no version"),
        ("_C.cpython-311-x86_64-linux-gnu.so", None, "torch/_C is missing"),
        ("lib/libtorch_python.so", None, "libtorch_python.so is missing"),
        ("lib/libtorch_python.so", b"", "libtorch_python.so is empty"),
        ("lib/libtorch_cpu.so", library(missing=1), "libtorch_cpu.so is cut off: 127 bytes"),
        ("lib/libtorch_cuda.so", b"<html>" + bytes(100), "libtorch_cuda.so is no native library"),
        ("lib/libtorch_cuda.so", None, "libtorch_cuda.so is missing"),
        ("lib/libtorch_cpu.so", None, "libtorch_cpu.so is missing"),
        ("lib/libc10.so", None, "libc10.so is missing"),
    ],
)
def test_a_damaged_torch_says_what_is_wrong(site: Site, name: str, content: str | bytes | None, fault: str) -> None:
    path = site.torch() / name
    path.unlink()
    if content is not None:
        site.write(f"torch/{name}", content)
    torch = site.examine().torch
    assert torch is not None and torch.fault is not None and fault in torch.fault


def test_a_torch_for_another_python_says_so(site: Site) -> None:
    folder = site.torch()
    (folder / "_C.cpython-311-x86_64-linux-gnu.so").rename(folder / "_C.cpython-310-x86_64-linux-gnu.so")
    torch = site.examine().torch
    assert torch is not None and torch.fault == "it is built for Python 3.10, and this is Python 3.11"


def test_other_builds_of_torch(site: Site) -> None:
    folder = site.torch()
    (folder / "version.py").write_text("__version__ = '2.9.1+cpu'\ncuda: Optional[str] = None\nhip = None\n")
    for name in ("libtorch_cuda.so", "libc10_cuda.so"):
        (folder / "lib" / name).unlink()
    torch = site.examine().torch
    assert torch is not None and (torch.cuda, torch.arch_list, torch.fault) == (None, (), None)
    (folder / "version.py").write_text("__version__ = '2.9.1+rocm6.4'\ncuda = None\nhip = '6.4.1'\n")
    torch = site.examine().torch
    assert torch is not None and (torch.cuda, torch.hip, torch.fault) == (None, "6.4.1", None)


def test_what_is_whole_leaves_nothing(site: Site) -> None:
    site.install("bitsandbytes", "0.50.2", files=("bitsandbytes/libbitsandbytes_cuda128.so",))
    site.install("numpy", "2.2.0", own="2.2.0")
    site.install("torch", "2.9.1", own="2.9.1+cu128")
    assert site.leftovers() == ()


def test_parts_of_two_versions_are_told(site: Site) -> None:
    old, new = "bitsandbytes/libbitsandbytes_cuda118.so", "bitsandbytes/libbitsandbytes_cuda128.so"
    first = site.install("bitsandbytes", "0.50.2", files=(new,))
    second = site.install("bitsandbytes", "0.42.0", own="0.50.2", files=())
    site.write(old)
    found = {one.kind: one for one in site.leftovers()}
    assert set(found["twice"].paths) == {str(first), str(second)}
    shutil.rmtree(second)
    (strange,) = site.leftovers()
    assert (strange.kind, strange.paths) == ("strange", (str(site.site / old),))
    (site.site / old).unlink()
    site.write(new, b"01234")
    (cut,) = site.leftovers()
    assert (cut.kind, cut.because) == ("cut", "libbitsandbytes_cuda128.so has 5 bytes, 10 were installed")
    (site.site / new).unlink()
    (gone,) = site.leftovers()
    assert (gone.kind, gone.paths) == ("gone", (str(site.site / new),))


def test_a_module_that_its_user_edited_is_not_cut_off(site: Site) -> None:
    site.install("bitsandbytes", "0.50.2", files=("bitsandbytes/functional.py",))
    edited = site.write("bitsandbytes/functional.py", "import os\n# mine\n")
    assert site.leftovers() == ()
    edited.write_bytes(b"")
    assert [one.kind for one in site.leftovers()] == ["cut"]


def test_an_older_package_copied_over_a_newer_one_is_told(site: Site) -> None:
    site.install("bitsandbytes", "0.50.2", own="0.43.3")
    (found,) = site.leftovers()
    assert found.kind == "version"
    assert found.because == "its metadata says 0.50.2, its own files are those of 0.43.3"


def test_what_an_installer_that_was_ended_leaves(site: Site) -> None:
    site.install("bitsandbytes", "0.50.2")
    for name in ("~itsandbytes", "~itsandbytes-0.49.2.dist-info", "~orch", "-ransformers"):
        (site.site / name).mkdir()
    found = [one for one in site.leftovers() if one.kind == "interrupted"]
    assert sorted(one.name for one in found) == ["bitsandbytes", "bitsandbytes", "torch", "transformers"]

    shutil.rmtree(site.site / "bitsandbytes")
    assert [one.kind for one in site.leftovers() if one.kind != "interrupted"] == ["metadata"]
    site.install("bitsandbytes", "0.50.3")
    shutil.rmtree(site.site / "bitsandbytes-0.50.2.dist-info")
    shutil.rmtree(site.site / "bitsandbytes-0.50.3.dist-info")
    assert [one.kind for one in site.leftovers() if one.kind != "interrupted"] == ["package"]
    (site.site / "bitsandbytes-0.50.2.dist-info").mkdir()
    found = [one for one in site.leftovers() if one.kind != "interrupted"]
    assert [one.because for one in found][:1] == ["its metadata names no version: its installer was ended"]


def test_pip_over_conda_is_told(site: Site) -> None:
    (site.prefix / "conda-meta").mkdir()
    (site.prefix / "conda-meta" / "python-3.11.9-h955ad1f_0.json").write_text("{}")
    (site.prefix / "conda-meta" / "pytorch-2.5.1-py3.11_cuda12.4_cudnn9.1.0_0.json").write_text("{}")
    site.install("torch", "2.5.1")
    assert "conda" not in [one.kind for one in site.leftovers()]
    shutil.rmtree(site.site / "torch-2.5.1.dist-info")
    site.install("torch", "2.9.1", own="2.9.1+cu128")
    (found,) = [one for one in site.leftovers() if one.kind == "conda"]
    assert found.because == "conda installed 2.5.1, and another installer put 2.9.1 over it"


def test_distributions_are_listed_by_their_usual_names(site: Site) -> None:
    for name in ("nvidia_cublas_cu12", "Pytorch.Triton", "bitsandbytes_cuda118", "requests"):
        site.install(name, "1.0")
    site.write("auto_gptq-0.7.1-py3.11.egg-info", "Metadata-Version: 1.0\nName: auto-gptq\nVersion: 0.7.1\n")
    direct = '{"url": "file:///x", "dir_info": {"editable": true}}'
    (site.install("peft", "0.15.0") / "direct_url.json").write_text(direct)
    site.write(
        "accelerate-1.0.dist-info/METADATA", "Name: accelerate\nVersion: 1.0\nRequires-Dist: torch>=2.0\n\nVersion: 9\n"
    )
    found = {one.name: one for one in site.examine().packages}
    assert set(found) == {
        "nvidia-cublas-cu12", "pytorch-triton", "bitsandbytes-cuda118", "auto-gptq", "peft", "accelerate"
    }  # fmt: skip
    assert found["auto-gptq"].version == "0.7.1"
    assert found["peft"].editable and not found["accelerate"].editable
    assert (found["accelerate"].version, found["accelerate"].requires_dist) == ("1.0", ("torch>=2.0",))


@pytest.mark.real
def test_a_real_environment_is_read_whole_and_starts_nothing(synced: Any) -> None:
    facts = decode_facts((HOSTS / "linux-x86_64__535.183.01__t4-sm75" / "facts.json").read_bytes(), "facts")
    project = Project(synced.root, synced.root / "bnbenv.toml")
    home = Path(os.devnull)  # no home folder at all
    found = examine(Where(synced.root, project, env="bnb"), facts, Ports({}, Nothing(), Sysroot(), home))
    assert (found.target.kind, found.target.env) == ("bnbenv", "bnb")
    assert found.torch is not None and (found.torch.cuda, found.torch.fault) == (None, None)
    package = found.package("torch")
    assert package is not None and package.version == found.torch.version
    assert found.bitsandbytes is not None and found.bitsandbytes.own_version == found.bitsandbytes.version
    assert found.leftovers == ()


ODD = (
    "torch", "torch/__init__.py", "torch/version.py", "torch/lib", "torch/lib/libtorch_python.so",
    "torch/_C.cpython-311-x86_64-linux-gnu.so", "bitsandbytes", "bitsandbytes/__init__.py",
    "bitsandbytes/libbitsandbytes_cuda128.so", "bitsandbytes-0.50.2.dist-info",
    "bitsandbytes-0.50.2.dist-info/METADATA",
    "bitsandbytes-0.50.2.dist-info/RECORD", "bitsandbytes-0.50.2.dist-info/direct_url.json", "torch.egg-info", "a.pth",
    "bnbenv-environment.pth", "sitecustomize.py", "~orch", "nvidia/cublas/lib/libcublas.so.12", "../../../pyvenv.cfg",
    "../../../bin/python3.11", "../../../bin/activate", "../../../conda-meta/state", "../../../conda-meta",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["loop", "folder", "pipe", "bytes", "header"])
def test_whatever_lies_in_a_files_place_the_examination_ends_and_can_be_written(site: Site, kind: str) -> None:
    name = os.fsdecode(b"~orch\xff")
    for odd in ODD:
        shutil.rmtree(site.prefix)
        site = Site(site.root)
        site.torch()
        site.install("bitsandbytes", "0.50.2", files=("bitsandbytes/libbitsandbytes_cuda128.so",))
        (site.site / name).mkdir()
        path = Path(os.path.normpath(site.site / odd))
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        if kind == "loop":
            path.symlink_to(path.name)
        elif kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.write_bytes(
                b"\xff\xfe\0BNB_CUDA_VERSION='\n" * 9 if kind == "bytes" else library()[:40] + b"\xff" * 99
            )
        try:
            found = site.examine()
        except UsageError:  # it is no Python any more
            continue
        assert any(one.kind == "interrupted" for one in found.leftovers), odd
        assert json.loads(msgspec.json.encode(found))["target"]["prefix"] == str(site.prefix), odd
