"""What the page says against what the solver says: for all recorded hosts, and for machines put together at random."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bnbenv.errors import RebootRequired
from bnbenv.facts.model import Driver, Gpu, HostFacts, Libc, Platform, decode_facts
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import Advisory, Matrix, TorchBuild
from bnbenv.solve.grid_parts import MACHINES
from bnbenv.solve.grid_platform import CONDITIONS
from bnbenv.solve.model import Availability, Request, Solution
from bnbenv.solve.pairs import Pairing, library_cuda, pairings
from bnbenv.solve.preference import judge
from bnbenv.solve.rules import label
from bnbenv.solve.solver import choose, solve
from bnbenv.solve.versions import read_specifier

pytestmark = pytest.mark.xdist_group("page")  # one page and one browser for all

HOSTS = sorted((Path(__file__).parent.parent / "hosts").glob("*/facts.json"))

WHEELS = Request(build="never")  # the page is about published wheels

# The page's own function, and its answer without what is only for people.
ASK = """\
((picks) => {
  const r = answer(picks), rows = r.lookup.rows, rules = (all) => toldAll(all).map((one) => one.rule).sort();
  const name = (wheel, library) => (library < 0 ? null : rows.wheels[wheel].libraries[library].words.library);
  const pair = (one) => one && {
    version: rows.wheels[one.wheel].version, library: name(one.wheel, one.library), override: one.override,
    torch: rows.torch[one.torch.row].words.label, python: one.python, ptx: one.ptx,
    codes: one.codes.map((code, i) => [one.torch.codes[i], code]),
  };
  const commands = r.rows.flatMap((row) => row.cells.filter((cell) => cell.state === "good").map((cell) => [
    commandFor(r.lookup, cell.pair), pair(cell.pair)]));
  return {
    alone: r.choice ? [] : alone(picks).map((one) => [one.lookup.gpus.map((gpu) => gpu.words.index), pair(one.choice)]),
    commands, backend: r.backend, against: rules(r.against), choice: pair(r.choice), columns: r.columns,
    words: toldAll(r.against).map((one) => one.because),
    rows: Object.fromEntries(r.rows.map(({ wheel, cells }) => [rows.wheels[wheel].version, cells.map((cell) => ({
      column: cell.column, state: cell.state,
      reasons: toldAll(cell.against || []).map((one) => [one.rule, one.because]).sort(),
      pair: cell.pair ? pair(cell.pair) : null,
    }))])),
  };
})"""


@pytest.fixture(scope="session")
def matrix() -> Matrix:
    return load_matrix()


@pytest.fixture(scope="session")
def ask(browser: Any, page_file: Path) -> Callable[..., dict[str, Any]]:
    """The page's answer about a host, with any torch or one."""
    browser.open(page_file.as_uri())

    def ask(facts: HostFacts, torch: TorchBuild | None = None) -> dict[str, Any]:
        found: dict[str, Any] = browser(f"{ASK}({json.dumps(picks_of(facts, torch))})")
        return found

    return ask


def picks_of(facts: HostFacts, torch: TorchBuild | None) -> dict[str, Any]:
    """What somebody picks for a host."""
    platform, libc = facts.platform, facts.platform.libc
    kind = (platform.os, platform.machine, platform.wsl, platform.jetson is not None)
    machine = next(one for one in MACHINES if (one.os, one.machine, one.wsl, one.jetson) == kind)
    return {
        "platform": machine.id,
        "state": facts.driver.state,
        "driver": facts.driver.version or "",
        "gpus": [{"arch": gpu.arch, "name": gpu.name, "index": gpu.index} for gpu in facts.gpus],
        "libc": {"name": libc.name, "version": libc.version} if libc else None,
        "torch": f"{torch.version}@{torch.index or 'default'}" if torch else None,
    }


def host(path: Path) -> HostFacts:
    """A recorded host; Python is any, as on the page."""
    return msgspec.structs.replace(decode_facts(path.read_bytes(), path.parent.name), pythons=())


