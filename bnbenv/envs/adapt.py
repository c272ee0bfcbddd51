"""Staying close to what is there, and stopping where going on would quietly give up a GPU."""

from __future__ import annotations

import re

import msgspec

from bnbenv.envs.check import InUse, Reason
from bnbenv.envs.firststart import is_first, missing, settled
from bnbenv.envs.generations import adopted, generation_of
from bnbenv.envs.lockfile import Locked, normalized, read_lock, read_saved_lock
from bnbenv.envs.lost import Loss, driver_of, find_loss, seen_in_facts
from bnbenv.envs.project import ADOPTED
from bnbenv.envs.record import Record, versions_in
from bnbenv.envs.resolve import Setting
from bnbenv.errors import NoCombination
from bnbenv.facts.model import Gpu, HostFacts
from bnbenv.matrix.drivers import number
from bnbenv.solve.model import Current
from bnbenv.solve.situation import as_installed
from bnbenv.solve.versions import is_version

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def what_is_there(setting: Setting, env: str, use: InUse) -> tuple[Current | None, dict[str, str]]:
    """What ``minimal-change`` stays close to, and the versions of the further packages; nothing under ``newest``.

    That is the generation in use, by the lock that lies beside it; where there is none, the project's lock. What was
    adopted has none, and what follows it stays close to it under either policy.
    """
    zero = adopted(setting.project, env) if use.generation in (None, ADOPTED) else None
    if zero is not None and zero.record is not None:
        return _held(zero.record)
    if setting.wishes.policy.prefer != "minimal-change":
        return None, {}
    locked = None
    if use.generation is not None and use.record is not None:
        locked = read_saved_lock(generation_of(setting.project, env, use).lock_file)
    locked = locked or read_saved_lock(setting.project.lock(env))
    if locked is None:
        return None, {}
    choice = locked.decision.solution.choice
    own = choice.versions
    current = Current(choice.python, choice.torch.version, own.pop("bitsandbytes", ""), own)
    if not all(map(is_version, (choice.python, choice.torch.version, *choice.versions.values()))):
        return None, {}
    return current, further_packages(locked)


def _held(record: Record) -> tuple[Current | None, dict[str, str]]:
    """What an environment that was adopted held by its record, which is older than any damage."""
    choice, own = record.decision.get("choice", {}), versions_in(record.decision)
    torch, python = choice.get("torch", {}).get("version"), choice.get("python")
    if not (isinstance(torch, str) and isinstance(python, str) and is_version(torch) and is_version(python)):
        return None, {}
    stems = (stem.partition("-") for stem in record.packages)
    versions = {normalized(name): version for name, _, version in stems if is_version(version)}
    others = {name: version for name, version in versions.items() if name not in {"torch", *own}}
    kept = {name: version for name, version in own.items() if version != "0"}  # what could not be read
    return Current(python, torch, kept.pop("bitsandbytes", ""), kept), others


def further_packages(locked: Locked) -> dict[str, str]:
    """The versions in a lock that nothing decided on but uv."""
    chosen = {"torch", *locked.decision.solution.choice.versions}
    others = {name: version for name, version in locked.packages.items() if name not in chosen}
    return {name: version for name, version in others.items() if _NAME.fullmatch(name) and is_version(version)}


def held_by_earlier(setting: Setting, env: str) -> dict[str, str]:
    """The versions in the locks of the environments that stand before one in bnbenv.toml.

    uv stays with them where they fit: what two environments have in common is then one set of files on the disk.
    """
    found: dict[str, str] = {}
    names = list(setting.wishes.envs)
    for name in reversed(names[: names.index(env)]):  # the first one counts most
        if name in setting.waiting:
            locked: Locked | None = read_lock(setting.waiting[name], setting.project.lock(name).name)
        else:
            locked = read_saved_lock(setting.project.lock(name))
        if locked is not None and locked.decision.env == name:
            found |= further_packages(locked)
    return found


def stop_on_loss(setting: Setting, env: str, use: InUse, accepted: bool = False, ahead: bool = False) -> list[str]:
    """Notes about GPUs that the environment in use was made for and that are gone.

    Raises NoCombination (``gpu-lost``) where a driver took them, or none is left: an environment for GPUs becomes one
    for fewer of them, or for the CPU, only where that is asked for, by the wishes or by ``--gpus`` and ``--backend``
    (``accepted``). ``ahead``: the facts are of a driver that is not installed yet.
    """
    wish = setting.wishes.request(env, str(setting.project.config))
    if wish.backend == "cpu":
        return []
    if use.record is None:
        _stop_without_record(setting, env, use, accepted)
        return []
    first = is_first(use.record, bool(setting.environ.get("BNBENV_FACTS")))
    record = settled(use.record, setting.facts) if first else use.record
    loss = find_loss(record, seen_in_facts(setting.facts), setting.matrix.archs, wish.gpus)
    if loss is None:
        return []
    said = missing(loss, setting.facts) if first else loss.sentences(ahead)
    if accepted or not loss.stops:
        return [*said[:-1], f"{said[-1]}: going on {'with what is here' if first else 'without it'}"]
    after = "after it go on without: " if ahead else "go on without: "
    step = (
        f"{_way_back(setting, use.record, loss, ahead)}, or {after}{_accepting(setting, env, wish.gpus, loss, ahead)}"
    )
    raise NoCombination("gpu-lost", "; ".join(said), step)


