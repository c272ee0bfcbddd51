"""What is to be compiled: from the words of a command line, from a lock, and from what the solver says. Pure."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from bnbenv.build.model import Order
from bnbenv.decode import shown
from bnbenv.errors import BnbenvError, NoCombination, UsageError
from bnbenv.facts.model import Driver, Gpu, HostFacts
from bnbenv.matrix.drivers import number
from bnbenv.matrix.model import Matrix, Toolkit, TorchBuild
from bnbenv.matrix.native import library_cuda
from bnbenv.solve.builds import source_releases
from bnbenv.solve.coverage import sass_for
from bnbenv.solve.model import KEEP, Availability, Buildable, Request, Solution
from bnbenv.solve.situation import reboot_required, situate, with_request
from bnbenv.solve.solver import solve, try_out
from bnbenv.solve.versions import is_version, public

_ARCH = re.compile(r"(?:sm_?)?(\d{2,3})([af]?)|(\d{1,2})\.(\d)([af]?)")
_PTX = re.compile(r"(?:compute_?(\d{2,3})|(\d{2,3})-(?:virtual|real))[af]?")
_CUDA = re.compile(r"(?:cu|cuda)?(\d\d)\.?(\d)")
_NAME_ARCH = 'Name it, such as --arch sm_90 (bnbenv matrix show --gpu "RTX 5090" says which a GPU is).'


class Asked(NamedTuple):
    """What a command line asks for; None and empty: what suits the machine. ``archs`` are as ``read_archs`` gives.

    ``as_it_is``: the source is one tree and no repository, so that without a ref there is nothing to choose.
    """

    source: str | None = None
    ref: str | None = None
    cuda: str | None = None
    archs: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ("all",)
    as_it_is: bool = False


class Beside(NamedTuple):
    """The torch that the result is for, and the bitsandbytes that is locked beside it. ``cuda`` null: a CPU build.

    ``called`` says where that stands (``pylock.bnb.toml``).
    """

    torch: str
    cuda: str | None
    bitsandbytes: str
    called: str


class Planned(NamedTuple):
    """The order, and why it is that one: a line for each thing that was not asked for.

    ``open``: the solver chose the CUDA or the version, so that another would do as well.
    """

    order: Order
    because: tuple[str, ...]
    open: bool


class _Fitting(NamedTuple):
    """A CUDA release and a release of bitsandbytes that go together; ``torch`` is what they are for, if it is known."""

    cuda: str
    ref: str
    torch: str


# ---- words -----------------------------------------------------------------------------------------------------


def read_archs(words: Iterable[str], matrix: Matrix) -> tuple[str, ...]:
    """Architectures as people write them (``sm_87``, ``87``, ``8.7``, several with commas), each once, lowest first.

    Raises UsageError ``unknown-architecture``, which names those that are near.
    """
    known = known_archs(matrix)
    texts = [part.strip() for word in words for part in re.split("[,;]", word) if part.strip() or not word.strip(",; ")]
    if "" in texts:
        raise UsageError("unknown-architecture", "an empty text is no architecture", _NAME_ARCH)
    found = {_read_arch(text, known, matrix) for text in texts}
    return ordered(found)


def known_archs(matrix: Matrix) -> tuple[str, ...]:
    """Every architecture of a GPU or of a toolkit's compiler that the matrix knows, the lowest first."""
    compiled = {name for toolkit in matrix.toolkits for name in toolkit.sass if name[-1].isdigit()}
    return ordered(compiled | {row.arch for row in matrix.archs})


def ordered(archs: Iterable[str]) -> tuple[str, ...]:
    """Targets such as ``sm_90`` as an order has them: each once, the lowest first."""
    return tuple(sorted(set(archs), key=_number))


def _number(arch: str) -> int:
    return int(arch.removeprefix("sm_"))


