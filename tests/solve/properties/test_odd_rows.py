"""Rows that a user's table may hold, however odd: an answer, never a fault.

What cannot be read as a version or a specifier is refused on loading, and so it is left out here.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import msgspec
from hypothesis import HealthCheck, assume, given, settings

from bnbenv.errors import BnbenvError, InputError
from bnbenv.matrix.model import BitsandbytesWheel, Evidence, Matrix, NativeLibrary, Toolkit, TorchBuild
from bnbenv.matrix.rows import check_row
from bnbenv.solve.explain import why_not
from bnbenv.solve.model import Availability, Existing, Refusal, Request, Solution
from bnbenv.solve.solver import solve

ODD = st.one_of(
    st.sampled_from(
        ("", ".", "..", "12", "12.", ".8", "12.8.1", "-1.0", "13.x", "²", "9" * 30, "sm_", "cuda", "\0", "a b")
    ),
    st.text(max_size=6),
)
CUDA = st.one_of(st.just("12.8"), ODD)
ARCH = st.one_of(st.sampled_from(("sm_80", "sm_9", "sm_90a", "compute_80", "sm_100f", "SM_80", "sm_8000")), ODD)
VERSION = st.one_of(
    st.sampled_from(
        ("2.9.0", "2.6.0a0+x.nv25.1", "0!2.9", "1!3.0", "2.9.0.dev1", "2.9.0.post1", "2.9rc1", "v2.9", "9" * 40)
    ),
    ODD,
)
PYTHON = st.one_of(st.none(), st.sampled_from((">=3.10", "===x", "!=3.12.*", "<4,>=3")), ODD)
TAGS = st.lists(st.one_of(st.sampled_from(("cp312", "cp3²", "cp3" + "9" * 5000, "abi3", "cp313t")), ODD), max_size=3)
NAMES = st.one_of(
    st.sampled_from(
        (
            *("libbitsandbytes_cuda128.so", "libbitsandbytes_cuda.so", "libbitsandbytes_cuda1.so", "x"),
            *("libbitsandbytes_cuda128_nocublaslt.so", "libbitsandbytes_cuda²8.so", "_cuda_cuda12_cuda.so"),
        )
    ),
    ODD,
)
REQUIRES = st.lists(
    st.one_of(st.sampled_from(("torch>=2.4,<3", "torch===x", "torch; extra == 'x'", "torch @ file:///x", "(")), ODD),
    max_size=3,
)
EVIDENCE = st.builds(
    Evidence, st.sampled_from(("declared", "measured", "resolved", "verified")), ODD.map(lambda text: text or "x"), ODD
)
TORCH = st.builds(
    TorchBuild,
    version=VERSION,
    source=st.sampled_from(("default-index", "pytorch-index", "local", "existing")),
    os=st.just("linux"),
    machine=st.just("x86_64"),
    cuda=st.one_of(st.none(), CUDA),
    arch_list=st.lists(ARCH, max_size=4).map(tuple),
    pythons=TAGS.map(tuple),
    libc_tag=st.one_of(st.none(), ODD),
    requires_python=PYTHON,
    requires_dist=REQUIRES.map(tuple),
    evidence=EVIDENCE,
    index=st.one_of(st.none(), ODD),
    triton=st.one_of(st.none(), VERSION),
)
LIBRARY = st.builds(
    NativeLibrary,
    name=NAMES,
    backend=st.sampled_from(("cuda", "cuda", "cpu", "rocm", "?")),
    sass=st.lists(ARCH, max_size=3).map(tuple),
    ptx=st.lists(ARCH, max_size=2).map(tuple),
    glibc=st.one_of(st.none(), ODD),
)
WHEEL = st.builds(
    BitsandbytesWheel,
    version=st.one_of(st.sampled_from(("0.50.2", "0.44.0", "0.42.0", "0.39.1", "0.46.0.dev0")), VERSION),
    filename=st.one_of(st.just("bitsandbytes-0.42.0-py3-none-any.whl"), ODD),
    sha256=ODD,
    size=st.integers(),
    os=st.just("linux"),
    machine=st.just("x86_64"),
    libc_tag=st.one_of(st.none(), ODD),
    requires_python=PYTHON,
    requires_dist=REQUIRES.map(tuple),
    libraries=st.lists(LIBRARY, max_size=3).map(tuple),
    evidence=EVIDENCE,
)
TOOLKIT = st.builds(
    Toolkit,
    cuda=CUDA,
    ptxas=ODD,
    sass=st.lists(ARCH, max_size=4).map(tuple),
    ptx=st.just(()),
    **dict.fromkeys(("gcc_max", "clang_min", "clang_max", "msc_min", "msc_end"), st.none()),
    evidence=EVIDENCE,
)
REQUEST = st.builds(
    Request,
    torch=st.sampled_from(("*", "*", ">=2", "==2.9.*", "keep")),
    bitsandbytes=st.sampled_from(("*", "*", ">=0.40", "==0.50.2")),
    backend=st.sampled_from(("auto", "auto", "cpu")),
    build=st.sampled_from(("auto", "always", "never")),
    driver=st.sampled_from((None, None, "590", "0")),
)


def readable(row: Any) -> bool:
    """Whether it would be taken in from a user's table."""
    try:
        check_row(row, "a table", "rows[0]")
    except InputError:
        return False
    return True


@settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    torch=st.lists(TORCH, max_size=3),
    wheels=st.lists(WHEEL, max_size=3),
    toolkits=st.lists(TOOLKIT, max_size=2),
    gpus=st.lists(st.sampled_from(("8.0", "9.0", "7.0", "0.0", "999.999")), max_size=2),
    driver=st.sampled_from(("580.65.06", "0", "1.2.3.4.5.6", "999999999")),
    request=REQUEST,
)
def test_an_answer_whatever_the_rows(
    torch: list[TorchBuild],
    wheels: list[BitsandbytesWheel],
    toolkits: list[Toolkit],
    gpus: list[str],
    driver: str,
    request: Request,
    rows: Any,
    shipped: Matrix,
) -> None:
    torch, wheels = [row for row in torch if readable(row)], [row for row in wheels if readable(row)]
    assume(torch and wheels)
    matrix = msgspec.structs.replace(
        rows.matrix(*wheels),
        torch=tuple(row for row in torch if row.source not in ("local", "existing")),
        loaders=shipped.loaders,
        advisories=shipped.advisories,
        toolkits=tuple(toolkits),
    )
    existing = Existing(msgspec.structs.replace(torch[0], source="existing"), "3.12")
    found = Availability(local=tuple(row for row in torch if row.source == "local"), existing=existing)
    facts = rows.host(*gpus, driver=driver)
    try:
        answer = solve(facts, matrix, request, found)
        why_not(facts, matrix, request, found)
    except BnbenvError:
        return
    assert isinstance(answer, Solution | Refusal)
    assert msgspec.json.encode(answer.document())
    if isinstance(answer, Refusal):
        assert answer.conflict
