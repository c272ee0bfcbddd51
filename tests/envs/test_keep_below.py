"""What lies below an environment: as it is read, what of it is never hidden, and what is seen of it later."""

from __future__ import annotations

import shutil
from pathlib import Path

from bnbenv.envs.keep.below import Distribution, broken_by, held, read_below
from bnbenv.envs.keep.observe import base_reasons, observe_base, versions_below
from bnbenv.matrix.model import Evidence, TorchBuild

LINUX = {"python_version": "3.11", "python_full_version": "3.11.7", "platform_system": "Linux"}
TORCH = TorchBuild(
    version="2.6.0+cu124",
    source="existing",
    os="linux",
    machine="x86_64",
    cuda="12.4",
    arch_list=("sm_90",),
    pythons=("cp311",),
    requires_python=None,
    requires_dist=("filelock",),
    evidence=Evidence("measured", "a test", "2026-11-21"),
)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("Metadata-Version: 2.1", *lines, "")))


def test_distributions_are_read_in_the_order_of_an_import(tmp_path: Path) -> None:
    """Debian's egg-info is a mere file, others are folders; what cannot be read is left out."""
    first, second = tmp_path / "first", tmp_path / "second"
    write(first / "torch-2.6.0.dist-info" / "METADATA", "Name: torch", "Version: 2.6.0", "Requires-Dist: sympy==1.13.1")
    write(first / "PyYAML-6.0.dist-info" / "METADATA", "Name: PyYAML", "Version: 6.0")
    write(second / "PyYAML-5.0.egg-info", "Name: PyYAML", "Version: 5.0")
    write(second / "Some_Thing-1.0-py3.11.egg-info" / "PKG-INFO", "Name: Some_Thing", "Version: 1.0")
    write(second / "odd-x.dist-info" / "METADATA", "Name: odd", "Version: not a version")
    (second / "empty-1.0.dist-info").mkdir()
    found = read_below([str(first), str(tmp_path / "nowhere"), str(second)], TORCH)
    assert {one.name: one.version for one in found.values()} == {
        "torch": "2.6.0+cu124",  # as it was measured: its own metadata leave the build out
        "pyyaml": "6.0",
        "some-thing": "1.0",
    }
    assert found["torch"].requires == ("sympy==1.13.1",)
    assert read_below([], TORCH)["torch"].requires == ("filelock",)


def test_what_torch_requires_and_brings_is_held() -> None:
    below = {
        "torch": Distribution("torch", "2.6.0", ("sympy", "cuda[blas]", 'colorama; platform_system == "Windows"')),
        "sympy": Distribution("sympy", "1.13.1", ("mpmath<1.4",)),
        "mpmath": Distribution("mpmath", "1.3.0"),
        "cuda": Distribution("cuda", "12", ('blas; extra == "blas"', 'rand; extra == "rand"')),
        "blas": Distribution("blas", "1", ("torch",)),
        "nvidia-nccl-cu12": Distribution("nvidia-nccl-cu12", "2.21"),
        **{name: Distribution(name, "1") for name in ("rand", "colorama", "numpy", "requests")},
    }
    assert held(below, LINUX) == {"torch", "sympy", "mpmath", "cuda", "blas", "nvidia-nccl-cu12"}


def test_what_a_newer_one_breaks() -> None:
    below = {
        "old": Distribution("old", "1.0"),
        "user": Distribution("user", "1", ("old<2",)),
        "broken-before": Distribution("broken-before", "1", ("old>=5,<6",)),
        "content": Distribution("content", "1", ("old",)),
    }
    assert broken_by({"old": "2.0"}, below, LINUX) == {"old": ["user"]}
    assert broken_by({"old": "2.0", "user": "2"}, below, LINUX) == {}  # that one is hidden too


def test_versions_stand_in_the_names_of_folders_and_files(tmp_path: Path) -> None:
    write(tmp_path / "torch-2.6.0+cu124.dist-info" / "METADATA")
    write(tmp_path / "python_debian-0.1.49.egg-info", "Name: python-debian")
    write(tmp_path / "Some.Thing-1.0-py3.11.egg-info" / "PKG-INFO")
    found = versions_below([str(tmp_path)], str(tmp_path / "torch"))
    assert found == {"torch": "2.6.0+cu124", "python-debian": "0.1.49", "some-thing": "1.0"}


def test_changes_below_are_seen(tmp_path: Path) -> None:
    """A package that is installed into an earlier folder counts as a change, one that nobody counts on does not."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    write(second / "numpy-1.26.4.dist-info" / "METADATA")
    write(second / "torch" / "version.py", "__version__: str = '2.6.0'")
    folders, torch = [str(first), str(second)], str(second / "torch")
    base = observe_base(str(second), "python", "PYTHONPATH", folders, torch, ["numpy"])
    assert base["packages"] == {"numpy": "1.26.4", "torch": "2.6.0"}
    assert base_reasons(base) == ()
    write(second / "other-1.0.dist-info" / "METADATA")
    assert base_reasons(base) == ()
    write(first / "numpy-2.1.0.dist-info" / "METADATA")
    assert base_reasons(base) == (("base-changed", f"below it, in {second}: numpy was 1.26.4 and is 2.1.0"),)
    write(second / "torch" / "version.py", "__version__: str = '2.7.0'")
    ((code, because),) = base_reasons(base)
    assert code == "base-changed"
    assert because.startswith(f"below it, in {second}: torch was 2.6.0 and is 2.7.0, numpy was")
    shutil.rmtree(torch)
    assert base_reasons(base) == (("base-gone", f"the torch that it lies on is gone ({torch})"),)
