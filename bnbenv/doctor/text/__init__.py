"""Error texts: from a traceback, a log or a build's output to one primary cause.

The text is untrusted: of any size, in any encoding, coloured, wrapped and quoted. What is said about a code stands in
``signatures.toml``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from bnbenv.doctor.model import TextDiagnosis

__all__ = ["diagnose", "memory", "transient"]


def diagnose(stream: BinaryIO) -> TextDiagnosis:
    """What a text says: the signs in it, of which at most one is the primary cause, and of which machine it speaks.

    Raises OSError where the stream cannot be read; no content makes it raise.
    """
    from bnbenv.doctor.model import TextDiagnosis
    from bnbenv.doctor.text.cleaning import views
    from bnbenv.doctor.text.primary import judge
    from bnbenv.doctor.text.reading import read
    from bnbenv.doctor.text.said import said
    from bnbenv.doctor.text.signatures import hits

    reading = read(stream)
    forms = views(reading.parts)
    found = hits(forms)
    spoken = said(forms)
    if any(hit.signature.code.startswith("build-") for hit in found):
        from msgspec.structs import replace

        from bnbenv.build.failed import first_failure

        lines = (line.text.decode("utf-8", "replace") for part in reading.parts for line in part)
        failure = first_failure("\n".join(lines))
        spoken = replace(spoken, compiling=failure.next_step or None) if failure is not None else spoken
    return TextDiagnosis(
        seen=judge(forms, found),
        said=spoken,
        harmless=tuple(hit.signature.title for hit in found if hit.signature.role == "harmless"),
        read=reading.read,
        skipped=reading.skipped,
    )


def transient(code: str) -> bool:
    """Whether the same command can succeed a little later: a busy device, memory that another process holds."""
    from bnbenv.doctor.text.signatures import signatures

    found = signatures().get(code)
    return found is not None and found.transient


def memory(code: str) -> bool:
    """Whether memory was the cause."""
    from bnbenv.doctor.text.signatures import signatures

    found = signatures().get(code)
    return found is not None and found.memory
