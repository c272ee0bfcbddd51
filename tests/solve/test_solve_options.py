"""Source builds, the torch that is there, and the options of a refusal: what they give, and in which order."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bnbenv.facts.model import Libc
from bnbenv.matrix.model import Advisory, Matrix, TorchBuild
from bnbenv.solve.model import Availability, Existing, Option, Refusal, Request, Solution
from bnbenv.solve.situation import read_gpus, with_request
from bnbenv.solve.solver import solve
from bnbenv.solve.versions import read_specifier


def table(rows: Any, shipped: Matrix, *parts: Any) -> Matrix:
    """These rows, and the shipped toolkits and sources."""
    known = {"toolkits": shipped.toolkits, "source_releases": shipped.source_releases}
    matrix: Matrix = msgspec.structs.replace(rows.matrix(*parts), **known)
    return matrix


def refused(facts: Any, matrix: Matrix, request: Request, found: Availability | None = None) -> tuple[Option, ...]:
    answer = solve(facts, matrix, request, found)
    assert isinstance(answer, Refusal), answer
    return answer.options


def asked(words: tuple[str, ...]) -> Request:
    """The options of ``bnbenv solve`` as a request."""
    plain = [word for word in words if word not in ("--build", "--no-build")]
    request = Request(build="always" if "--build" in words else "never" if "--no-build" in words else "auto")
    for name, value in zip(plain[::2], plain[1::2], strict=True):
        read: Any = read_gpus if name == "--gpus" else read_specifier
        raw = name in ("--backend", "--driver") or value == "keep"
        request = msgspec.structs.replace(request, **{name[2:]: value if raw else read(value, name, "")})
    return request


def existing(rows: Any, version: str, archs: str, cuda: str = "12.6", machine: str = "x86_64") -> Existing:
    build: TorchBuild = rows.torch(version, cuda=cuda, archs=archs, source="existing")
    return Existing(msgspec.structs.replace(build, machine=machine, path="there", libc_tag=None), "3.12.3")


@pytest.fixture
def lacking(rows: Any, shipped: Matrix) -> Matrix:
    """A torch for sm_70 and sm_80, and a bitsandbytes whose published library for its CUDA lacks sm_70."""
    return table(
        rows,
        shipped,
        rows.torch("2.9.0", cuda="12.6", archs="sm_70 sm_80"),
        rows.wheel("0.50.0", {"cuda126": "sm_80", "cuda118": "sm_60", "cpu": ""}),
        rows.wheel("0.49.2", {"cuda126": "sm_80", "cuda118": "sm_60", "cpu": ""}),
    )


def test_a_build_is_chosen_where_no_wheel_fits(rows: Any, lacking: Matrix) -> None:
    answer = solve(rows.host("7.0"), lacking, Request())
    assert isinstance(answer, Solution)
    assert (answer.choice.bitsandbytes.version, answer.choice.bitsandbytes.source) == ("0.50.0", "build")
    (note,) = answer.notes
    assert note.startswith("no published wheel fits: libbitsandbytes_cuda126.so of bitsandbytes 0.50.0 has no code")
    assert solve(rows.host("7.0"), lacking, Request(build="always")).document()["choice"] == answer.document()["choice"]


def test_a_build_is_offered_where_only_wheels_were_to_be_taken(rows: Any, lacking: Matrix) -> None:
    never = refused(rows.host("7.0"), lacking, Request(build="never"))
    assert [option.solve_args for option in never] == [("--build",), ("--backend", "cpu")]
    assert never[0].change == "compile bitsandbytes 0.50.0 for sm_70 with CUDA 12.6"
    assert never[0].gives == "bitsandbytes 0.50.0 (compiled here) with torch 2.9.0 (CUDA 12.6), Python 3.12"
    assert never[0].command == "bnbenv sync --build"
    both = refused(rows.host("7.0", "8.0"), lacking, Request(build="never", torch="==2.9.0"))
    assert both[0].command == "bnbenv sync --torch '==2.9.0' --no-build --gpus 1"
    assert both[1].command == "bnbenv sync --torch '==2.9.0' --build"


def test_a_build_is_given_up_together_with_another_wish(rows: Any, lacking: Matrix) -> None:
    """Where nothing can be compiled and the wish for torch cannot be had either, neither alone would help."""
    facts = rows.host("8.0")
    facts = msgspec.structs.replace(facts, platform=msgspec.structs.replace(facts.platform, os="windows", libc=None))
    here = {
        "torch": tuple(msgspec.structs.replace(row, os="windows", libc_tag=None) for row in lacking.torch),
        "bitsandbytes": tuple(
            msgspec.structs.replace(row, os="windows", libc_tag=None) for row in lacking.bitsandbytes
        ),
    }
    both = refused(facts, msgspec.structs.replace(lacking, **here), Request(build="always", torch=">=2.12"))
    assert both[0].change == "take a published wheel and give up the wish for torch"
    assert both[0].command == "bnbenv sync --torch '*' --no-build"


def test_a_wheel_comes_before_a_build(rows: Any, shipped: Matrix) -> None:
    """Though its code is PTX, which a note tells, or it needs an override, or it is older."""
    torch = rows.torch("2.10.0", archs="sm_80")
    by_ptx = table(rows, shipped, torch, rows.wheel("0.49.2", {"cuda130": "sm_75 compute_75"}))
    answer = solve(rows.host("8.0"), by_ptx, Request())
    assert isinstance(answer, Solution)
    assert (answer.choice.bitsandbytes.source, answer.covers[0].bitsandbytes) == ("wheel", "ptx compute_75")
    assert answer.notes == ("bitsandbytes has only PTX for GPU 0: --build compiles native code for it",)
    older = table(
        rows,
        shipped,
        torch,
        rows.wheel("0.50.0", {"cuda126": "sm_75"}),
        rows.wheel("0.49.1", {"cuda131": "sm_80", "cuda126": "sm_75"}),
    )
    answer = solve(rows.host("8.0"), older, Request())
    assert isinstance(answer, Solution)
    assert (answer.choice.bitsandbytes.version, answer.choice.environment) == ("0.49.1", {"BNB_CUDA_VERSION": "131"})
    assert solve(rows.host("8.0"), older, Request(build="never")).document() == answer.document()


def test_a_build_is_for_exactly_these_gpus(rows: Any, lacking: Matrix) -> None:
    """The newest release, where a published one would do, too: it was asked for."""
    answer = solve(rows.host("7.0", "8.0", "7.0"), lacking, Request(build="always"))
    assert isinstance(answer, Solution)
    assert answer.choice.bitsandbytes.library == "libbitsandbytes_cuda126.so"
    assert [cover.bitsandbytes for cover in answer.covers] == ["sass sm_70", "sass sm_80", "sass sm_70"]
    assert ("compiler of CUDA 12.6", "measured") in [(line.about, line.level) for line in answer.evidence]


@pytest.mark.parametrize(
    ("capability", "cuda", "rule"),
    [
        ("12.0", "12.6", "toolkit-arch[0]"),  # from CUDA 12.8 on
        ("7.0", "13.0", "toolkit-arch[0]"),  # through 12.9
        ("5.2", "12.6", "build-arch[0]"),  # no library of 0.50 was ever published for less than sm_60
        ("8.0", "12.7", "toolkit"),  # no such toolkit
    ],
)
def test_what_a_compiler_or_a_release_cannot(rows: Any, shipped: Matrix, capability: str, cuda: str, rule: str) -> None:
    arch = f"sm_{capability.replace('.', '')}"
    matrix = table(
        rows, shipped, rows.torch("2.9.0", cuda=cuda, archs=arch), rows.wheel("0.50.0", {"cuda118": "sm_60"})
    )
    answer = solve(rows.host(capability), matrix, Request(build="always"))
    assert isinstance(answer, Refusal)
    assert [part.rule for part in answer.conflict] == [rule]


def test_releases_before_0_45_are_not_compiled(rows: Any, shipped: Matrix) -> None:
    """Their loader looks for other names than cmake gives."""
    torch = rows.torch("2.9.0", cuda="12.6", archs="sm_70")
    matrix = table(rows, shipped, torch, rows.wheel("0.44.1", {"cuda118": "sm_60"}, requires="torch"))
    answer = solve(rows.host("7.0"), matrix, Request(build="always"))
    assert isinstance(answer, Refusal)
    assert [(part.rule, part.source) for part in answer.conflict] == [("platform", "the matrix")]


def test_a_wheel_for_any_platform_is_for_glibc_nevertheless(rows: Any, shipped: Matrix) -> None:
    """Through 0.42 they hold binaries for Linux on x86-64."""
    wheel = rows.wheel("0.49.0", {"cuda130": "sm_80"})
    name = "bitsandbytes-0.49.0-py3-none-any.whl"
    wheel = msgspec.structs.replace(wheel, libc_tag=None, filename=name)
    torch = msgspec.structs.replace(rows.torch("2.10.0"), libc_tag=None)
    facts = rows.host("8.0")
    assert isinstance(solve(facts, table(rows, shipped, torch, wheel), Request()), Solution)
    musl = msgspec.structs.replace(facts.platform, libc=Libc("musl", "1.2.5"))
    answer = solve(msgspec.structs.replace(facts, platform=musl), table(rows, shipped, torch, wheel), Request())
    assert isinstance(answer, Refusal)
    assert [(part.rule, part.source) for part in answer.conflict] == [("libc", name)]


def test_of_fewer_gpus_only_the_most(rows: Any, shipped: Matrix) -> None:
    """Not each set of some of them, which would do, too."""
    matrix = table(
        rows,
        shipped,
        rows.torch("2.10.0", archs="sm_75 sm_80 sm_120"),
        rows.wheel("0.50.0", {"cuda130": "sm_75 sm_80", "cpu": ""}),
    )
    options = refused(rows.host("7.5", "8.0", "12.0"), matrix, Request(build="never"))
    assert [option.change for option in options] == [
        "take only GPU 0, 1",
        "compile bitsandbytes 0.50.0 for sm_75 sm_80 sm_120 with CUDA 13.0",
        "use the CPU only",
    ]


def test_on_a_jetson_only_what_is_there_and_a_build(rows: Any, shipped: Matrix) -> None:
    """Wheels are refused there; torch that is there, with bitsandbytes compiled for it, is an option that solves."""
    facts = rows.host("8.7", driver="540.4.0", machine="aarch64")
    facts = msgspec.structs.replace(facts, platform=msgspec.structs.replace(facts.platform, jetson="36.4"))
    found = Availability(existing=existing(rows, "2.5.0a0+872d972e41.nv24.08", "sm_87", machine="aarch64"))
    answer = solve(facts, shipped, Request(), found)
    assert isinstance(answer, Refusal)
    assert [part.rule for part in answer.conflict] == ["jetson"]
    assert answer.options[0].solve_args == ("--torch", "keep")
    assert answer.options[0].change.endswith(" for sm_87 with CUDA 12.6 for the torch that is there")
    never = refused(facts, shipped, Request(build="never"), found)
    assert never[0].solve_args == ("--torch", "keep", "--build")
    again = solve(facts, shipped, asked(answer.options[0].solve_args), found)
    assert isinstance(again, Solution)
    assert (again.choice.torch.source, again.choice.bitsandbytes.source) == ("existing", "build")
    assert [cover.bitsandbytes for cover in again.covers] == ["sass sm_87"]


def test_torch_that_is_kept_is_the_only_candidate(rows: Any, shipped: Matrix) -> None:
    """Neither a newer one nor a local one; and its Python is the one that counts."""
    wheel = rows.wheel("0.50.0", {"cuda126": "sm_80", "cuda130": "sm_80"})
    matrix = table(rows, shipped, rows.torch("2.10.0"), wheel)
    found = Availability(existing=existing(rows, "2.6.0", "sm_80"), local=(rows.torch("2.11.0", source="local"),))
    answer = solve(rows.host("8.0", pythons=("3.13.1",)), matrix, Request(torch="keep"), found)
    assert isinstance(answer, Solution)
    assert (answer.choice.torch.version, answer.choice.python) == ("2.6.0", "3.12")
    options = refused(rows.host("8.0"), matrix, Request(torch="keep"))
    assert [option.solve_args for option in options][:1] == [("--torch", "*")]


def test_an_advisory_holds_for_a_pre_release_too(rows: Any, shipped: Matrix) -> None:
    """A container's pre-release of torch brings the triton that bitsandbytes before 0.45.1 breaks with."""
    build = existing(rows, "2.7.0a0+7c8ec84dab.nv25.03", "sm_80")
    build = msgspec.structs.replace(build, torch=msgspec.structs.replace(build.torch, triton="3.2.0"))
    answer = solve(
        rows.host("8.0"), shipped, Request(torch="keep", bitsandbytes="==0.45.0"), Availability(existing=build)
    )
    assert isinstance(answer, Refusal)
    assert "advisory:triton-ops" in [part.rule for part in answer.conflict]