def pair_of(solution: Solution | None) -> dict[str, Any] | None:
    """The solver's choice as the page tells it."""
    if solution is None:
        return None
    choice = solution.choice
    torch = choice.torch
    origin = f"{torch.source}/{torch.index}" if torch.index else torch.source
    return {
        "version": choice.bitsandbytes.version,
        "library": choice.bitsandbytes.library,
        "override": next(iter(choice.environment), ""),
        "torch": f"torch {torch.version} ({f'CUDA {torch.cuda}' if torch.cuda else 'CPU'}, {origin})",
        "python": choice.python,
        "ptx": any(code.startswith("ptx") for cover in solution.covers for code in (cover.torch, cover.bitsandbytes)),
        "codes": [[cover.torch, cover.bitsandbytes] for cover in solution.covers],
    }


@pytest.mark.parametrize("path", HOSTS, ids=lambda path: path.parent.name)
def test_the_choice_is_the_solver_s(path: Path, matrix: Matrix, ask: Callable[..., dict[str, Any]]) -> None:
    facts = host(path)
    said = ask(facts)
    try:
        answer = solve(facts, matrix, WHEELS)
    except RebootRequired as error:
        assert (said["against"], said["choice"]) == ([error.code], None)
        return
    if isinstance(answer, Solution):
        assert said["choice"] == pair_of(answer)
        assert said["backend"] == answer.backend
    else:
        assert said["choice"] is None
        whole = judge(facts, matrix, WHEELS, Availability(), managed=True).situation.fails
        assert said["against"] == sorted(whole or [row.rule for row in answer.conflict if row.rule == "platform"])
        if facts.driver.state == "ok":
            assert sorted(said["words"]) == sorted(why.because for why in whole.values())


@pytest.mark.parametrize("path", HOSTS, ids=lambda path: path.parent.name)
def test_every_cell_is_what_the_rules_say(path: Path, matrix: Matrix, ask: Callable[..., dict[str, Any]]) -> None:
    """With one torch build for each host, and for some of the hosts with all of them."""
    facts = host(path)
    try:
        judged = judge(facts, matrix, WHEELS, Availability(), managed=True)
    except RebootRequired:
        return
    if not judged.torch or judged.situation.fails:
        return
    answer = choose(facts, matrix, WHEELS, Availability())
    best = pair_of(answer)
    chosen = next((one for one, _ in judged.torch if best and label(one) == best["torch"]), judged.torch[0][0])
    older = [one for one, _ in judged.torch if one.version.startswith(("2.5.", "2.8."))][:2]
    for torch in (chosen, *older, *([None] if HOSTS.index(path) % 8 == 0 else [])):
        said = ask(facts, torch)
        assert sorted(said["rows"]) == sorted(wheel.version for wheel, _ in judged.wheels)
        for wheel, wheel_fails in judged.wheels:
            found = [
                (pairing, {**pairing.fails, **torch_fails, **wheel_fails})
                for build, torch_fails in judged.torch
                if torch is None or (build.version, build.index) == (torch.version, torch.index)
                for pairing in pairings(judged.situation, matrix, build, wheel)
            ]
            for cell in said["rows"][wheel.version]:
                check_cell(cell, found, facts.platform.jetson or "\0", f"{torch and label(torch)}, {wheel.filename}")


def check_cell(cell: dict[str, Any], found: list[tuple[Pairing, dict[str, Any]]], jetson: str, about: str) -> None:
    """A cell says what stands against the pairing that it names; where anything loads the library well, so it says.

    Which release of L4T a Jetson has the page does not know.
    """
    here = [(one, fails) for one, fails in found if one.library is not None and column(one) == cell["column"]]
    about = f"{about}, {cell}"
    if cell["state"] == "none":
        assert not here, about
    elif cell["state"] == "idle":  # nothing loads it, or it would have to be told to and does not help
        assert all(one.override and fails for one, fails in here), about
        assert not here or not all(fails for _, fails in found), about
    elif not here:  # the loader finds nothing, whatever is in the wheel
        assert cell["state"] == "no" and any(one.library is None for one, _ in found), about
    else:
        fitting = [one for one, fails in here if not fails]
        states = {"override" if one.override else "ptx" if one.uses_ptx else "good" for one in fitting}
        # SASS before PTX, and no override before an override
        kinds = {(one.uses_ptx, one.override is not None) for one in fitting}
        best = min(kinds, default=None)
        expected = "no" if best is None else "override" if best[1] else "ptx" if best[0] else "good"
        assert cell["state"] == expected and (expected == "no" or expected in states), about
        named = [  # one release can have two builds of a name, for different Pythons
            sorted((rule, why.because.replace(jetson, "")) for rule, why in fails.items())
            for one, fails in here
            if label(one.torch) == cell["pair"]["torch"] and (one.override or "") == cell["pair"]["override"]
        ]
        assert [tuple(row) for row in cell["reasons"]] in named, about
        assert len(cell["reasons"]) == min(len(fails) for _, fails in here), about


