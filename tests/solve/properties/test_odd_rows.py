"""Rows that a user's table may hold, however odd: an answer, never a fault.

What cannot be read as a version or a specifier is refused on loading, and so it is left out here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import pytest

from bnbenv.errors import BnbenvError, InputError
from bnbenv.matrix.model import BitsandbytesWheel, Evidence, Matrix, NativeLibrary, Toolkit, TorchBuild
from bnbenv.matrix.rows import check_row
from bnbenv.solve.explain import why_not
from bnbenv.solve.model import Availability, Existing, Refusal, Request, Solution
from bnbenv.solve.solver import solve

T = TypeVar("T")

ODD = (
    "",
    ".",
    "..",
    "12",
    "12.",
    ".8",
    "12.8.1",
    "-1.0",
    "13.x",
    "²",
    "9" * 30,
    "sm_",
    "cuda",
    "\0",
    "a b",
    "ß٣",
    "\n",
)
CUDAS = ("12.8", "13.0", *ODD)
ARCHS = ("sm_80", "sm_9", "sm_90a", "compute_80", "sm_100f", "SM_80", "sm_8000", *ODD)
VERSIONS = (
    "2.9.0",
    "2.9.0",
    "2.6.0a0+x.nv25.1",
    "1!3.0",
    "2.9.0.dev1",
    "2.9.0.post1",
    "2.9rc1",
    "v2.9",
    "9" * 40,
    *ODD,
)
RELEASES = ("0.50.2", "0.44.0", "0.42.0", "0.40.1", "0.39.1", "0.46.0.dev0", "1!0.50", *VERSIONS)
PYTHONS = (None, ">=3.10", "===x", "!=3.12.*", "<4,>=3", *ODD)
TAGS = ("cp312", "cp3²", "cp3" + "9" * 5000, "abi3", "cp313t", *ODD)
LIBRARIES = (
    *("libbitsandbytes_cuda128.so", "libbitsandbytes_cuda.so", "libbitsandbytes_cpu.so"),
    *("libbitsandbytes_cuda128_nocublaslt.so", "libbitsandbytes_cuda²8.so", "_cuda_cuda12_cuda.so", *ODD),
)
REQUIREMENTS = ("torch>=2.4,<3", "torch===x", "torch; extra == 'x'", "torch @ file:///x", "(", "[", *ODD)
LEVELS: Any = ("declared", "measured", "resolved", "verified")
SOURCES: Any = ("default-index", "pytorch-index", "local", "existing")


class Dice(random.Random):
    """Rows and wishes by chance."""

    def one(self, values: Sequence[T]) -> T:
        """Mostly the first, which is a usual one."""
        return values[0] if self.random() < 0.7 else self.choice(values)

    def some(self, values: Sequence[T], most: int = 3) -> tuple[T, ...]:
        return tuple(self.one(values) for _ in range(self.randint(0, most)))

    def maybe(self, values: Sequence[str]) -> str | None:
        return None if self.random() < 0.7 else self.choice(values)

    def evidence(self) -> Evidence:
        return Evidence(self.choice(LEVELS), self.choice(ODD) or "x", self.choice(ODD))

    def torch(self) -> TorchBuild:
        return TorchBuild(
            version=self.one(VERSIONS),
            source=self.choice(SOURCES),
            os="linux",
            machine="x86_64",
            cuda=self.one((*CUDAS, None)),
            arch_list=self.some(ARCHS, 4),
            pythons=self.some(TAGS),
            libc_tag=self.maybe(ODD),
            requires_python=self.one(PYTHONS),
            requires_dist=self.some(REQUIREMENTS),
            evidence=self.evidence(),
            index=self.maybe(ODD),
            triton=self.maybe(VERSIONS),
        )

    def library(self) -> NativeLibrary:
        backend = self.choice(("cuda", "cuda", "cpu", "rocm", "?"))
        sass, ptx = self.some(ARCHS), self.some(ARCHS, 2)
        return NativeLibrary(self.one(LIBRARIES), backend, sass, ptx, glibc=self.maybe(ODD))

    def wheel(self) -> BitsandbytesWheel:
        return BitsandbytesWheel(
            version=self.one(RELEASES),
            filename=self.choice(("bitsandbytes-0.42.0-py3-none-any.whl", *ODD)),
            sha256=self.choice(ODD),
            size=-1,
            os="linux",
            machine="x86_64",
            libc_tag=self.maybe(ODD),
            requires_python=self.one(PYTHONS),
            requires_dist=self.some(REQUIREMENTS),
            libraries=tuple(self.library() for _ in range(self.randint(0, 3))),
            evidence=self.evidence(),
        )

    def toolkit(self) -> Toolkit:
        limits: Any = dict.fromkeys(("gcc_max", "clang_min", "clang_max", "msc_min", "msc_end"))
        sass = self.some(ARCHS, 4)
        return Toolkit(cuda=self.one(CUDAS), ptxas="", sass=sass, ptx=(), evidence=self.evidence(), **limits)

    def request(self) -> Request:
        backend: Any = self.choice(("auto", "auto", "cpu"))
        build: Any = self.choice(("auto", "always", "never"))
        return Request(
            torch=self.choice(("*", "*", ">=2", "==2.9.*", "keep")),
            bitsandbytes=self.choice(("*", "*", ">=0.40", "==0.50.2")),
            backend=backend,
            build=build,
            driver=self.choice((None, None, "590", "0")),
        )


def readable(row: Any) -> bool:
    """Whether it would be taken in from a user's table."""
    try:
        check_row(row, "a table", "rows[0]")
    except InputError:
        return False
    return True


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_whatever_the_rows(seed: int, rows: Any, shipped: Matrix) -> None:
    """A thousand tables by chance for each seed."""
    dice, answered = Dice(seed), set()
    for _ in range(1000):
        torch = [row for row in (dice.torch() for _ in range(6)) if readable(row)]
        wheels = [row for row in (dice.wheel() for _ in range(5)) if readable(row)]
        if not torch or not wheels:
            continue
        matrix = msgspec.structs.replace(
            rows.matrix(*wheels),
            torch=tuple(row for row in torch if row.source not in ("local", "existing")),
            loaders=shipped.loaders,
            advisories=shipped.advisories,
            toolkits=(dice.toolkit(), dice.toolkit()),
        )
        existing = Existing(msgspec.structs.replace(torch[0], source="existing"), "3.12")
        found = Availability(local=tuple(row for row in torch if row.source == "local"), existing=existing)
        gpus = dice.some(("8.0", "8.0", "9.0", "7.0", "0.0", "999.999"), 2)
        facts = rows.host(*gpus, driver=dice.choice(("580.65.06", "0", "1.2.3.4.5.6", "999999999")))
        request = dice.request()
        try:
            answer = solve(facts, matrix, request, found)
            why_not(facts, matrix, request, found)
        except BnbenvError:
            continue
        answered.add(type(answer))
        assert msgspec.json.encode(answer.document())
        assert isinstance(answer, Solution) or answer.conflict
    assert answered == {Solution, Refusal}