def test_two_cards_that_share_nothing_get_two_environments(rows: Any, shipped: Matrix) -> None:
    """The first option is to leave one out; both commands of the last but one are worth something each."""
    matrix = table(
        rows,
        shipped,
        rows.torch("2.9.0", cuda="12.6", archs="sm_70"),
        rows.torch("2.10.0", cuda="13.0", archs="sm_120"),
        rows.wheel("0.50.0", {"cuda126": "sm_70", "cuda130": "sm_120", "cpu": ""}),
    )
    facts = rows.host("7.0", "12.0", "7.0")
    options = refused(facts, matrix, Request())
    changes = [option.change for option in options]
    assert changes[:2] == ["take only GPU 0, 2", "take only GPU 1"]
    assert [option.change.split(":")[0] for option in options[2:]] == ["make two environments", "use the CPU only"]
    both = options[2]
    assert both.command == "bnbenv sync --gpus 0,2 && mkdir gpu1 && bnbenv sync --gpus 1 --project gpu1"
    assert "torch 2.9.0" in both.gives and "torch 2.10.0" in both.gives
    for option in options:
        if option.solve_args is not None:
            assert isinstance(solve(facts, matrix, asked(option.solve_args)), Solution)


@pytest.mark.parametrize("wish", [{"torch": "keep"}, {"driver": "590.44.01"}])
def test_where_two_environments_are_no_option(rows: Any, shipped: Matrix, wish: dict[str, str]) -> None:
    """One torch that is kept is in one place; with a driver that is not there is nothing to sync."""
    matrix = table(
        rows,
        shipped,
        rows.torch("2.9.0", cuda="12.6", archs="sm_80"),
        rows.torch("2.10.0", cuda="13.0", archs="sm_120"),
        rows.wheel("0.50.0", {"cuda126": "sm_80 sm_120", "cuda130": "sm_120 sm_75", "cpu": ""}),
    )
    found = Availability(existing=existing(rows, "2.9.0", "sm_80"))
    options = refused(rows.host("8.0", "12.0"), matrix, with_request(Request(), **wish), found)
    assert "take only GPU 0" in " ".join(option.change for option in options)
    assert not [option for option in options if "two environments" in option.change]


