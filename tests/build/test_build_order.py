"""What is to be compiled: what people write, and what is meant where they wrote nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bnbenv.build.model import Order
from bnbenv.build.order import Asked, Beside, of_version, plan, read_archs, read_cuda
from bnbenv.errors import NoCombination, RebootRequired, UsageError
from bnbenv.facts.model import HostFacts, decode_facts
from bnbenv.matrix.model import Matrix
from bnbenv.solve.model import Availability, Buildable

HOSTS = Path(__file__).parent.parent / "hosts"
H200, V100 = "linux-x86_64__580.65.06__h200-sm90", "linux-x86_64__580.65.06__v100-sm70"
TWO = "linux-x86_64__570.133.20__rtx3090-sm86+v100-sm70"
NOTHING, ORIN = "linux-x86_64__absent__nogpu__glibc2.36", "linux-aarch64__540.4.0__orin-sm87__jetson36.4"
LOCK = Beside("2.13.0", "13.0", "0.49.2", "pylock.bnb.toml")


def facts(name: str) -> HostFacts:
    return decode_facts((HOSTS / name / "facts.json").read_bytes(), name)


def ordered(name: str, matrix: Matrix, beside: Beside | None = None, **asked: object) -> Order:
    return plan(Asked(**asked), facts(name), matrix, Availability(), beside).order  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "archs"),
    [
        (["sm_87"], ("sm_87",)),
        (["87", "8.7", "SM87", "sm_87"], ("sm_87",)),
        (["sm_120,9.0", "80; 86"], ("sm_80", "sm_86", "sm_90", "sm_120")),
        (["12.1", "10.0"], ("sm_100", "sm_121")),
        ([], ()),
    ],
)
def test_architectures_as_people_write_them(words: list[str], archs: tuple[str, ...], matrix: Matrix) -> None:
    assert read_archs(words, matrix) == archs


@pytest.mark.parametrize(
    ("word", "said", "step"),
    [
        ("sm_91", "there is no architecture sm_91: near it are sm_87, sm_88, sm_89, sm_90", "--arch sm_90"),
        ("9.0a", "its kernels are the same on sm_90", "--arch sm_90"),
        ("sm_100f", "its kernels are the same on sm_100", "--arch sm_100"),
        ("compute_90", '"compute_90" names PTX', "--arch sm_90"),
        ("90-virtual", '"90-virtual" names PTX', "--arch sm_90"),
        ("RTX 5090", "no architecture", "Did you mean: --arch sm_120"),
        ("native", "no architecture", "bnbenv matrix show --gpu"),
        ("-90", "no architecture", "such as --arch sm_90"),
        (" , ", "an empty text is no architecture", "such as --arch sm_90"),
        ("9" * 5000, "no architecture", "such as --arch sm_90"),
    ],
)
def test_what_is_no_architecture(word: str, said: str, step: str, matrix: Matrix) -> None:
    with pytest.raises(UsageError) as refused:
        read_archs(["sm_80", word], matrix)
    assert refused.value.code == "unknown-architecture"
    assert said in refused.value.message and len(refused.value.message) < 200
    assert step in refused.value.next_step


def test_a_cuda_release_is_named_by_two_numbers(matrix: Matrix) -> None:
    assert {read_cuda(word, matrix) for word in ("13.0", "130", "cu130", "CUDA13.0", " 13.0 ")} == {"13.0"}
    for word in ("13", "13.0.88", "thirteen", "", "-13.0"):
        with pytest.raises(UsageError, match="is no CUDA release") as refused:
            read_cuda(word, matrix)
        assert "12.8" in refused.value.next_step


def test_without_a_word_it_is_for_the_gpus_here_and_for_the_torch_that_the_solver_takes(matrix: Matrix) -> None:
    planned = plan(Asked(), facts(H200), matrix, Availability(), None)
    assert planned.order.archs == ("sm_90",)
    assert planned.order.cuda.startswith("13."), "driver 580 runs CUDA 13"
    assert planned.open and len(planned.because) == 3
    assert ordered(TWO, matrix).archs == ("sm_70", "sm_86")
    assert ordered(TWO, matrix, gpus=("0",)).archs in (("sm_86",), ("sm_70",))
    assert ordered(V100, matrix).cuda.startswith("12."), "CUDA 13 does not compile for a V100"


def test_a_lock_says_with_which_cuda_and_which_release(matrix: Matrix) -> None:
    planned = plan(Asked(), facts(H200), matrix, Availability(), LOCK)
    assert planned.order == Order("0.49.2", "13.0", ("sm_90",))
    assert not planned.open
    assert [line for line in planned.because if "pylock.bnb.toml" in line] == list(planned.because[1:])
    assert ordered(H200, matrix, LOCK, ref="main").ref == "main"
    other = plan(Asked(cuda="12.8"), facts(H200), matrix, Availability(), LOCK)
    assert (other.order.cuda, other.open) == ("12.8", True), "the locked release is for another CUDA"
    of_cpu = LOCK._replace(cuda=None)
    assert plan(Asked(), facts(H200), matrix, Availability(), of_cpu).open


def test_what_is_named_is_taken_as_it_is_named(matrix: Matrix) -> None:
    named = ordered(NOTHING, matrix, ref="0.50.1", cuda="13.0", archs=("sm_87", "sm_90"))
    assert named == Order("0.50.1", "13.0", ("sm_87", "sm_90"))
    tree = ordered(NOTHING, matrix, source="/src", cuda="13.0", archs=("sm_90",), as_it_is=True)
    assert tree == Order(None, "13.0", ("sm_90",), "/src")


def test_the_machine_that_compiles_need_not_be_the_one_that_runs(matrix: Matrix) -> None:
    for arch in ("sm_75", "sm_87", "sm_90", "sm_121"):
        found = ordered(NOTHING, matrix, archs=(arch,))
        toolkit = next(row for row in matrix.toolkits if row.cuda == found.cuda)
        assert found.archs == (arch,) and arch in toolkit.sass, arch
    assert ordered(NOTHING, matrix, archs=("sm_70",)).cuda.startswith("12.")


def test_a_release_is_one_for_such_gpus_and_the_cuda_one_that_its_source_takes(matrix: Matrix) -> None:
    nowhere = Availability(builds=Buildable({"12.6": "no toolkit"}, None))
    old = plan(Asked(archs=("sm_52",)), facts(NOTHING), matrix, nowhere, None).order
    assert old.ref == "0.48.2", "later kernels are for sm_60 and newer"
    assert ordered(NOTHING, matrix, archs=("sm_87",), ref="0.45.0").cuda == "12.9", "13 came after it"
    assert ordered(NOTHING, matrix, archs=("sm_87",), ref="0.99.0").cuda.startswith("13."), "taken to be as the newest"
    with pytest.raises(NoCombination) as refused:
        ordered(NOTHING, matrix, archs=("sm_52",), ref="0.50.1")
    assert "is for sm_60 and newer" in refused.value.message
    assert refused.value.next_step.endswith("bnbenv build --cuda 12.6 --ref 0.48.2 --arch sm_52")


def test_a_toolkit_that_does_not_know_the_gpu_compiles_the_older_code_that_it_runs(matrix: Matrix) -> None:
    name = "linux-x86_64__580.95.05__8xb300-sm103"
    (older,) = ordered(name, matrix, cuda="12.8", ref="0.50.1").archs
    assert older in ("sm_100", "sm_101"), "CUDA 12.8 came before it"
    assert ordered(name, matrix, cuda="13.0", ref="0.50.1").archs == ("sm_103",)


def test_of_what_would_do_as_well_what_can_be_had(matrix: Matrix) -> None:
    there = Buildable({"13.0": "", "13.2": "not within reach"}, frozenset({"0.50.0"}))
    found = Availability(builds=there)
    planned = plan(Asked(), facts(H200), matrix, found, None)
    assert (planned.order.cuda, planned.order.ref) == ("13.0", "0.50.0")


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (NOTHING, "there is no NVIDIA GPU here"),
        ("linux-x86_64__error__nogpu__hung", "NVML did not answer"),
    ],
)
def test_without_a_gpu_an_architecture_has_to_be_named(host: str, said: str, matrix: Matrix) -> None:
    with pytest.raises(UsageError) as refused:
        ordered(host, matrix)
    assert refused.value.code == "no-architecture"
    assert said in refused.value.message and "--arch sm_90" in refused.value.next_step


def test_a_driver_that_waits_for_a_reboot_knows_no_gpu(matrix: Matrix) -> None:
    with pytest.raises(RebootRequired) as refused:
        ordered("linux-x86_64__mismatch__nogpu", matrix)
    assert "--arch sm_90" in refused.value.next_step
    planned = plan(Asked(archs=("sm_90",)), facts("linux-x86_64__mismatch__nogpu"), matrix, Availability(), None)
    assert planned.order.archs == ("sm_90",)


def test_what_nothing_tells_has_to_be_named(matrix: Matrix) -> None:
    with pytest.raises(NoCombination, match="L4T") as jetson:
        ordered(ORIN, matrix)
    assert "--cuda" in jetson.value.next_step
    with pytest.raises(NoCombination) as tree:
        ordered(ORIN, matrix, source="/a tree", as_it_is=True)
    assert "bnbenv build --source '/a tree' --cuda 1" in tree.value.next_step
    assert tree.value.next_step.endswith(" --arch sm_87"), "a folder has no other release"
    with pytest.raises(NoCombination) as old:
        ordered("linux-x86_64__470.256.02__k40m-sm35", matrix)
    assert "No source of bitsandbytes that is known is for sm_35" in old.value.next_step
    with pytest.raises(UsageError, match="GPU 7 is not on this host"):
        ordered(H200, matrix, gpus=("7",))


def test_a_version_says_what_was_compiled() -> None:
    assert of_version("0.50.2+bnbenv.cu130.sm80.sm120") == Order("0.50.2", "13.0", ("sm_80", "sm_120"))
    assert of_version("0.51.0.dev0+bnbenv.cu128.sm90") == Order("0.51.0.dev0", "12.8", ("sm_90",))
    for version in ("0.50.2", "0.50.2+cu130", "0.50.2+bnbenv.cu130", "0.50.2+bnbenv.sm90", ""):
        assert of_version(version) is None


def test_the_torch_of_a_jetson_decides(matrix: Matrix) -> None:
    from bnbenv.matrix.model import Evidence, TorchBuild
    from bnbenv.solve.model import Existing

    torch = TorchBuild(
        version="2.5.0a0+872d972e41.nv24.08",
        source="existing",
        os="linux",
        machine="aarch64",
        cuda="12.6",
        arch_list=("sm_87",),
        pythons=("cp310",),
        requires_dist=(),
        evidence=Evidence("measured", "site-packages", "2026-11-21"),
    )
    host = msgspec.structs.replace(facts(ORIN), pythons=())
    found = Availability(existing=Existing(torch, "3.10.12"), managed_python=False)
    planned = plan(Asked(), host, matrix, found, None)
    assert (planned.order.cuda, planned.order.archs) == ("12.6", ("sm_87",))
