"""GPUs that an environment was made for and that are lost to it: to a driver, with the driver, or taken out. Pure.

What a generation's record knows is compared with what is seen now, in the quick fingerprint (``check``) or in the
facts (``plan``, ``sync``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bnbenv.envs.record import Record
from bnbenv.matrix.drivers import number, too_old, unsupported

if TYPE_CHECKING:
    from bnbenv.facts.model import HostFacts
    from bnbenv.matrix.model import GpuArch


@dataclass(frozen=True)
class Sight:
    """What is seen of driver and GPUs.

    ``driver`` is its version; where it does not answer, that of its module or library. ``trouble`` says why it does
    not, None: it does. ``uuids`` are those of the GPUs that answer, ``nameless`` counts the ones that tell none, and
    ``hidden`` is true where the PCI bus shows more GPUs than that.
    """

    driver: str | None
    uuids: frozenset[str]
    nameless: int = 0
    trouble: str | None = None
    hidden: bool = False
    windows: bool = False
    container: bool = False


@dataclass(frozen=True)
class MadeFor:
    """A GPU that a generation was made for, as its record has it; ``slices`` are the UUIDs of its MIG slices."""

    index: int
    uuid: str
    name: str
    capability: str
    slices: tuple[str, ...] = ()

    def meant_by(self, word: str) -> bool:
        """Whether an index or the beginning of a UUID means this GPU or a slice of it."""
        names = (self.uuid, *self.slices)
        return word == str(self.index) or (len(word) > 4 and any(name.startswith(word) for name in names))


@dataclass(frozen=True)
class LostGpu:
    """A GPU that cannot be used any more, why, and what brings it back."""

    gpu: MadeFor
    because: str
    remedy: str


@dataclass(frozen=True)
class Loss:
    """The GPUs that are lost to an environment, and those of its GPUs that are left.

    ``stops``: nobody took them out by hand, so nothing goes on without being told to.
    """

    lost: tuple[LostGpu, ...]
    left: tuple[MadeFor, ...]
    stops: bool

    def sentences(self, ahead: bool = False) -> list[str]:
        """One for each reason: ``GPU 1 (Tesla V100) is lost: driver 590.44 no longer supports Volta ...``."""
        said = []
        for because in dict.fromkeys(one.because for one in self.lost):
            gpus = [one.gpu for one in self.lost if one.because == because]
            names = ", ".join(dict.fromkeys(gpu.name or gpu.uuid for gpu in gpus))
            form = "would be" if ahead else "is" if len(gpus) == 1 else "are"
            said.append(f"GPU {', '.join(str(gpu.index) for gpu in gpus)} ({names}) {form} lost: {because}")
        return said

    @property
    def remedies(self) -> str:
        return ", ".join(dict.fromkeys(one.remedy for one in self.lost))


def find_loss(record: Record, sight: Sight, archs: Iterable[GpuArch], wished: Iterable[str] = ("all",)) -> Loss | None:
    """The GPUs of a record that are wished for and cannot be used now; None: they all can.

    It stops where the driver took them away (it does not support them, is of another branch and answers for others of
    the same machine only, or does not answer at all), and where no GPU is left. One that was taken out or replaced, or
    is not given to this job or container, is told, no more: what was made for more GPUs runs on fewer. A driver of the
    same branch that answers for other GPUs took none away: support ends between branches.
    """
    rows = {row.compute_capability: row for row in archs}
    words = tuple(wished)
    meant = [gpu for gpu in made_for(record) if words == ("all",) or any(map(gpu.meant_by, words))]
    before = driver_of(record)
    none_left = sight.trouble is not None or not (sight.uuids or sight.nameless)
    changed = _changed(before, sight, none_left)
    lost, left, refused = [], [], False
    for gpu in meant:
        against = unsupported(rows.get(gpu.capability), sight.driver, sight.windows)
        if against is not None:
            refused = True
            last, first = against.last_branch, against.first_driver
            remedy = f"go back to a driver of branch {last}" if last else f"install driver {first} or newer"
            lost.append(LostGpu(gpu, against.because, remedy))
        elif sight.trouble is not None or not (gpu.uuid in sight.uuids or sight.nameless or not gpu.uuid):
            lost.append(LostGpu(gpu, *_why_gone(sight, before if changed else None, before)))
        else:
            left.append(gpu)
    if not lost:
        return None
    stops = refused or none_left or (changed and (sight.hidden or bool(left)))
    return Loss(tuple(lost), tuple(left), stops)


def _changed(before: str | None, sight: Sight, none_left: bool) -> bool:
    """Whether another driver may be why a GPU does not answer."""
    if before is None or sight.driver is None or before == sight.driver:
        return False
    width = 10 if sight.windows else 1  # a Windows driver of R580 has a number from 580 to 589
    old, new = (number(version)[:1] for version in (before, sight.driver))
    same_branch = [part // width for part in old] == [part // width for part in new]
    return none_left or not same_branch


def _why_gone(sight: Sight, former: str | None, before: str | None) -> tuple[str, str]:
    """Why a GPU that the driver supports does not answer, and what helps; ``former`` is the driver if it changed."""
    if sight.trouble is not None:
        if sight.container:
            return sight.trouble, "start the container with its GPUs (docker run --gpus all)"
        return sight.trouble, f"bring back the NVIDIA driver{f' ({before})' if before else ''}"
    if former is not None:
        return f"driver {sight.driver} does not answer for it, and {former} did", f"go back to driver {former}"
    if sight.hidden:
        return "the driver does not answer for it", "see what dmesg says of it"
    return "it is not there any more", "put it back"


def made_for(record: Record) -> tuple[MadeFor, ...]:
    """The GPUs that a generation's solution covers; none for one that was made for the CPU."""
    if record.decision.get("backend") != "cuda":
        return ()
    covered = {one.get("gpu") for one in _tables(record.decision.get("covers"))}
    gpus = (_gpu(gpu) for gpu in _tables(record.facts.get("gpus")))
    return tuple(gpu for gpu in gpus if not covered or gpu.index in covered)