@pytest.mark.parametrize(
    ("libc", "fits"), [(None, True), (Libc("glibc", "2.31"), False), (Libc("glibc", "2.34"), True)]
)
def test_an_advisory_about_glibc_needs_a_glibc_that_is_known(
    rows: Any, shipped: Matrix, libc: Libc | None, fits: bool
) -> None:
    advisory = Advisory("one", "It fails.", "Do not.", "a thread", bitsandbytes="==0.50.0", glibc_below="2.34")
    matrix = table(rows, shipped, rows.torch("2.10.0"), rows.wheel("0.50.0", {"cuda130": "sm_80"}))
    matrix = msgspec.structs.replace(matrix, advisories=(advisory,))
    facts = rows.host("8.0")
    facts = msgspec.structs.replace(facts, platform=msgspec.structs.replace(facts.platform, libc=libc))
    assert isinstance(solve(facts, matrix, Request()), Solution) is fits


def test_the_cpu_is_always_an_option(rows: Any, lacking: Matrix) -> None:
    """Where it cannot have the wishes, without those that stand in its way."""
    request = Request(torch="==2.99.0", bitsandbytes="==0.49.2")
    cpu = refused(rows.host("7.0"), lacking, request)[-1]
    assert cpu.change == "use the CPU only, and give up the wish for torch"
    assert cpu.solve_args == ("--torch", "*", "--bitsandbytes", "==0.49.2", "--backend", "cpu")
    assert isinstance(solve(rows.host("7.0"), lacking, asked(cpu.solve_args)), Solution)


