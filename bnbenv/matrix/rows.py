"""What types cannot say of a row that did not come with the package: versions and specifiers can be read as such."""

from __future__ import annotations

from bnbenv.decode import shown
from bnbenv.errors import InputError
from bnbenv.matrix.model import BitsandbytesWheel, TorchBuild

LONGEST = 1000  # characters of a specifier


def check_row(row: BitsandbytesWheel | TorchBuild, file: str, where: str, next_step: str = "") -> None:
    """Raises InputError with the field of a row that the solver could not judge by; ``where`` is the row's place."""
    check_version(row.version, file, f"{where}.version", next_step)
    if isinstance(row, TorchBuild) and row.triton is not None:
        check_version(row.triton, file, f"{where}.triton", next_step)
    if row.requires_python is not None and not is_specifier(row.requires_python):
        expected = f'expected a version specifier, found "{shown(row.requires_python)}"'
        raise InputError(file, f"{where}.requires_python", expected, next_step)


def check_version(text: str, file: str, where: str, next_step: str = "") -> None:
    """Raises InputError for what is no PEP 440 version."""
    if not is_version(text):
        raise InputError(file, where, f'expected a version, found "{shown(text)}"', next_step)


def is_version(text: str) -> bool:
    """Whether a text is a PEP 440 version."""
    from packaging.version import Version

    try:
        return Version(text) is not None
    except ValueError:  # among them a number of thousands of digits
        return False


def is_specifier(text: str) -> bool:
    """Whether a text is a specifier that versions can be held against."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return len(text) <= LONGEST and SpecifierSet(text) is not None
    except InvalidSpecifier:
        return False
