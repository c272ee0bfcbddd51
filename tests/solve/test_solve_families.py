"""Solutions of the other families, held against a search through every combination of the tables."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from msgspec.structs import replace
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from bnbenv.errors import UsageError
from bnbenv.facts.model import HostFacts, decode_facts
from bnbenv.matrix.load import find_data
from bnbenv.matrix.model import Matrix, PackageFile
from bnbenv.solve.families import extra_requirements
from bnbenv.solve.model import Availability, Current, Existing, Refusal, Request, Solution
from bnbenv.solve.solver import solve

FAMILY_MIN = {"11": "450.80.02", "12": "525.60.13", "13": "580"}
SOURCES = ("local", "default-index", "pytorch-index")
LEVELS = ("declared", "measured", "resolved", "verified")
SETS = {
    "gptq": ("", "gptqmodel<7.7", "gptqmodel==6.0.0", "gptqmodel>=7,<7.3", "auto-gptq", "auto-gptq<0.7", "gptqmodel>8"),
    "awq": ("", "autoawq[kernels]", "autoawq<0.2.9", "autoawq[kernels]<0.2.8", "autoawq==0.2.6", "autoawq<0.2"),
    "none": ("",),
}


@cache
def table(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((find_data() / name).read_text())["rows"]
    return rows


@cache
def admits(spec: str, version: str) -> bool:
    return SpecifierSet("" if spec == "*" else spec).contains(version)


def dotted(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


@dataclass(frozen=True)
class Case:
    """A Linux host, and what is asked for on it."""

    machine: str
    glibc: str
    driver: str
    gpus: tuple[str, ...]
    pythons: tuple[str, ...]
    family: str
    package: str
    torch: str

    def facts(self) -> HostFacts:
        gpus = [
            {"index": i, "uuid": f"GPU-{i}", "name": "GPU", "compute_capability": one, "memory_total": 1}
            for i, one in enumerate(self.gpus)
        ]
        document = {
            "schema": "bnbenv.facts/1",
            "platform": {"os": "linux", "machine": self.machine, "libc": {"name": "glibc", "version": self.glibc}},
            "driver": {"state": "ok" if gpus else "absent", "version": self.driver if gpus else None},
            "gpus": gpus,
            "pythons": [{"path": f"/usr/bin/python{minor}", "version": f"{minor}.5"} for minor in self.pythons],
        }
        return decode_facts(json.dumps(document), "the host")

    def request(self) -> Request:
        return Request(family=self.family, package=self.package, torch=self.torch)  # type: ignore[arg-type]


def runs(targets: list[str], capability: str) -> bool:
    """Whether native code among the targets runs on it; neither these torch builds nor these kernels need PTX here."""
    major, minor = dotted(capability)
    numbers = [target[3:] for target in targets if target.startswith("sm_") and target[-1].isdigit()]
    integrated = {"87", "101"}
    return any(int(one[:-1]) == major and int(one[-1]) <= minor and one not in integrated for one in numbers)


@cache
def asks(requirements: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The specifiers that requirements put on a package, without extras."""
    parsed = [one for one in map(Requirement, requirements) if "extra" not in str(one.marker or "")]
    return tuple(str(one.specifier) or "*" for one in parsed if one.name == name)


@cache
def series(version: str) -> str:
    return "{}.{}".format(*Version(version).release[:2])