def test_the_cpu_where_there_are_no_gpus_to_choose_from(rows: Any, shipped: Matrix) -> None:
    """On macOS nothing else is an option."""
    facts = rows.host(pythons=("3.12.3", "3.11.9"))
    mac = msgspec.structs.replace(facts.platform, os="macos", machine="aarch64", libc=None)
    facts = msgspec.structs.replace(facts, platform=mac)
    (option,) = refused(facts, shipped, Request(gpus=("0",), bitsandbytes="==0.46.7"))
    assert option.solve_args == ("--bitsandbytes", "*", "--backend", "cpu")
    assert isinstance(solve(facts, shipped, asked(option.solve_args)), Solution)


def test_the_cheapest_comes_first(rows: Any, lacking: Matrix) -> None:
    """GPUs, then wishes, then both; then a build, a driver, the CPU."""
    request = Request(torch="<2.9")
    options = refused(rows.host("7.0", "8.0"), lacking, with_request(request, build="never"))
    assert [option.change for option in options] == [
        "take only GPU 1 and give up the wish for torch",
        "use the CPU only, and give up the wish for torch",
    ]
    options = refused(rows.host("7.0", "8.0"), lacking, request)
    assert [option.change for option in options] == [
        "give up the wish for torch",
        "use the CPU only, and give up the wish for torch",
    ]
    assert options[0].gives.startswith("bitsandbytes 0.50.0 (compiled here) with torch 2.9.0")
    old = rows.host("7.0", "8.0", driver="520.61.05")
    options = refused(old, lacking, Request(build="never"))
    assert [option.change for option in options] == ["use the CPU only"]
    options = refused(old, lacking, Request())
    assert "(compiled here)" in options[0].gives and options[0].change.startswith("upgrade the NVIDIA driver")
    options = refused(rows.host("8.0", driver="520.61.05"), lacking, Request())
    assert options[0].change.startswith("upgrade the NVIDIA driver to 525.60.13 or newer")


def test_an_option_names_the_override_that_it_needs(rows: Any, shipped: Matrix) -> None:
    """0.49 loads exactly cuda131, which only the other library of the same CUDA major can stand in for."""
    matrix = table(
        rows,
        shipped,
        rows.torch("2.10.0", cuda="13.1"),
        rows.torch("2.9.0", cuda="13.0", archs="sm_75"),
        rows.wheel("0.49.2", {"cuda130": "sm_80"}),
    )
    options = refused(rows.host("8.0"), matrix, Request(torch="==2.9.0"))
    assert options[0].gives.endswith(", BNB_CUDA_VERSION=130")
