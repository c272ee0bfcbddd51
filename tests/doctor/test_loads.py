"""Which native library a version of bitsandbytes loads, era by era. File names are some of those in its real wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnbenv.doctor.examine.cudart import libcudarts
from bnbenv.doctor.examine.loads import which_library
from bnbenv.doctor.model import Bitsandbytes, LibraryFile, Loads, Torch
from bnbenv.facts.model import Driver, Gpu, HostFacts, Libc, Platform, Unknown
from bnbenv.matrix.load import load_matrix
from bnbenv.paths import Sysroot

OK = Driver("ok", version="580.65.06", kernel_module="580.65.06", userland="580.65.06", cuda="13.0", source="nvml")
# version -> what is in its wheel for Linux on x86-64, not all of it
WHEELS = {
    "0.37.2": "cpu cuda110 cuda110_nocublaslt cuda118 cuda118_nocublaslt cuda121 cuda121_nocublaslt",
    "0.41.3": "cpu cuda117 cuda117_nocublaslt cuda118 cuda118_nocublaslt cuda121 cuda121_nocublaslt",
    "0.43.3": "cpu cuda117 cuda117_nocublaslt cuda118 cuda118_nocublaslt cuda121 cuda121_nocublaslt cuda124",
    "0.44.1": "cpu cuda117 cuda117_nocublaslt cuda118 cuda118_nocublaslt cuda121 cuda121_nocublaslt cuda124",
    "0.45.5": "cpu cuda117 cuda118 cuda121 cuda124 cuda126 cuda128",
    "0.46.1": "cpu cuda118 cuda126 cuda128 cuda129",
    "0.49.2": "cpu cuda118 cuda126 cuda128 cuda129 cuda130 rocm62 rocm63 rocm64 rocm70 xpu",
    "0.50.2": "cpu cuda118 cuda121 cuda124 cuda126 cuda128 cuda130 cuda132 rocm64 rocm70 rocm72 rocm714 xpu2025",
}


def gpu(index: int = 0, capability: str = "8.6", uuid: str = "") -> Gpu:
    return Gpu(index, uuid or f"GPU-{index}{index}", "a GPU", capability, 24 << 30)


def host(
    *gpus: Gpu, system: str = "linux", driver: Driver = OK, unknown: str = "", **environment: str | None
) -> HostFacts:
    return HostFacts(
        Platform(system, "x86_64", Libc("glibc", "2.36") if system == "linux" else None),
        driver,
        gpus,
        environment=dict(environment),
        unknown=(Unknown("gpus", unknown),) if unknown else (),
    )


def installed(version: str, suffix: str = ".so") -> Bitsandbytes:
    names = [f"libbitsandbytes_{word}{suffix}" for word in WHEELS[version].split()]
    libraries = tuple(LibraryFile(name=name, path=f"/site/bitsandbytes/{name}") for name in names)
    return Bitsandbytes(path="/site/bitsandbytes", version=version, libraries=libraries)


def torch(cuda: str | None = None, hip: str | None = None, xpu: str | None = None) -> Torch:
    return Torch(path="/site/torch", version="2.9.0", cuda=cuda, hip=hip, xpu=xpu)


def loads(
    version: str,
    cuda: str | None,
    override: str | None = None,
    facts: HostFacts | None = None,
    cudarts: tuple[str, ...] | None = None,
) -> Loads:
    return which_library(installed(version), torch(cuda), override, facts or host(gpu()), load_matrix(), cudarts)


def short(found: Loads) -> tuple[str, str | None]:
    """The answer, and the name that it is about."""
    return found.answer, (found.library or found.wanted or "").removeprefix("libbitsandbytes_") or None


@pytest.mark.parametrize(
    ("version", "cuda", "capability", "expected"),
    [
        ("0.41.3", "12.1", "8.6", ("yes", "cuda121.so")),
        ("0.41.3", "12.4", "8.6", ("no", "cuda124.so")),
        ("0.41.3", "12.1", "7.0", ("yes", "cuda121_nocublaslt.so")),
        ("0.44.1", "12.4", "6.1", ("no", "cuda124_nocublaslt.so")),
        ("0.45.5", "12.8", "7.0", ("yes", "cuda128.so")),
        ("0.45.5", "12.9", "8.6", ("no", "cuda129.so")),
        ("0.46.1", "13.0", "8.6", ("no", "cuda130.so")),
        ("0.49.2", "13.0", "8.6", ("yes", "cuda130.so")),
        ("0.49.2", "13.2", "8.6", ("no", "cuda132.so")),
        ("0.50.2", "13.2", "8.6", ("yes", "cuda132.so")),
        ("0.50.2", "13.1", "8.6", ("yes", "cuda130.so")),  # the highest lower one
        ("0.50.2", "12.0", "8.6", ("yes", "cuda121.so")),  # the lowest higher one
        ("0.50.2", "11.7", "8.6", ("yes", "cuda118.so")),
        ("0.50.2", "14.0", "9.0", ("unknown", "cuda140.so")),  # never across majors; no driver row for it
    ],
)
def test_what_torchs_cuda_leads_to(version: str, cuda: str, capability: str, expected: tuple[str, str]) -> None:
    assert short(loads(version, cuda, facts=host(gpu(capability=capability)))) == expected


@pytest.mark.parametrize(
    ("version", "override", "capability", "expected"),
    [
        ("0.41.3", "118", "8.6", ("yes", "cuda118.so")),
        ("0.41.3", "118", "7.0", ("no", "cuda121_nocubla118.so")),  # the name is cut in the wrong place
        ("0.43.3", "118", "7.0", ("no", "cuda121_nocublaslt118.so")),
        ("0.44.1", "118", "7.0", ("yes", "cuda118_nocublaslt.so")),
        ("0.45.5", "118", "8.6", ("yes", "cuda118.so")),
        ("0.45.5", "111", "8.6", ("no", "cuda111.so")),
        ("0.45.5", "", "8.6", ("yes", "cuda121.so")),  # empty counts as not set
        ("0.45.5", "12.1", "8.6", ("no", "cuda12.1.so")),
        ("0.50.2", "118", "8.6", ("yes", "cuda118.so")),
        ("0.50.2", "131", "8.6", ("no", "cuda131.so")),  # no fallback for what is named
        ("0.50.2", "", "8.6", ("no", None)),
        ("0.50.2", "12.1", "8.6", ("no", None)),
    ],
)
def test_what_an_override_leads_to(
    version: str, override: str, capability: str, expected: tuple[str, str | None]
) -> None:
    found = loads(version, "12.1", override, host(gpu(capability=capability)))
    assert short(found) == expected
    assert found.override == (override if override or version == "0.50.2" else None)
    if expected[1] is None:
        assert repr(override) in found.because


def test_a_library_that_is_missing_is_replaced_in_silence_by_some() -> None:
    assert "CPU library, with a warning alone" in loads("0.45.5", "12.9").because
    assert "warning" not in loads("0.46.1", "13.0").because
    assert "warning" not in loads("0.41.3", "12.4").because


@pytest.mark.parametrize(
    ("facts", "cuda", "words"),
    [
        (host(gpu()), None, "torch 2.9.0 is built without CUDA"),
        (host(driver=Driver("absent")), "12.8", "there is no NVIDIA driver"),
        (host(driver=Driver("mismatch", kernel_module="580.1", userland="580.2")), "12.8", "reboot"),
        (host(), "12.8", "there is no NVIDIA GPU"),
        (host(gpu(), CUDA_VISIBLE_DEVICES=""), "12.8", "hides all GPUs"),
        (host(gpu(), CUDA_VISIBLE_DEVICES="-1"), "12.8", "hides all GPUs"),
        (host(gpu(), CUDA_VISIBLE_DEVICES="3,0"), "12.8", "hides all GPUs"),
        (host(gpu(), driver=Driver("ok", version="470.82.01")), "12.8", "needs driver 525"),
    ],
)
def test_without_a_gpu_that_torch_can_use_the_cpu_library_is_loaded(
    facts: HostFacts, cuda: str | None, words: str
) -> None:
    found = loads("0.50.2", cuda, "999", facts)  # an override plays no part then
    assert (found.answer, found.library, found.override) == ("yes", "libbitsandbytes_cpu.so", None)
    assert words in found.because


@pytest.mark.parametrize("shown", ["0", "GPU-00", "gpu-0", "0,7", None])
def test_a_gpu_that_is_shown_is_used(shown: str | None) -> None:
    assert short(loads("0.50.2", "12.8", facts=host(gpu(), CUDA_VISIBLE_DEVICES=shown))) == ("yes", "cuda128.so")


def test_the_twin_goes_by_the_gpus_that_are_shown() -> None:
    both = (gpu(0, "6.1"), gpu(1, "8.6"))
    assert short(loads("0.44.1", "12.1", facts=host(*both))) == ("yes", "cuda121.so")
    hidden = host(*both, CUDA_VISIBLE_DEVICES="0")
    assert short(loads("0.44.1", "12.1", facts=hidden)) == ("yes", "cuda121_nocublaslt.so")


def test_what_cannot_be_known_is_unknown_with_what_it_would_be() -> None:
    found = loads("0.50.2", "12.8", facts=host(driver=Driver("ok", version="580.65.06"), unknown="NVML timed out"))
    assert short(found) == ("unknown", "cuda128.so") and "NVML timed out" in found.because
    compat = host(gpu(), driver=Driver("ok", version="470.82.01"), LD_LIBRARY_PATH="/usr/local/cuda/compat")
    assert short(loads("0.50.2", "12.8", facts=compat)) == ("unknown", "cuda128.so")
    newer = host(gpu(), driver=Driver("ok", version="535.161.08", cuda="13.0"))  # by the word of a compat library
    assert short(loads("0.50.2", "13.0", facts=newer)) == ("unknown", "cuda130.so")
    broken = Torch(path="/site/torch", fault="its version.py is missing")
    found = which_library(installed("0.50.2"), broken, None, host(gpu()), load_matrix())
    assert found.answer == "unknown" and "version.py is missing" in found.because
    nameless = which_library(Bitsandbytes(path="/site/bitsandbytes"), torch("12.8"), None, host(gpu()), load_matrix())
    assert nameless.answer == "unknown"


def test_a_missing_cpu_library() -> None:
    """0.45.4 for Linux ships none."""
    one = Bitsandbytes(path="/site/bitsandbytes", version="0.45.4")
    found = which_library(one, torch(None), None, host(), load_matrix())
    assert (found.answer, found.wanted) == ("no", "libbitsandbytes_cpu.so")


@pytest.mark.parametrize(
    ("version", "hip", "rocm", "override", "expected"),
    [
        ("0.49.2", "6.4.43484-123a", None, None, ("unknown", "rocm64.so")),
        ("0.49.2", "7.14.0", None, None, ("unknown", "rocm84.so")),  # 7 * 10 + 14
        ("0.49.2", "6.4.1", None, "128", ("no", None)),
        ("0.50.2", "7.14.0", None, None, ("unknown", "rocm714.so")),
        ("0.50.2", "7.1.0", None, None, ("unknown", "rocm70.so")),
        ("0.50.2", "6.2.0", None, "128", ("unknown", "rocm64.so")),  # its override has another name
        ("0.50.2", "6.2.0", "72", None, ("unknown", "rocm72.so")),
        ("0.50.2", "6.2.0", "", None, ("no", None)),
        ("0.45.5", "6.2.0", None, None, ("no", None)),
    ],
)
def test_rocm(version: str, hip: str, rocm: str | None, override: str | None, expected: tuple[str, str | None]) -> None:
    facts = host(driver=Driver("absent"), BNB_ROCM_VERSION=rocm)
    assert short(which_library(installed(version), torch(hip=hip), override, facts, load_matrix())) == expected


@pytest.mark.parametrize(
    ("version", "xpu", "expected"),
    [
        ("0.50.2", "20250303", ("yes", "xpu2025.so")),
        ("0.50.2", "20260101", ("no", "xpu.so")),
        ("0.49.2", "20250303", ("yes", "xpu.so")),
        ("0.46.1", "20250303", ("yes", "cpu.so")),
    ],
)
def test_xpu(version: str, xpu: str, expected: tuple[str, str]) -> None:
    facts = host(driver=Driver("absent"))
    assert short(which_library(installed(version), torch(xpu=xpu), None, facts, load_matrix())) == expected


@pytest.mark.parametrize(
    ("version", "suffix", "system", "expected"),
    [
        ("0.50.2", ".dll", "windows", ("yes", "cuda128.dll")),
        ("0.50.2", ".dylib", "macos", ("yes", "cpu.dylib")),
        ("0.41.3", ".so", "windows", ("no", "cuda128.so")),  # its names end in .so everywhere
    ],
)
def test_other_systems(version: str, suffix: str, system: str, expected: tuple[str, str]) -> None:
    found = which_library(installed(version, suffix), torch("12.8"), None, host(gpu(), system=system), load_matrix())
    assert short(found) == expected


@pytest.mark.parametrize(
    ("cudarts", "capability", "expected"),
    [
        (("/usr/local/cuda/lib64/libcudart.so.11.8.89",), "8.6", ("yes", "cuda118.so")),
        (("/usr/local/cuda/lib64/libcudart.so.11.8.89",), "6.1", ("yes", "cuda118_nocublaslt.so")),
        (("/usr/local/cuda/lib64/libcudart.so.12.4.99",), "8.6", ("no", "cuda124.so")),
        (("/a/libcudart.so.11.8.89", "/b/libcudart.so.12.1.105"), "8.6", ("unknown", None)),
        (("/a/libcudart.so.11.8.89", "/b/libcudart.so.11.8.86"), "8.6", ("yes", "cuda118.so")),
        (("/a/libcudart.so.11.0",), "8.6", ("unknown", None)),  # any release of 11 is called so
        ((), "8.6", ("yes", "cpu.so")),
        (None, "8.6", ("unknown", None)),
    ],
)
def test_through_040_a_libcudart_decides(
    cudarts: tuple[str, ...] | None, capability: str, expected: tuple[str, str | None]
) -> None:
    facts = host(gpu(capability=capability))
    assert short(loads("0.37.2", "12.1", "118", facts, cudarts)) == expected


def test_where_a_libcudart_is_looked_for(tmp_path: Path) -> None:
    def put(folder: str, name: str = "libcudart.so") -> str:
        place = tmp_path / folder
        place.mkdir(parents=True)
        (place / "libcudart.so.11.8.89").write_bytes(b"")
        (place / name).symlink_to("libcudart.so.11.8.89")
        return str((place / "libcudart.so.11.8.89").resolve())

    root = Sysroot(tmp_path / "root")
    assert libcudarts({}, root) == ()
    last = put("root/usr/local/cuda/lib64")
    assert libcudarts({"PATH": "/usr/bin", "HOME": "/home/user"}, root) == (last,)
    other = put("elsewhere")
    environ = {"CUDA_HOME": str(tmp_path / "elsewhere"), "CONDA_EXE": str(tmp_path), "PATH": str(tmp_path / "root")}
    assert libcudarts(environ, root) == (other,)
    variable = put("variable", "libcudart.so.12.0")
    environ["LD_LIBRARY_PATH"] = f"/nowhere::{tmp_path / 'variable'}"
    assert libcudarts(environ, root) == (variable,)
    conda = put("conda/lib", "libcudart.so.11.0")
    assert libcudarts({**environ, "CONDA_PREFIX": str(tmp_path / "conda")}, root) == (conda,)