def _read_arch(text: str, known: tuple[str, ...], matrix: Matrix) -> str:
    virtual = _PTX.fullmatch(text.lower())
    if virtual is not None:
        name = f"sm_{virtual[1] or virtual[2]}"
        message = f'"{shown(text)}" names PTX, which comes by itself: native code is compiled for each architecture'
        raise UsageError("unknown-architecture", message, f"Name the architecture: --arch {name}")
    match = _ARCH.fullmatch(text.lower())
    if match is None:
        raise UsageError("unknown-architecture", f'"{shown(text)}" is no architecture', _meant(text, matrix))
    name = f"sm_{match[1] or match[3] + match[4]}"
    suffix = match[2] or match[5]
    if suffix:
        message = f"{name}{suffix} is for code that bitsandbytes has none of: its kernels are the same on {name}"
        raise UsageError("unknown-architecture", message, f"Name it without the {suffix}: --arch {name}")
    if name not in known:
        near = sorted(sorted(known, key=lambda one: abs(_number(one) - _number(name)))[:4], key=_number)
        message = f"there is no architecture {name}: near it are {', '.join(near)}"
        raise UsageError("unknown-architecture", message, _NAME_ARCH)
    return name


def _meant(text: str, matrix: Matrix) -> str:
    """Who names a GPU is told its architecture."""
    from bnbenv.solve.lookup import find_arch

    try:
        return f"Did you mean: --arch {find_arch(text, matrix).arch}"
    except BnbenvError:
        return _NAME_ARCH


def read_cuda(text: str, matrix: Matrix) -> str:
    """A CUDA release: ``13.0``, also as ``130`` or ``cu130``. Raises UsageError ``unknown-cuda``."""
    match = _CUDA.fullmatch(text.strip().lower())
    if match is None:
        known = ", ".join(row.cuda for row in sorted(matrix.toolkits, key=lambda one: number(one.cuda)))
        message = f'"{shown(text)}" is no CUDA release: it is named by two numbers'
        raise UsageError("unknown-cuda", message, f"Known are {known}.")
    return f"{match[1]}.{match[2]}"


# ---- the order -------------------------------------------------------------------------------------------------


def plan(asked: Asked, facts: HostFacts, matrix: Matrix, found: Availability, beside: Beside | None) -> Planned:
    """The order for a host, completed by the lock where there is one, else by the torch that the solver takes.

    Raises UsageError (``no-architecture``: no GPU here to compile for), NoCombination (nothing tells the CUDA release
    or the version of bitsandbytes), RebootRequired.
    """
    archs, because = (asked.archs, []) if asked.archs else _of_gpus(asked, facts, matrix)
    cuda, ref = asked.cuda, asked.ref
    open_ref = ref is None and not asked.as_it_is
    if beside is not None and beside.cuda is not None and cuda is None:
        cuda = beside.cuda
        because.append(f"CUDA {cuda}, as torch {beside.torch} in {beside.called}")
    if beside is not None and beside.cuda == cuda and open_ref:
        ref, open_ref = str(public(beside.bitsandbytes)), False
        because.append(f"bitsandbytes {ref}, as in {beside.called}")
    is_open = cuda is None or open_ref
    if cuda is None or open_ref:
        fitting = _fitting(asked, facts, matrix, found, archs, cuda)
        if cuda is None:
            cuda = fitting.cuda
            what = f"for {fitting.torch}, which the solver takes" if fitting.torch else "the newest that compiles them"
            because.append(f"CUDA {cuda}, {what}")
        if open_ref:
            ref = fitting.ref
            because.append(f"bitsandbytes {ref}, the newest{' that fits' if fitting.torch else ''}")
    if not asked.archs:
        archs = _compiled_as(archs, cuda, matrix)
    return Planned(Order(ref, cuda, archs, asked.source), tuple(because), is_open)