def _gpu(table: Mapping[str, Any]) -> MadeFor:
    mig = table.get("mig")
    slices = tuple(str(part.get("uuid")) for part in _tables(mig.get("devices") if isinstance(mig, dict) else None))
    index = table.get("index")
    uuid, name, capability = (str(table.get(key, "")) for key in ("uuid", "name", "compute_capability"))
    return MadeFor(index if isinstance(index, int) else 0, uuid, name, capability, slices)


def _tables(value: Any) -> list[dict[str, Any]]:
    """The tables in a list of a record, which is read without a schema."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def driver_of(record: Record) -> str | None:
    """The driver that a generation was made under."""
    driver = record.facts.get("driver")
    version = driver.get("version") if isinstance(driver, dict) else None
    return version if isinstance(version, str) else None


def seen_in_facts(facts: HostFacts) -> Sight:
    """What the facts say."""
    driver = facts.driver
    reasons = [item.reason for item in facts.unknown if item.fact.split(".")[0] in ("driver", "gpus")]
    plain = "there is no NVIDIA driver" if driver.state == "absent" else "the NVIDIA driver does not answer"
    return Sight(
        driver=driver.version or driver.kernel_module or driver.userland,
        uuids=frozenset(gpu.uuid for gpu in facts.gpus if gpu.uuid),
        nameless=sum(not gpu.uuid for gpu in facts.gpus),
        trouble=None if driver.state == "ok" else next(iter(reasons), plain),
        hidden=any(item.fact == "gpus" for item in facts.unknown),
        windows=facts.platform.os == "windows" or facts.platform.wsl,
        container=facts.platform.container is not None,
    )


def seen_in_fingerprint(state: str, fingerprint: Mapping[str, str], record: Record) -> Sight:
    """What the quick fingerprint says; the platform is the record's."""
    names = ("driver module", "driver version", "driver", "driver library", "driver userland")
    versions = (fingerprint.get(name, "") for name in names)
    # A GPU that the record's own fingerprint did not tell by its UUID is missed only where its place is empty.
    known = _uuids(record.host)
    gone = {value for name, value in record.host.items() if name.startswith("GPU ") and name not in fingerprint}
    blind = {gpu.uuid for gpu in made_for(record) if gpu.uuid not in known and gpu.name not in gone}
    troubles = {"ok": None, "absent": "there is no NVIDIA driver"}
    platform = record.facts.get("platform")
    where = platform if isinstance(platform, dict) else {}
    return Sight(
        driver=next((version for version in versions if version[:1].isdigit()), None),
        uuids=frozenset(_uuids(fingerprint) | blind) if state == "ok" else frozenset(),
        nameless=sum(name.endswith(" UUID") and value == "unknown" for name, value in fingerprint.items()),
        trouble=troubles.get(state, "the NVIDIA driver does not answer"),
        windows=where.get("os") == "windows" or bool(where.get("wsl")),
        container=bool(where.get("container")),
    )


def _uuids(fingerprint: Mapping[str, str]) -> set[str]:
    """The UUIDs in a fingerprint: ``GPU GPU-...`` as a name, or the value of ``GPU <bus> UUID``."""
    names = {name.removeprefix("GPU ") for name in fingerprint if name.startswith("GPU GPU-")}
    return names | {value for name, value in fingerprint.items() if name.endswith(" UUID") and value != "unknown"}


def driver_reasons(record: Record, state: str, fingerprint: Mapping[str, str]) -> list[tuple[str, str]]:
    """What a changed host has against a generation, as codes and sentences: GPUs that are lost, a driver too old.

    Reads the two small tables of the matrix that know of drivers.
    """
    if record.decision.get("backend") != "cuda":
        return []
    from bnbenv.matrix.load import load_hardware

    drivers, archs = load_hardware()
    sight = seen_in_fingerprint(state, fingerprint, record)
    loss = find_loss(record, sight, archs)
    if loss is not None and loss.stops:
        return [("gpu-lost", said) for said in loss.sentences()]
    torch = record.decision.get("choice", {}).get("torch", {})
    cuda = torch.get("cuda")
    if not isinstance(cuda, str) or sight.driver is None or sight.trouble is not None:
        return []
    need = too_old(drivers, cuda, sight.driver, sight.windows)
    because = (
        f"driver {sight.driver} is too old for torch {torch.get('version')}: its CUDA {cuda} needs {need} or newer"
    )
    return [("driver-too-old", because)] if need else []


def lost_after_reboot(records: Iterable[Record], driver: str) -> tuple[list[str], str]:
    """What a driver that waits for the reboot will no longer run, and what to do instead of rebooting."""
    from bnbenv.matrix.load import load_hardware

    _, archs = load_hardware()
    said: list[str] = []
    remedies: list[str] = []
    for record in records:
        sight = seen_in_fingerprint("ok", {}, record)
        there = frozenset(gpu.uuid for gpu in made_for(record))
        loss = find_loss(record, replace(sight, driver=driver, uuids=there, nameless=1), archs)
        if loss is not None:
            said += loss.sentences(ahead=True)
            remedies.append(loss.remedies)
    return list(dict.fromkeys(said)), ", ".join(dict.fromkeys(remedies))