def _stop_without_record(setting: Setting, env: str, use: InUse, accepted: bool) -> None:
    """An environment whose record is damaged still has its lock, which says that it was made for GPUs."""
    if accepted or use.generation is None or setting.facts.gpus:
        return
    saved = generation_of(setting.project, env, use).lock_file
    locked = read_saved_lock(saved) or read_saved_lock(setting.project.lock(env))
    if locked is None or locked.decision.solution.backend != "cuda":
        return
    why = seen_in_facts(setting.facts).trouble or "the driver lists none"
    step = f"Bring back the NVIDIA driver, or go on without: bnbenv sync{_env_option(setting, env)} --backend cpu"
    raise NoCombination("gpu-lost", f"the environment in use was made for GPUs, and there is none: {why}", step)


def _env_option(setting: Setting, env: str) -> str:
    return f" --env {env}" if len(setting.wishes.envs) > 1 else ""


def _way_back(setting: Setting, record: Record, loss: Loss, ahead: bool) -> str:
    if ahead:
        return f"Keep the driver that is there ({driver_of(record)})"
    if is_first(record, bool(setting.environ.get("BNBENV_FACTS"))):
        return "Start it where they are (a container: docker run --gpus all), in an image build set BNBENV_FACTS again"
    remedies = loss.remedies
    return remedies[:1].upper() + remedies[1:]


def _accepting(setting: Setting, env: str, wished: tuple[str, ...], loss: Loss, ahead: bool) -> str:
    """The very command that goes on with the GPUs that are left, or with the CPU."""
    gone = {one.gpu.uuid for one in loss.lost}
    usable = [gpu for gpu in setting.facts.gpus if gpu.uuid not in gone]
    listed = len(usable) < len(setting.facts.gpus) and not ahead  # the driver lists what it is known not to run
    if not usable or setting.facts.driver.state != "ok":
        words = "--backend cpu"
    elif wished == ("all",) and not listed:
        words = "--gpus all"
    else:
        left = [gpu.uuid or str(gpu.index) for gpu in loss.left] or [gpu.uuid or str(gpu.index) for gpu in usable]
        words = f"--gpus {','.join(left)}"
    return f"bnbenv sync{_env_option(setting, env)} {words}"


def as_if(setting: Setting, version: str, use: InUse) -> HostFacts:
    """The facts as if another driver were installed. GPUs that the present one has lost are there again."""
    driver = as_installed(version, setting.facts, setting.matrix)
    facts = setting.facts
    gpus = facts.gpus if use.record is None else _with_recorded(facts, use.record)
    answered = ("driver", "gpus") if len(gpus) > len(facts.gpus) else ("driver",)
    unknown = tuple(item for item in facts.unknown if item.fact.split(".")[0] not in answered)
    return msgspec.structs.replace(facts, driver=driver, gpus=gpus, unknown=unknown)


def _with_recorded(facts: HostFacts, record: Record) -> tuple[Gpu, ...]:
    if facts.driver.state == "ok" and driver_of(record) == facts.driver.version:
        return facts.gpus
    try:
        recorded = msgspec.convert(record.facts.get("gpus", []), tuple[Gpu, ...])
    except msgspec.ValidationError:
        return facts.gpus
    here, known = {gpu.uuid for gpu in facts.gpus}, {gpu.uuid for gpu in recorded}
    if here <= known:
        return recorded
    missing = [gpu for gpu in recorded if gpu.uuid not in here]
    first = max((gpu.index for gpu in facts.gpus), default=-1) + 1
    return (*facts.gpus, *(msgspec.structs.replace(gpu, index=first + n) for n, gpu in enumerate(missing)))


def asked_about(env: str, driver: str, reasons: tuple[Reason, ...], record: Record | None) -> tuple[Reason, ...]:
    """The reasons as they would be with another driver: what is said of the present one gives way to it."""
    kept = tuple(one for one in reasons if one.code not in ("host-changed", "gpu-lost", "driver-too-old"))
    before = driver_of(record) if record else None
    if record is None or number(before or "") == number(driver):
        return kept
    return (
        Reason(env, "driver-asked", f"as if the driver were {driver} (it was made under {before or 'none'})"),
        *kept,
    )