def released(case: Case, name: str) -> Iterator[list[dict[str, Any]]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in table("packages.json"):
        here = row["os"] in (None, "linux") and row["machine"] in (None, case.machine)
        if here and row["name"] == name and (not row["libc_tag"] or dotted(case.glibc) >= dotted(row["libc_tag"])):
            groups.setdefault((row["version"], row["kind"]), []).append(row)
    yield from groups.values()


def sets(case: Case) -> Iterator[tuple[list[dict[str, Any]], ...]]:
    """Every release that is asked for, with every release of its kernels where these go with it."""
    if case.family == "none":
        yield ()
        return
    wish = Requirement(case.package or {"gptq": "gptqmodel", "awq": "autoawq"}[case.family])
    for main in released(case, wish.name):
        if not wish.specifier.contains(main[0]["version"]) or main[0]["build_needs_torch"]:
            continue
        always = bool(asks(tuple(main[0]["requires_dist"]), "autoawq-kernels"))
        if always or ("kernels" in wish.extras and case.gpus):
            yield from ((main, kernels) for kernels in released(case, "autoawq-kernels"))
        else:
            yield (main,)


def file_for(files: list[dict[str, Any]], minor: str) -> dict[str, Any] | None:
    tag = f"cp{minor.replace('.', '')}"
    fits = (file for file in files if not file["pythons"] or tag in file["pythons"])
    return next((file for file in fits if admits(file["requires_python"] or "*", f"{minor}.5")), None)


def fits_torch(case: Case, build: dict[str, Any], one: tuple[list[dict[str, Any]], ...]) -> bool:
    files = [part[0] for part in one]
    specs = [spec for file in files for spec in asks(tuple(file["requires_dist"]), "torch")]
    if not all(admits(spec, build["version"]) for spec in specs):
        return False
    for file in files if case.gpus else ():
        targets = [target for library in file["libraries"] for target in library["sass"]]
        if not targets:
            continue
        if series(build["version"]) not in file["torch_releases"] or build["version"] == "2.6.0+cu126":
            return False
        if not all(runs(targets, gpu) for gpu in case.gpus):
            return False
        if build["cuda"].split(".")[0] != file["cuda"]:
            return False
    return True


def torch_fits(case: Case, build: dict[str, Any]) -> bool:
    if (build["os"], build["machine"]) != ("linux", case.machine) or not admits(case.torch, build["version"]):
        return False
    if build["libc_tag"] and dotted(case.glibc) < dotted(build["libc_tag"]):
        return False
    if not case.gpus:
        return True
    cuda = build["cuda"]
    drives = cuda is not None and dotted(case.driver) >= dotted(FAMILY_MIN[cuda.split(".")[0]])
    return drives and all(runs(build["arch_list"], gpu) for gpu in case.gpus)


@cache
def newest(text: str) -> tuple[Any, ...]:
    version = Version(Version(text).public)
    return tuple(-part for part in (*version.release, 0, 0, 0)[:4]), -(version.post or 0)


def best(case: Case) -> tuple[Any, ...] | None:
    """The preferred combination as (Python, torch version, source, index, packages), by trying all."""
    builds = [one for name in ("torch.json", "torch-declared.json") for one in table(name) if torch_fits(case, one)]
    found = []
    pythons = [minor for minor in sorted(case.pythons, key=dotted, reverse=True) if dotted(minor) >= (3, 10)]
    for one in sets(case):
        for build in builds:
            if not fits_torch(case, build, one):
                continue
            for place, minor in enumerate(pythons):
                tagged = f"cp{minor.replace('.', '')}" in build["pythons"]
                files = [file_for(part, minor) for part in one]
                if tagged and admits(build["requires_python"] or "*", f"{minor}.5") and None not in files:
                    main = (newest(one[0][0]["version"]), one[0][0]["kind"] != "wheel") if one else ()
                    kernels = newest(one[1][0]["version"]) if len(one) > 1 else ()
                    cuda = tuple(-part for part in dotted(build["cuda"] or "0"))
                    level = -LEVELS.index(build["evidence"]["level"])
                    source = SOURCES.index(build["source"])
                    key: tuple[Any, ...] = (
                        not case.gpus and build["cuda"] is not None,
                        main,
                        kernels,
                        newest(build["version"]),
                    )
                    key += (level, source, cuda, build["index"] or "", place)
                    names = tuple((file["name"], file["version"], file["sha256"]) for file in files if file)
                    answer = (minor, build["version"], build["source"], build["index"], names)
                    found.append((key, answer))
    return min(found)[1] if found else None


def cases(count: int) -> Iterator[Case]:
    dice = random.Random(7)
    for _ in range(count):
        family = dice.choice(["gptq", "gptq", "awq", "awq", "awq", "none"])
        machine = dice.choice(["x86_64", "x86_64", "x86_64", "aarch64"])
        kinds = ["7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "12.0"] if machine == "x86_64" else ["9.0", "8.0", "10.0"]
        gpus = tuple(dice.sample(kinds, dice.choice([0, 1, 1, 1, 2])))
        new = bool({"12.0", "10.0"} & set(gpus))
        yield Case(
            machine=machine,
            glibc=dice.choice(["2.17", "2.28", "2.35", "2.39"]),
            driver=dice.choice(["570.133.20", "580.65.06"] if new else ["525.147.05", "535.183.01", "580.65.06"]),
            gpus=gpus,
            pythons=tuple(dice.sample(["3.9", "3.10", "3.11", "3.12", "3.13", "3.14"], dice.choice([1, 2, 3]))),
            family=family,
            package=dice.choice(SETS[family]),
            torch=dice.choice(["*", "*", "*", "<2.7", ">=2.2,<2.5", "==2.13.*"]),
        )


def test_the_choice_is_the_best_of_all_that_fit(shipped: Matrix) -> None:
    here = Availability(managed_python=False)
    solved = refused = kernels = 0
    for case in cases(60):
        answer, wanted = solve(case.facts(), shipped, case.request(), here), best(case)
        if isinstance(answer, Refusal):
            assert wanted is None, (case, wanted)
            assert answer.conflict, case
            refused += 1
            continue
        torch = answer.choice.torch
        names = tuple((one.name, one.version, one.sha256) for one in answer.choice.packages)
        got = (answer.choice.python, torch.version, torch.source, torch.index, names)
        assert got == wanted, case
        assert answer.choice.wheel is None
        assert [cover.gpu for cover in answer.covers] == list(range(len(case.gpus)))
        solved += 1
        kernels += any(cover.kernels for cover in answer.covers)
    assert min(solved, refused) > 12 and kernels > 2, (solved, refused, kernels)


def test_what_is_offered_was_solved(shipped: Matrix) -> None:
    """Of each refusal every option is an answer."""
    tried = 0
    for case in cases(25):
        answer = solve(case.facts(), shipped, case.request())
        if not isinstance(answer, Refusal):
            continue
        for option in answer.options:
            words = dict(zip(option.solve_args[::2], option.solve_args[1::2], strict=True)) if option.solve_args else {}
            if not words:
                continue
            again = Request(
                family=words["--family"],  # type: ignore[arg-type]
                package=words.get("--package", ""),
                torch=words.get("--torch", "*"),
                gpus=tuple(words["--gpus"].split(",")) if "--gpus" in words else ("all",),
                backend=words.get("--backend", "auto"),  # type: ignore[arg-type]
            )
            solution = solve(case.facts(), shipped, again)
            assert isinstance(solution, Solution) and solution.choice.title in option.gives, (case, option)
            assert (option.command or "").startswith(f"bnbenv add {case.family}"), option
            tried += 1
    assert tried > 10


@pytest.mark.parametrize(
    ("family", "package", "message"),
    [
        ("gptq", "autoawq", "autoawq is no package of the family gptq"),
        ("awq", "autoawq-kernels", "autoawq-kernels holds kernels for autoawq and is no use alone"),
        ("gptq", ">=7", 'expected a package, found ">=7"'),
        ("gptq", "gptqmodel @ https://example.org/x.whl", "expected a package, found"),
    ],
)
def test_a_package_that_is_not_of_the_family_is_refused(
    shipped: Matrix, rows: Any, family: Any, package: str, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        solve(rows.host("9.0"), shipped, Request(family=family, package=package))
    assert caught.value.message.startswith(message) and caught.value.next_step


def test_only_what_the_sources_offer_is_taken(shipped: Matrix, rows: Any) -> None:
    def offering(pattern: str) -> Availability:
        names = frozenset(row.filename for row in shipped.packages if re.match(pattern, row.filename))
        return Availability(packages=names)

    request = Request(family="gptq")
    found = solve(rows.host("9.0"), shipped, request, offering(r"gptqmodel-7\.[0-3]"))
    assert isinstance(found, Solution) and found.choice.versions == {"gptqmodel": "7.3.6"}
    none = solve(rows.host("9.0"), shipped, request, Availability(packages=frozenset()))
    assert isinstance(none, Refusal) and none.unreachable


def test_with_minimal_change_what_is_there_stays(shipped: Matrix, rows: Any) -> None:
    current = Current("3.12", "2.13.0", "", {"gptqmodel": "7.5.0"})
    kept = solve(rows.host("9.0"), shipped, Request(family="gptq", prefer="minimal-change", current=current))
    assert isinstance(kept, Solution)
    assert (kept.choice.torch.version, kept.choice.versions) == ("2.13.0", {"gptqmodel": "7.5.0"})
    # gptqmodel 7.7 needs torch 2.14.1: what has to move is the smallest part of it.
    wish = Request(family="gptq", package="gptqmodel>=7.6", prefer="minimal-change", current=current)
    moved = solve(rows.host("9.0"), shipped, wish)
    assert isinstance(moved, Solution)
    assert (moved.choice.torch.version, moved.choice.versions) == ("2.13.0", {"gptqmodel": "7.6.0"})


def test_what_the_lock_adds_follows_from_the_choice(shipped: Matrix, rows: Any) -> None:
    def of(family: Any, package: str, *pythons: str) -> tuple[str, ...]:
        found = solve(rows.host("9.0", pythons=pythons), shipped, Request(family=family, package=package))
        assert isinstance(found, Solution)
        told = any("is taken beside" in one or "are taken" in one for one in found.notes)
        assert bool(extra_requirements(shipped, found.choice)) == told
        return extra_requirements(shipped, found.choice)

    assert of("gptq", "", "3.12.3") == ()
    assert of("awq", "", "3.12.3") == ("transformers!=4.57.*",)
    # On Python 3.11 the wheel with kernels, which are for torch 2.2; on 3.12 the archive without.
    assert "numpy<2" in of("gptq", "auto-gptq", "3.11.3")
    assert of("gptq", "auto-gptq", "3.12.3") == ("transformers<5", "peft<0.19", "datasets>=2.20")


def test_kernels_that_a_gpu_cannot_run_are_told(shipped: Matrix, rows: Any) -> None:
    found = solve(rows.host("7.5"), shipped, Request(family="awq", package="autoawq[kernels]"))
    assert isinstance(found, Solution)
    assert found.covers[0].kernels == "sass sm_75"
    assert [note for note in found.notes if "awq_v2_ext of autoawq-kernels 0.0.9 has no code for GPU 0" in note]


def with_kernels(shipped: Matrix, library: dict[str, Any], **changes: Any) -> Matrix:
    """The tables with other kernels in autoawq-kernels."""

    def changed(row: PackageFile) -> PackageFile:
        return replace(row, libraries=tuple(replace(one, **library) for one in row.libraries), **changes)

    packages = tuple(changed(row) if row.name == "autoawq-kernels" else row for row in shipped.packages)
    return replace(shipped, packages=packages)


def test_kernels_are_held_against_driver_libc_and_cuda(shipped: Matrix, rows: Any) -> None:
    request = Request(family="awq", package="autoawq[kernels]")
    ptx = with_kernels(shipped, {"sass": (), "ptx": ("compute_80",)}, ptx_cuda="12.8")
    found = solve(rows.host("8.6"), ptx, request)
    assert isinstance(found, Solution) and found.covers[0].kernels == "ptx compute_80"
    for driver, matrix, rule in (
        ("560.28.03", ptx, "kernels-ptx[0]"),
        ("470.256.02", shipped, "kernels-cuda"),
        ("580.65.06", with_kernels(shipped, {"glibc": "2.39"}), "library-libc"),
    ):
        answer = solve(rows.host("8.6", driver=driver), matrix, request)
        assert isinstance(answer, Refusal) and rule in [one.rule for one in answer.conflict], rule


def test_on_a_torch_that_is_kept(shipped: Matrix, rows: Any) -> None:
    """A container's is before the release that it is counted as; on a Jetson published kernels do not run either."""
    host = rows.host("8.6")
    there = Existing(rows.torch("2.6.0a0+nv25.01", "12.8", "sm_86", source="existing"), "3.12.3")
    request = Request(family="awq", package="autoawq[kernels]", torch="keep")
    found = solve(host, shipped, request, Availability(existing=there))
    assert isinstance(found, Solution) and found.choice.torch.version == "2.6.0a0+nv25.01"
    assert any(note.endswith("load beside torch 2.6.0a0+nv25.01 is not known") for note in found.notes)
    jetson = replace(host, platform=replace(host.platform, jetson="36.4"))
    answer = solve(jetson, shipped, request, Availability(existing=there))
    assert isinstance(answer, Refusal) and answer.conflict[0].rule == "jetson"


def test_what_is_told_is_about_this_host(shipped: Matrix, rows: Any) -> None:
    for gpus, told in ((("9.0",), True), ((), False)):
        found = solve(rows.host(*gpus), shipped, Request(family="gptq"))
        assert isinstance(found, Solution)
        assert any("compiles its CUDA kernels" in note for note in found.notes) is told
