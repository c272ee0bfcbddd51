"""What this host is: ``read_facts`` gives it, recorded or probed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnbenv.facts.model import HostFacts
    from bnbenv.paths import Sysroot
    from bnbenv.process import Runner

LARGEST = 16 << 20  # bytes of a facts file; real ones have a few thousand


def read_facts(environ: Mapping[str, str], sysroot: Sysroot, runner: Runner, file: str | None = None) -> HostFacts:
    """The facts in ``file`` (``-`` is standard input), else in the file ``BNBENV_FACTS`` names, else probed.

    Raises InputError where a file cannot be read, or its content is not the facts of a host.
    """
    source = environ.get("BNBENV_FACTS") or None if file is None else file
    if source is None:
        from bnbenv.facts.probe import probe_host

        return probe_host(environ, sysroot, runner)
    from bnbenv.facts.model import decode_facts

    if not source:
        from bnbenv.errors import InputError

        raise InputError("--facts", "", "expected the name of a file, found nothing")
    name = "standard input" if source == "-" else source
    return decode_facts(_read(source, name), name)


def _read(source: str, name: str) -> bytes:
    import sys
    from pathlib import Path

    from bnbenv.errors import InputError

    try:
        if source == "-":
            data = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with Path(source).open("rb") as stream:
                data = stream.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(name, "", f"cannot be read ({reason})", "Record facts with: bnbenv facts --json") from None
    if len(data) > LARGEST:
        raise InputError(name, "", f"expected the facts of a host, found more than {LARGEST >> 20} MB")
    return data
