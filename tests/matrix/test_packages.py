"""Files of quantization packages: how rows of them come about, and the checks of these against the other tables."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from bnbenv.errors import Failed
from bnbenv.matrix.consistency import inconsistencies
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import Evidence, Matrix, PackageFile
from bnbenv.matrix.packages import looks_for_torch, read_archive, torch_releases

PKG_INFO = b"""\
Metadata-Version: 2.4
Name: autoawq
Version: 0.2.9
Requires-Python: >=3.8.0
Requires-Dist: torch>=2.5.1
Requires-Dist: tokenizers>=0.12.1
Requires-Dist: Transformers<=4.47.1,>=4.45.0
Requires-Dist: autoawq-kernels; extra == "kernels"
Requires-Dist: not a requirement
"""


def archive(**files: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"autoawq-0.2.9/{name.replace('_py', '.py').replace('_INFO', '-INFO')}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return target.getvalue()


def read(data: bytes) -> PackageFile:
    return read_archive(data, "autoawq-0.2.9.tar.gz", hashlib.sha256(data).hexdigest())


def test_a_source_archive_is_read_and_not_run() -> None:
    row = read(archive(PKG_INFO=PKG_INFO, setup_py=b"raise SystemExit('it was run')"))
    assert (row.name, row.version, row.kind, row.requires_python) == ("autoawq", "0.2.9", "sdist", ">=3.8.0")
    assert row.requires_dist == (
        "torch>=2.5.1",
        "Transformers<=4.47.1,>=4.45.0",
        'autoawq-kernels; extra == "kernels"',
    )
    assert not row.build_needs_torch
    assert row.sha256 in row.evidence.source


@pytest.mark.parametrize(
    "data",
    [archive(PKG_INFO=PKG_INFO)[:100], b"no archive", gzip.compress(b"x" * 2000), archive(setup_py=b"")],
    ids=["cut off", "no archive", "no tar", "no metadata"],  # the bytes hold the time
)
def test_an_archive_that_is_none_is_said_to_be(data: bytes) -> None:
    with pytest.raises(Failed) as caught:
        read(data)
    assert caught.value.code == "bad-archive"


def test_what_lies_deeper_in_an_archive_is_not_its_own() -> None:
    vendored = {"third_party/PKG_INFO": PKG_INFO.replace(b"3.8", b"3.99"), "third_party/setup_py": b"import torch"}
    row = read(archive(PKG_INFO=PKG_INFO, setup_py=b"", **vendored))
    assert row.requires_python == ">=3.8.0"
    assert not row.build_needs_torch


def test_an_archive_that_would_fill_the_memory_is_not_unpacked() -> None:
    member = tarfile.TarInfo("autoawq-0.2.9/PKG-INFO")
    member.size = 1 << 31
    with pytest.raises(Failed, match="would unpack to more than"):
        read(gzip.compress(member.tobuf()))


def test_an_archive_with_another_hash_is_not_believed() -> None:
    with pytest.raises(Failed) as caught:
        read_archive(archive(PKG_INFO=PKG_INFO), "autoawq-0.2.9.tar.gz", "0" * 64)
    assert caught.value.code == "bad-hash"


@pytest.mark.parametrize(
    ("script", "looks"),
    [
        ("from setuptools import setup\nsetup(install_requires=['torch'])", False),
        ("import torch", True),
        ("def version():\n    from torch.version import cuda", True),
        ("if BUILD_CUDA_EXT:\n    import torch\nelse:\n    pass", False),
        ("if BUILD_CUDA_EXT == '1':\n    from torch.utils import cpp_extension", False),
        ("if BUILD_CUDA_EXT:\n    pass\nelse:\n    import torch", True),
        ("from importlib import metadata\nmetadata.version('torch')", True),
        ("import torchlike", False),
        ("print 'Python 2'", True),
    ],
)
def test_a_setup_that_looks_for_torch_is_told(script: str, looks: bool) -> None:
    assert looks_for_torch(script.encode()) is looks


def test_kernels_load_where_torch_exports_what_they_take_from_it() -> None:
    exports = {
        "2.5": frozenset({"c10_error_of_the_old_string", "c10_device"}),
        "2.6": frozenset({"c10_error_of_the_old_string", "c10_device", "c10_more"}),
        "2.7": frozenset({"c10_error_of_the_new_string", "c10_device", "c10_more"}),
    }
    wanted = frozenset({"c10_error_of_the_old_string", "c10_device", "at_something_of_another_library"})
    assert torch_releases(wanted, exports) == ("2.5", "2.6")
    assert torch_releases(frozenset({"c10_more"}), exports) == ("2.6", "2.7")


Damage = Callable[[Matrix], Matrix]


def changed(field: str, holds: Callable[[Any], bool], **changes: Any) -> Damage:
    def damage(matrix: Matrix) -> Matrix:
        rows = getattr(matrix, field)
        at = next(number for number, row in enumerate(rows) if holds(row))
        return replace(matrix, **{field: (*rows[:at], replace(rows[at], **changes), *rows[at + 1 :])})

    return damage


def kernels(row: PackageFile) -> bool:
    return row.name == "autoawq-kernels"


def archived(row: PackageFile) -> bool:
    return row.kind == "sdist"


def any_row(_: object) -> bool:
    return True


DAMAGES: list[tuple[Damage, str]] = [
    (lambda matrix: replace(matrix, packages=matrix.packages[:1] * 2), "stands 2 times"),
    (lambda matrix: replace(matrix, packages=tuple(filter(archived, matrix.packages))), "of which no file is known"),
    (lambda matrix: replace(matrix, package_advisories=matrix.package_advisories[:1] * 2), "stands 2 times"),
    (changed("packages", any_row, name="exllama"), "exllama belongs to no family"),
    (changed("packages", any_row, version="seven"), "Invalid version: 'seven'"),
    (changed("packages", any_row, requires_dist=("torch=>2",)), "torch=>2"),
    (changed("packages", any_row, uploaded="yesterday"), 'uploaded on "yesterday"'),
    (changed("packages", any_row, evidence=Evidence("measured", "sha256:00", "2026-11-21")), "with another sha256"),
    (changed("packages", archived, pythons=("cp311",)), "its row is that of a wheel"),
    (changed("packages", archived, torch_releases=("2.2",)), "holds no kernels"),
    (changed("packages", kernels, build_needs_torch=True), "is a wheel, which nobody builds"),
    (changed("packages", kernels, cuda="9"), "for CUDA 9, which no driver row names"),
    (changed("packages", kernels, torch_releases=("1.13",)), "torch 1.13, of which there is no build"),
    (changed("packages", kernels, torch_releases=()), "beside no torch that is known"),
    (changed("package_advisories", any_row, versions=">=9"), "of which no file is known"),
    (changed("package_advisories", any_row, torch="<1"), "of which there is no build"),
    (changed("package_advisories", any_row, torch="two"), '"two" is no specifier'),
    (changed("package_advisories", any_row, capability="sm_70"), '"sm_70" is no specifier'),
    (changed("package_advisories", any_row, refuses=True), "adds requirements to what it refuses"),
    (changed("package_advisories", any_row, backend="cuda"), "on some systems only"),
    (changed("package_advisories", any_row, requires=("transformers=>4",)), "is no requirement"),
    (changed("package_advisories", any_row, os=("windows",)), "on some systems only"),
    (changed("package_advisories", any_row, reference=""), "names no reference"),
]


@pytest.fixture(scope="module")
def shipped() -> Matrix:
    return load_matrix()


@pytest.mark.parametrize(("damage", "fault"), DAMAGES)
def test_damage_of_packages_is_found(shipped: Matrix, damage: Damage, fault: str) -> None:
    faults = inconsistencies(damage(shipped))
    assert [one for one in faults if fault in one], faults[:5]


def test_what_is_known_of_kernels(shipped: Matrix) -> None:
    """Told by hand: autoawq-kernels 0.0.9 was built for torch 2.5.1; torch 2.7 changed its wheels' C++ strings."""
    rows = [row for row in shipped.packages if (row.name, row.version, row.os) == ("autoawq-kernels", "0.0.9", "linux")]
    assert {row.pythons for row in rows} == {("cp310",), ("cp311",), ("cp312",)}
    for row in rows:
        assert (row.cuda, row.torch_releases, row.libc_tag) == ("12", ("2.4", "2.5", "2.6"), "2.17")
        assert {one.name.partition(".")[0]: one.sass[0] for one in row.libraries} == {
            "awq_ext": "sm_75",
            "awq_ft_ext": "sm_75",
            "awq_v2_ext": "sm_80",
            "exl_ext": "sm_75",
            "exlv2_ext": "sm_75",
        }
    newest = max((row for row in shipped.packages if row.name == "gptqmodel"), key=lambda row: row.uploaded or "")
    assert (newest.kind, newest.libraries, newest.build_needs_torch) == ("sdist", (), False)
