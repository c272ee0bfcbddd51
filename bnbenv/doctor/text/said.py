"""What a text says of the machine that it comes from."""

from __future__ import annotations

import re
from collections.abc import Callable

from bnbenv.doctor.model import Said
from bnbenv.doctor.text.cleaning import Views, decoded

_VERSION = rb"(\d{1,3}\.\d{1,3}(?:\.\d{1,4})?(?:[.\w]{0,12})?(?:\+\w{1,12})?)"
_UNITS = {b"kib": 1 << 10, b"mib": 1 << 20, b"gib": 1 << 30, b"tib": 1 << 40, b"mb": 1 << 20, b"gb": 1 << 30}


def _all(*texts: bytes) -> tuple[re.Pattern[bytes], ...]:
    return tuple(re.compile(text, re.MULTILINE | re.IGNORECASE) for text in texts)


# In the order of trust; the first that a text has counts.
_PYTHON = _all(
    rb"^python(?: version)?[: ]{1,3}(3\.\d{1,2}(?:\.\d{1,2})?)", rb"python(3\.\d{1,2})[/\\](?:site|dist)-packages"
)
_TORCH = _all(
    rb"^(?:- )?(?:py)?torch(?: version)?(?: \(GPU\?\))?[:= ]{1,4}" + _VERSION, rb"\btorch[- =]{1,2}" + _VERSION
)
_TORCH_CUDA = _all(
    rb"PyTorch settings found: CUDA_VERSION=(\d{2,3})",
    rb"Detected PyTorch CUDA version: {1,4}(\d{1,2}\.\d)",
    rb"cuda_version_string='(\d{2,3})'",
    rb"\btorch[^\n]{0,24}\+cu(\d{2,3})\b",
    rb"^  CUDA: (\d{1,2}\.\d{1,2})",
)
_BITSANDBYTES = _all(
    rb"^=+ bitsandbytes v" + _VERSION,
    rb"\bbitsandbytes(?: version)?[:=@ -]{1,24}v?" + _VERSION,
    rb"^Name: bitsandbytes\s+Version: " + _VERSION,
)
_DRIVER = _all(
    rb"Driver Version: {0,4}(\d{3}\.\d{1,3}(?:\.\d{1,3})?)",
    rb"NVRM version: NVIDIA UNIX[^\n]{0,60} (\d{3}\.\d{1,3}(?:\.\d{1,3})?) ",
    rb"\bdriver(?: version)?[: ]{1,3}(\d{3}\.\d{1,3}(?:\.\d{1,3})?)",
)
_CAPABILITY = _all(
    rb"compute capability(?: among GPUs detected)?: ?\(?(\d{1,2})[., ]{1,2}(\d)\b",
    rb"highest_compute_capability=\((\d{1,2}), ?(\d)\)",
    rb"with CUDA capability sm_(\d{1,2})(\d)\b",
    rb"cuda capability (\d{1,2})\.(\d)\b",
)
_GPU = _all(
    rb"\b(NVIDIA (?:GeForce |Tesla |RTX |Quadro |TITAN |[AHBLVPT]\d{1,3})[\w ]{0,40}?)"
    rb"(?= with CUDA|\s{2,}|[\n,.:;|(]| GPU\b)",
    rb"\b((?:GeForce |Tesla )[\w ]{1,30}?)(?= with CUDA|\s{2,}|[\n,.:;|(])",
)
_LIBRARY = _all(rb"(libs?bitsandbytes_[a-z0-9_]{2,40}\.(?:so|dll|dylib))")
_PACKAGES = _all(rb"[/\\](?:lib(?:64)?[/\\]python3\.\d{1,2}|lib)[/\\](?:site|dist)-packages[/\\]bitsandbytes")
_NO_PATH = re.compile(rb"[\n'\"(=<>|]")
_OVERRIDE = _all(rb"BNB_CUDA_VERSION=(\d{2,4})\b(?! python)(?!.{0,24}\bor\b)")
_WANTED = _all(rb"Tried to allocate (\d{1,9}(?:\.\d{1,4})?) ?([KMGT]iB)")
_TOTAL = _all(
    rb"total capacity of (\d{1,9}(?:\.\d{1,4})?) ?([KMGT]iB)",
    rb"(\d{1,9}(?:\.\d{1,4})?) ?([KMGT]iB) total capacity",
    rb"GPU: [^\n]{1,60}\((\d{1,4}) ?(GB)\)",
)
_SYSTEMS = (
    ("windows", _all(rb"\b[A-Z]:\\[\w ]", rb"WindowsPath|\bWinError\b|win_amd64|^Platform: Windows")),
    ("macos", _all(rb"/Users/\w|macosx_|\bmacOS\b|\.dylib\b|^Platform: macOS")),
    ("linux", _all(rb"PosixPath|/(?:home|usr|opt|root|mnt|data|workspace)/|manylinux|\blinux\b|\.so\b")),
)


def said(views: Views) -> Said:
    """What a text says of its machine; null where it says nothing. Numbers of memory are in bytes."""
    text = b"\n".join(line.text for line in views.lines)
    capability = _first(_CAPABILITY, text)
    return Said(
        os=next((name for name, signs in _SYSTEMS if _first(signs, text)), None),
        python=_text(_PYTHON, text),
        torch=_text(_TORCH, text),
        torch_cuda=_text(_TORCH_CUDA, text, _dotted),
        bitsandbytes=_text(_BITSANDBYTES, text),
        driver=_text(_DRIVER, text),
        capability=f"{int(capability[1])}.{int(capability[2])}" if capability else None,
        gpu=_text(_GPU, text),
        library=_text(_LIBRARY, text),
        prefix=_prefix(text),
        override=_text(_OVERRIDE, text),
        memory_wanted=_bytes(_WANTED, text),
        memory_total=_bytes(_TOTAL, text),
    )


def _first(expressions: tuple[re.Pattern[bytes], ...], text: bytes) -> re.Match[bytes] | None:
    return next((found for each in expressions if (found := each.search(text)) is not None), None)


def _text(expressions: tuple[re.Pattern[bytes], ...], text: bytes, form: Callable[[str], str] = str) -> str | None:
    found = _first(expressions, text)
    return form(decoded(found[1]).strip()) if found else None


def _prefix(text: bytes) -> str | None:
    """The folder of the environment whose bitsandbytes the text names."""
    found = _first(_PACKAGES, text)
    if found is None:
        return None
    before = text[max(0, found.start() - 200) : found.start()]
    path = _NO_PATH.split(before)[-1]
    drive = re.search(rb"[A-Za-z]:\\", path)
    return decoded(path[drive.start() :] if drive else path[path.rfind(b" ") + 1 :]).strip() or None


def _dotted(version: str) -> str:
    """``128`` is CUDA 12.8; ``92`` of old 9.2."""
    return version if "." in version else f"{version[:-1]}.{version[-1]}"


def _bytes(expressions: tuple[re.Pattern[bytes], ...], text: bytes) -> int | None:
    found = _first(expressions, text)
    return int(float(found[1]) * _UNITS[found[2].lower()]) if found else None