def _compiled_as(archs: tuple[str, ...], cuda: str, matrix: Matrix) -> tuple[str, ...]:
    """What a toolkit compiles for the GPUs of these architectures: an older one whose code they run, if need be."""
    toolkit = next((row for row in matrix.toolkits if row.cuda == cuda), None)
    plain = tuple(name for name in toolkit.sass if name[-1].isdigit()) if toolkit else ()
    found = {sass_for((_number(arch) // 10, _number(arch) % 10), plain) or arch for arch in archs}
    return ordered(found)


def _of_gpus(asked: Asked, facts: HostFacts, matrix: Matrix) -> tuple[tuple[str, ...], list[str]]:
    """The architectures of the selected GPUs."""
    if asked.gpus != ("all",):
        situation = situate(facts, matrix, Request(gpus=asked.gpus), Availability(), False)
        if "gpu" in situation.fails:
            raise UsageError("no-such-gpu", situation.fails["gpu"].because, "See: bnbenv facts")
        gpus = situation.gpus
    else:
        gpus = facts.gpus
    if not gpus and facts.driver.state == "mismatch":
        half = reboot_required(facts.driver)
        half.next_step = "Reboot, then run it again; or name what to compile for, such as --arch sm_90."
        raise half
    if not gpus:
        unknown = next((one.reason for one in facts.unknown if one.fact.startswith(("gpus", "driver"))), "")
        absent = facts.driver.state == "absent" or not unknown
        why = "there is no NVIDIA GPU here" if absent else f"the GPUs of this machine are not known ({unknown})"
        raise UsageError("no-architecture", f"{why}, so nothing tells what to compile for", _NAME_ARCH)
    archs = ordered(gpu.arch for gpu in gpus)
    return archs, [f"{', '.join(archs)}, as the GPUs here"]


def _fitting(
    asked: Asked, facts: HostFacts, matrix: Matrix, found: Availability, archs: tuple[str, ...], cuda: str | None
) -> _Fitting:
    """A source build by the solver for a host with GPUs of these architectures. Raises NoCombination."""
    keep = facts.platform.jetson is not None and found.existing is not None
    wish = Request(build="always", python=">=3", torch=KEEP if keep else "*")
    if asked.ref is not None and is_version(asked.ref.removeprefix("v")):
        wish = with_request(wish, bitsandbytes=f"=={asked.ref.removeprefix('v')}")
    toolkits = [row for row in matrix.toolkits if set(archs) <= set(row.sass) and cuda in (None, row.cuda)]
    releases = {row.cuda for row in toolkits}
    rows = tuple(row for row in matrix.torch if cuda in (None, row.cuda))
    if asked.archs:  # compiled as they are named, where a GPU would run the code of an older one as well
        rows = tuple(row for row in rows if row.cuda in releases)
    judged = msgspec.structs.replace(matrix, torch=rows)
    hosts = [facts] if not asked.archs else [_with_gpus(facts, archs, matrix, own) for own in (True, False)]
    for host in hosts:
        solution = try_out(host, judged, wish, found)
        if solution is not None and solution.backend == "cuda":
            choice = solution.choice
            release = library_cuda(choice.bitsandbytes.library) or choice.torch.cuda or ""
            return _Fitting(release, str(public(choice.bitsandbytes.version)), f"torch {choice.torch.version}")
    pairs = _compiling(asked.ref, toolkits, archs, facts.platform.machine, matrix, found.builds)
    elsewhere = asked.archs and facts.platform.jetson is None  # for a machine whose torch is not known here
    if pairs and (cuda is not None or elsewhere):
        return _without_torch(pairs, rows, found.builds)
    step = _name_both(asked, archs, toolkits, pairs, rows)
    if asked.ref is not None:
        with contextlib.suppress(NoCombination):  # of another release
            step = _both(_fitting(asked._replace(ref=None), facts, matrix, found, archs, cuda), archs, asked)
    refusal = solve(hosts[-1], judged, wish, found)
    reasons = () if isinstance(refusal, Solution) else refusal.conflict
    told = [one.because for one in sorted(reasons, key=lambda one: one.source == "the request")]  # what was not asked
    because = told[0] if told else "nothing fits"
    what = "which bitsandbytes to compile" if cuda else "the CUDA release to compile with"
    raise NoCombination("no-combination", f"nothing tells {what} for {', '.join(archs)}: {because}", step)


def _compiling(
    ref: str | None,
    toolkits: Iterable[Toolkit],
    archs: tuple[str, ...],
    machine: str,
    matrix: Matrix,
    builds: Buildable | None,
) -> list[tuple[str, str]]:
    """Each release with each CUDA that its source is known to take, where it is for architectures as old as these.

    Of a release that is named and older than all of which that is known, nothing is ruled out.
    """
    releases = source_releases(matrix, "linux", machine)
    offered = (builds.releases if builds else None) or {row.version for row in releases}
    if ref is not None and is_version(ref.removeprefix("v")):
        offered = {ref.removeprefix("v")}
    pairs = []
    for version in offered:
        like = next((row for row in releases if public(row.version) <= public(version)), None)
        if like is not None and (_number(archs[0]) // 10, _number(archs[0]) % 10) < like.oldest:
            continue
        for toolkit in toolkits:
            takes = like is None or number(like.tag.cuda_min) <= number(toolkit.cuda) < number(like.tag.cuda_end)
            if takes:
                pairs.append((version, toolkit.cuda))
    return pairs


def _without_torch(
    pairs: Iterable[tuple[str, str]], torches: Iterable[TorchBuild], builds: Buildable | None = None
) -> _Fitting:
    """The newest release, by the newest compiler that takes it and of whose CUDA there is a torch."""
    known = {row.cuda for row in torches}
    there = {cuda for cuda, why in builds.toolkits.items() if not why} if builds else set()
    ref, cuda = max(pairs, key=lambda pair: (pair[1] in there, pair[1] in known, public(pair[0]), number(pair[1])))
    return _Fitting(cuda, str(public(ref)), "")


def _name_both(
    asked: Asked,
    archs: tuple[str, ...],
    toolkits: list[Toolkit],
    pairs: list[tuple[str, str]],
    torches: Iterable[TorchBuild],
) -> str:
    if not toolkits:
        return f"No compiler that the matrix knows is for {' and '.join(archs)}."
    if not pairs:
        return f"No source of bitsandbytes that is known is for {archs[0]} and these compilers."
    return _both(_without_torch(pairs, torches), archs, asked)


def _both(fitting: _Fitting, archs: tuple[str, ...], asked: Asked) -> str:
    words = ["bnbenv build", *(["--source", shlex.quote(asked.source)] if asked.source else [])]
    words += ["--cuda", fitting.cuda, *([] if asked.as_it_is else ["--ref", fitting.ref])]
    words += [f"--arch {arch}" for arch in archs]
    return f"Name {'it' if asked.as_it_is else 'both'}, such as: {' '.join(words)}"


def _with_gpus(facts: HostFacts, archs: tuple[str, ...], matrix: Matrix, own_driver: bool) -> HostFacts:
    """The host as if it had GPUs of these architectures: the machine that compiles need not be the one that runs.

    Its driver holds if it has one and ``own_driver``; else the newest that knows them all.
    """
    rows = {row.arch: row for row in matrix.archs}
    capabilities = [f"{_number(arch) // 10}.{_number(arch) % 10}" for arch in archs]
    gpus = tuple(Gpu(n, f"GPU-{n}", "as named", capability, 0) for n, capability in enumerate(capabilities))
    driver = facts.driver
    if not own_driver or driver.state != "ok":
        last = min((row.last_branch for arch in archs if (row := rows.get(arch)) and row.last_branch), default=999)
        driver = Driver(state="ok", version=f"{last}.999")
    return msgspec.structs.replace(facts, gpus=gpus, driver=driver, unknown=())


# ---- what comes of it ------------------------------------------------------------------------------------------


def of_version(version: str) -> Order | None:
    """What a wheel was compiled of, by its version (``0.50.2+bnbenv.cu130.sm80.sm90``); None for any other."""
    match = re.fullmatch(r"([^+]+)\+bnbenv\.cu(\d\d)(\d)((?:\.sm\d{2,3})+)", version)
    if match is None:
        return None
    archs = tuple(f"sm_{number}" for number in match[4].removeprefix(".sm").split(".sm"))
    return Order(match[1], f"{match[2]}.{match[3]}", archs)
