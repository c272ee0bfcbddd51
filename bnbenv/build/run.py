"""Compile bitsandbytes into a wheel, or take the one that was made of the same before."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from bnbenv.build import cache, readback, wheel
from bnbenv.build.attempt import Attempt, begin, clear_old
from bnbenv.build.compile import FLAGS, Log, Work, compile_cpu, compile_cuda
from bnbenv.build.held import held
from bnbenv.build.model import Built, Order, Toolchain, Tree
from bnbenv.build.packaging import prepare_for_packaging
from bnbenv.build.ports import Ports
from bnbenv.build.source import fetch
from bnbenv.build.toolchain import check_known, prepare, prepared
from bnbenv.build.toolkit import EXTRAS
from bnbenv.errors import BnbenvError, Failed, NoCombination
from bnbenv.facts.kernel import glibc
from bnbenv.facts.model import Toolkit
from bnbenv.matrix.drivers import number
from bnbenv.matrix.elf import machine_of
from bnbenv.matrix.model import Matrix

WAIT = 1800.0  # seconds that are waited for another bnbenv that builds the same
_GO_ON = frozenset({"build-out-of-memory", "compile-timeout"})  # the next run goes on where these stopped


def build(order: Order, ports: Ports, matrix: Matrix, toolkits: tuple[Toolkit, ...], wait: float = WAIT) -> Built:
    """A wheel of what was ordered.

    Raises what ``source.fetch`` and ``toolchain.prepare`` raise; NoCombination (``source-cuda``) where the source does
    not compile with this CUDA; Failed: ``compile-failed``, ``compile-timeout``, ``build-out-of-memory``, ``no-space``,
    ``not-as-asked``; Busy where another bnbenv builds the same for longer than ``wait`` seconds; OSError.
    """
    check_known(order.cuda, order.archs, ports, matrix)  # before anything is fetched
    tree = fetch(order.source, order.ref, ports, matrix.upstream)
    try:
        _check_cuda(order, tree)
        return _built(order, tree, ports, matrix, toolkits, wait)
    finally:
        shutil.rmtree(tree.folder, ignore_errors=True)


def _built(order: Order, tree: Tree, ports: Ports, matrix: Matrix, toolkits: tuple[Toolkit, ...], wait: float) -> Built:
    extras, home = _extras(tree), ports.home
    wanted = cache.inputs_of(order, tree, FLAGS, prepared(order.cuda, ports, extras))
    made = cache.find(home, wanted, tree.origin)
    if made is not None:
        return made
    what = f"the build of bitsandbytes {tree.version} for {', '.join(order.archs)}"
    with held(home / "locks" / f"{wanted.order_key()}.lock", what, wait, ports.progress):
        clear_old(home)
        toolchain = prepare(order.cuda, order.archs, ports, matrix, toolkits, extras)
        inputs = cache.inputs_of(order, tree, FLAGS, toolchain)
        made = cache.find(home, inputs, tree.origin)  # by whom was waited for
        return made if made is not None else _make(order, tree, ports, toolchain, inputs)


def _check_cuda(order: Order, tree: Tree) -> None:
    cuda = number(order.cuda)
    too_old = tree.cuda_min is not None and cuda < number(tree.cuda_min)
    too_new = tree.cuda_end is not None and cuda >= number(tree.cuda_end)
    if too_old or too_new:
        lowest, end = f"from {tree.cuda_min}" * bool(tree.cuda_min), f"to below {tree.cuda_end}" * bool(tree.cuda_end)
        takes = f"{lowest} {end}".strip()
        message = f"bitsandbytes {tree.version} compiles with CUDA {takes}, not with {order.cuda}"
        other = ("a newer", "an older") if too_new else ("an older", "a newer")
        step = f"Take {other[0]} release (--ref), or {other[1]} CUDA (--cuda)."
        raise NoCombination("source-cuda", message, step)


def _extras(tree: Tree) -> tuple[str, ...]:
    """What a tree links beyond what all do: releases through 0.49 cuSPARSE."""
    text = (Path(tree.folder) / "CMakeLists.txt").read_text(encoding="utf-8", errors="replace")
    return tuple(name for name in EXTRAS if f"CUDA::{name}" in text)


def _make(order: Order, tree: Tree, ports: Ports, toolchain: Toolchain, inputs: cache.Inputs) -> Built:
    """Compile, put together, read back, take into the cache. The caller holds the lock."""
    began = time.monotonic()
    attempt = begin(ports.home, inputs.order_key(), inputs.key(), Path(tree.folder), ports.sysroot)
    what = f"bitsandbytes {tree.version}"
    log = _log(ports, order, tree, toolchain)
    if attempt.resumed:
        ports.progress.say(f"{what}: going on where an earlier build stopped")
    ports.progress.detail(f"log of the build: {log.path}")
    work = Work(what, attempt.tree, attempt.folder, toolchain, order.archs, ports, log)
    try:
        made = _assembled(order, tree, work, attempt, began)
        made = cache.store(ports.home, inputs, made, attempt.folder / "out")
    except (BnbenvError, OSError) as error:
        if isinstance(error, Failed) and str(log.path) not in error.next_step:
            error.next_step = f"{error.next_step} The full log: {log.path}".strip()
        if not (isinstance(error, BnbenvError) and error.code in _GO_ON):
            attempt.discard()
        raise
    attempt.discard()
    return made


def _assembled(order: Order, tree: Tree, work: Work, attempt: Attempt, began: float) -> Built:
    """The wheel, read back, in the folder of the attempt. What the network is needed for comes first."""
    entries = readback.entry_points(_text(work.tree / "bitsandbytes" / "cextension.py"))
    base = _packaged(work, attempt)
    cpu, cuda = compile_cpu(work), compile_cuda(work)
    libraries = {path.name: path.read_bytes() for path in (cuda, cpu)}
    rows = [
        readback.read_cuda(libraries[cuda.name], cuda.name, order.archs, entries),
        readback.read_cpu(libraries[cpu.name], cpu.name),
    ]
    version = wheel.local_version(tree.version, order.cuda, order.archs)
    out = attempt.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    machine, here = machine_of(libraries[cuda.name], cuda.name), (glibc() or "").rpartition(" ")[2]
    tag = wheel.platform_tag(rows, machine, here or None)
    path = wheel.assemble(base, version, libraries, tag, out)
    row = readback.read_wheel(path, version, rows)
    return Built(
        wheel=path.name,
        sha256=row.sha256,
        version=version,
        library=cuda.name,
        sass=rows[0].sass,
        ptx=rows[0].ptx,
        source=tree.origin,
        toolkit=work.toolchain.nvcc,
        host_compiler=_host(work.toolchain),
        seconds=round(time.monotonic() - began, 1),
        cached=False,
        row=row,
        log=str(work.log.path),
    )


def _packaged(work: Work, attempt: Attempt) -> Path:
    """The wheel that the tree's own backend makes of it, with what lies in it before anything was compiled."""
    folder, done = attempt.folder / "base", attempt.folder / "base" / "made"
    if not done.is_file():
        # setuptools takes what an interrupted run copied there for whole.
        for path in (folder, work.tree / "build"):
            shutil.rmtree(path, ignore_errors=True)
        folder.mkdir()
        (attempt.folder / "tmp").mkdir(exist_ok=True)
        work.ports.progress.at(f"{work.what}: its own wheel, without libraries")
        environ = {**work.environment(), **prepare_for_packaging(work.tree)}
        try:
            work.ports.packages.wheel(work.tree, folder, environ)
        finally:
            work.log.add(_text(folder / "wheel.log"))
        done.touch()
    found = sorted(folder.glob("*.whl"))
    if len(found) != 1:
        raise Failed("not-as-asked", f"the build of {work.what} by its own backend made {len(found)} wheels")
    return found[0]


def _log(ports: Ports, order: Order, tree: Tree, toolchain: Toolchain) -> Log:
    name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{tree.version}-cu{order.cuda}-{'-'.join(order.archs)}"
    folder = ports.home / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name[:180]}.log"
    log = Log(path)
    origin = tree.origin
    log.add(
        f"bitsandbytes {tree.version} of {origin.asked}, {origin.ref or 'as it is'}, commit {origin.commit},"
        f" digest {origin.digest}\nCUDA {order.cuda}: nvcc {toolchain.nvcc} in {toolchain.root} ({toolchain.origin}),"
        f" {_host(toolchain)} ({toolchain.host.path})\nfor {' '.join(order.archs)}\n"
    )
    return log


def _host(toolchain: Toolchain) -> str:
    return f"{toolchain.host.kind} {toolchain.host.version}"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