def column(pairing: Pairing) -> str:
    assert pairing.library is not None
    return library_cuda(pairing.library) if pairing.library.backend == "cuda" else "CPU"


def test_machines_at_random(matrix: Matrix, ask: Callable[..., dict[str, Any]]) -> None:
    """Mixed boxes, drivers between two releases, old and foreign C libraries: the choice is the solver's everywhere."""
    chance = random.Random(4)
    solved = 0
    for _ in range(80):
        machine = chance.choice(MACHINES[:5])
        archs = chance.choices([arch for arch in matrix.archs if number(arch.compute_capability) >= 5], k=3)
        facts = HostFacts(
            platform=Platform(
                machine.os,
                machine.machine,
                chance.choice([None, Libc("musl", "1.2.5"), *(Libc("glibc", f"2.{n}") for n in (17, 27, 31, 35, 41))])
                if machine.os == "linux"
                else None,
                machine.wsl,
                jetson="36.4" if machine.jetson else None,
            ),
            driver=Driver(
                "ok", f"{chance.choice([470, 525, 535, 550, 570, 575, 580, 590, 610])}.{chance.randint(1, 99)}"
            ),
            gpus=tuple(
                Gpu(index, f"GPU-{index}", f"a card {index}", arch.compute_capability, 0)
                for index, arch in enumerate(archs[: chance.choice([1, 1, 2, 3])])
            ),
        )
        expected = pair_of(choose(facts, matrix, WHEELS, Availability()))
        assert ask(facts)["choice"] == expected, facts
        solved += expected is not None
    assert 15 < solved < 75


def test_the_commands_of_green_cells_give_what_the_cells_say(
    matrix: Matrix, ask: Callable[..., dict[str, Any]]
) -> None:
    for path in HOSTS[::3]:
        facts = host(path)
        commands = ask(facts)["commands"]
        for line, pair in commands[:: max(1, len(commands) // 3)]:
            words = line.split()
            assert words[:2] == ["bnbenv", "sync"]
            wishes = dict(zip(words[2::2], words[3::2], strict=True))
            request = Request(
                build="never",
                torch=read_specifier(wishes["--torch"], line, ""),
                bitsandbytes=read_specifier(wishes["--bitsandbytes"], line, ""),
                backend="cpu" if wishes.get("--backend") == "cpu" else "auto",
            )
            assert pair_of(choose(facts, matrix, request, Availability())) == pair, (path, line)


@pytest.mark.parametrize(("driver", "alone"), [("590.44.01", [[0, 2]]), ("570.26", [[0, 2], [1]])])
def test_where_nothing_fits_all_gpus_it_says_what_fits_some(
    driver: str, alone: list[list[int]], matrix: Matrix, ask: Callable[..., dict[str, Any]]
) -> None:
    """An RTX 5090 on either side of a GTX 1080 Ti, which the later driver has dropped."""
    facts = HostFacts(
        platform=Platform("linux", "x86_64"),
        driver=Driver("ok", driver),
        gpus=tuple(Gpu(i, f"GPU-{i}", f"card {i}", cap, 0) for i, cap in enumerate(("12.0", "6.1", "12.0"))),
    )
    said = ask(facts)
    expected = [
        choose(facts, matrix, Request(build="never", gpus=tuple(map(str, gpus))), Availability()) for gpus in alone
    ]
    assert [said["choice"], said["alone"]] == [None, [[g, pair_of(e)] for g, e in zip(alone, expected, strict=True)]]


def number(text: str) -> float:
    return float(text)


def test_the_page_knows_every_condition_of_an_advisory() -> None:
    words = {"id", "summary", "remedy", "reference", "refuses"}
    known = {name for fields in CONDITIONS.values() for name in fields} | {"override"}
    assert set(Advisory.__struct_fields__) == words | known
