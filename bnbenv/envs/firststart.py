"""An environment that was made from recorded facts (``BNBENV_FACTS``), on the machine that it was made for.

An image is built where the GPUs are not: nothing ran there. At the first start the packages stay and their kernels run.
A recorded GPU is any of its kind, since no two machines have one with the same UUID.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bnbenv.envs.check import RECORDED
from bnbenv.envs.record import Record

if TYPE_CHECKING:
    from bnbenv.envs.lost import Loss
    from bnbenv.facts.model import HostFacts, Platform


def is_first(record: Record, recorded: bool) -> bool:
    """Whether a record's host was a facts file's. ``recorded``: so are the present facts."""
    return RECORDED in record.host and not recorded


def made_for_words(record: Record) -> str:
    """``NVIDIA H200, driver 580.65.06``, or ``a machine without NVIDIA GPUs``."""
    names = list(dict.fromkeys(str(gpu.get("name")) for gpu in _tables(record.facts.get("gpus"))))
    driver = record.facts.get("driver")
    version = driver.get("version") if isinstance(driver, dict) else None
    if not names:
        return "a machine without NVIDIA GPUs"
    return f"{', '.join(names)}{f', driver {version}' if version else ''}"


def check_platform(facts: HostFacts, here: Platform) -> None:
    """What is installed runs where it is installed. Raises UsageError for recorded facts of another system or machine.

    ``here`` is this host's own platform.
    """
    meant, this = (f"{one.os} {one.machine}" for one in (facts.platform, here))
    if meant != this:
        from bnbenv.errors import UsageError

        message = f"BNBENV_FACTS is of a machine with {meant}, and an environment made here is for {this}"
        raise UsageError("facts-of-another-platform", message, f"Make it on {meant}; bnbenv solve only says what fits.")


def settled(record: Record, facts: HostFacts) -> Record:
    """The record with its GPUs taken for those of their compute capability that are here, each once."""
    free = [gpu for gpu in facts.gpus if gpu.uuid]
    gpus = []
    for table in _tables(record.facts.get("gpus")):
        found = next((gpu for gpu in free if gpu.compute_capability == table.get("compute_capability")), None)
        if found is not None:
            free.remove(found)
        gpus.append(table if found is None else {**table, "uuid": found.uuid})
    return record._replace(facts={**record.facts, "gpus": gpus})


def missing(loss: Loss, facts: HostFacts) -> list[str]:
    """What is to be said of GPUs that it was made for and that this machine does not have."""
    if any(one.gpu.uuid == gpu.uuid for one in loss.lost for gpu in facts.gpus):
        return loss.sentences()
    wanted = ", ".join(dict.fromkeys(one.gpu.name for one in loss.lost))
    if loss.left:
        has = "this machine has fewer of them"
    elif facts.gpus and facts.driver.state == "ok":
        has = f"this machine has {', '.join(dict.fromkeys(gpu.name for gpu in facts.gpus))}"
    else:
        has = f"there is none here: {'; '.join(dict.fromkeys(one.because for one in loss.lost))}"
    return [f"it was made from recorded facts (BNBENV_FACTS) for {wanted}, and {has}"]


def _tables(value: Any) -> list[Mapping[str, Any]]:
    """The tables in a list of a record, which is read without a schema."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
