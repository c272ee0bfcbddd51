"""Asking, before a fix is called automatic: the solver, the package sources (uv resolves it), and the files at hand."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bnbenv.doctor.fixes import source_builds, trees
from bnbenv.doctor.fixes.decide import decide, needs_pair
from bnbenv.doctor.fixes.model import Action, Chosen, Compile, Delete, DropSetting, Hands, Install, NewGeneration, Split
from bnbenv.doctor.fixes.prescribe import treat
from bnbenv.doctor.fixes.settings_files import without
from bnbenv.doctor.model import Cause, Examination, Said
from bnbenv.envs.resolve import Setting, sources_for
from bnbenv.envs.survey import survey
from bnbenv.envs.uv import Uv
from bnbenv.envs.wishes import EnvWish, Wishes
from bnbenv.errors import BnbenvError
from bnbenv.matrix.model import Matrix
from bnbenv.progress import Quiet, during
from bnbenv.solve.model import Availability

LIMIT = 15.0  # seconds for uv to say whether what a fix would install can be had

_CHANGE = re.compile(r"^ [-+~] ([A-Za-z0-9._-]+)==", re.MULTILINE)
_CONDA_NAMES = {"torch": "pytorch"}


def choose(
    wanted: Sequence[tuple[str, Cause]], examination: Examination, said: Said | None, matrix: Matrix, hands: Hands
) -> Chosen:
    """See ``bnbenv.doctor.fixes.choose``."""
    chosen = decide(examination, said, matrix)
    if examination.target.python is None:
        return chosen
    if needs_pair(wanted, chosen) and examination.target.kind != "bnbenv":
        chosen = decide(examination, said, matrix, _offered(examination, matrix, hands))
    chosen = _split(wanted, chosen, examination, matrix, hands)
    checked: dict[str, str] = {}
    for code, cause in wanted:
        for action in treat(code, cause, examination, said, chosen).actions:
            if action.key not in checked:
                checked[action.key] = against(action, examination, matrix, hands)
    return msgspec.structs.replace(chosen, checked=checked)


def _offered(examination: Examination, matrix: Matrix, hands: Hands) -> Availability | None:
    """What the package sources offer; None where they cannot be asked."""
    project = source_builds.project_for(hands)
    wishes = Wishes(envs={"bnb": EnvWish()}, sources=source_builds.sources_wish(project))
    setting = Setting(project, wishes, examination.facts, matrix, hands.environ, hands.runner, None, Quiet())
    try:
        with during(hands.progress, "asking the package sources what they offer"):
            return survey(setting).found
    except (BnbenvError, OSError):
        return None


def _split(
    wanted: Sequence[tuple[str, Cause]], chosen: Chosen, examination: Examination, matrix: Matrix, hands: Hands
) -> Chosen:
    """With how a mixed environment is split, where one of the causes is that it is mixed."""
    if not any(cause == "quant_lib_conflict" for _, cause in wanted):
        return chosen
    from bnbenv.doctor.fixes.splitting import shares_of

    try:
        shares, left = shares_of(examination, matrix, hands.project)
    except (BnbenvError, OSError):
        return chosen
    return msgspec.structs.replace(chosen, shares=shares, left=left)


# ---- what stands against an action -----------------------------------------------------------------------------


def against(action: Action, examination: Examination, matrix: Matrix, hands: Hands) -> str:
    """Why an action cannot be carried out, as a sentence without its full stop; empty: it can."""
    try:
        if isinstance(action, NewGeneration):
            return "" if hands.project is not None else "the project of this environment is not known"
        if isinstance(action, Split):
            return "" if hands.project is not None else "there is no project in which its parts could be made"
        if isinstance(action, DropSetting):
            found = edited(action, hands, "today")
            return found if isinstance(found, str) else ""
        if isinstance(action, Delete):
            return _not_deletable(action)
        reason = _not_ours(examination)
        if reason:
            return reason
        if isinstance(action, Compile):
            names = frozenset({"bitsandbytes"})
            reason = _managed_by_conda(examination, names) or _linked(examination, names)
            return reason or source_builds.against(action, examination, matrix, hands)
        names = resolved(action, examination, matrix, hands)[1]
        return _managed_by_conda(examination, names) or _linked(examination, names)
    except BnbenvError as error:
        return f"{error.message}{f' ({error.next_step})' if error.next_step else ''}"
    except OSError as error:
        return f"{error.filename or 'a file'}: {(error.strerror or str(error)).lower()}"


def edited(
    action: DropSetting, hands: Hands, day: str, so_far: Mapping[Path, bytes] = {}
) -> tuple[Path, bytes, bytes] | str:
    """The file that sets a variable, its bytes, and those without it; or why that has to be done by hand.

    ``so_far`` are files of which something else was taken out already.
    """
    path = (hands.sysroot.path(action.file) if action.file.startswith("/etc/") else Path(action.file)).resolve()
    try:
        data = so_far[path] if path in so_far else path.read_bytes()
        owner = path.stat().st_uid
    except OSError as error:
        return f"{action.file} cannot be read ({(error.strerror or str(error)).lower()})"
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        return f"{action.file} cannot be written by this user"
    if hasattr(os, "getuid") and owner != os.getuid():
        return f"{action.file} belongs to another user"
    found = without(action.file, data, action.name, action.line, day)
    return found if isinstance(found, str) else (path, data, found)


def _not_deletable(action: Delete) -> str:
    for one in map(Path, action.metadata):
        if not (one / "RECORD").is_file():
            return f"{one} has no RECORD, so nobody knows which files are its own"
        if not os.access(one.parent, os.W_OK):
            return f"{one.parent} cannot be written by this user"
        link = trees.behind_link(one.parent, trees.recorded(one))
        if link is not None:
            return _is_link(link)
    return ""


def _is_link(path: Path) -> str:
    return f"{path} is a link to {path.readlink()}: what lies there is not this environment's own"


def _not_ours(examination: Examination) -> str:
    """Environments into which other programs install."""
    target = examination.target
    folders = site_folders(examination)
    if target.prefix is None or not folders:
        return "nothing tells where its packages lie"
    if target.kind == "system":
        library = folders[0].parent
        if any(
            (place / "EXTERNALLY-MANAGED").exists() for place in (library, *Path(target.prefix).glob("lib/python3.*"))
        ):
            return (
                f"{target.python} is managed by the system (PEP 668): make an environment instead with bnbenv sync, or "
                "python -m venv"
            )
    blocked = next((folder for folder in folders if not os.access(folder, os.W_OK)), None)
    if blocked is not None or not target.writable:
        return f"{blocked or target.prefix} cannot be written by this user"
    editable = [one.name for one in examination.packages if one.editable and one.name in ("torch", "bitsandbytes")]
    return f"{editable[0]} is an editable installation of a source tree: change it there" if editable else ""


def _managed_by_conda(examination: Examination, names: frozenset[str]) -> str:
    """conda keeps its own account of what it installed, which an installer beside it makes wrong."""
    prefix = Path(examination.target.prefix or "")
    for name in sorted(names):
        known = _CONDA_NAMES.get(name, name)
        if any(re.match(r"\d", one.name[len(known) + 1 :]) for one in (prefix / "conda-meta").glob(f"{known}-*.json")):
            return f"{known} was installed by conda: conda install -p {prefix} -c conda-forge {known}"
    return ""


def _linked(examination: Examination, names: frozenset[str]) -> str:
    """An installer would write through a link into whatever lies there."""
    for folder in site_folders(examination):
        files = [path for one in trees.metadata_of(folder, names) for path in trees.recorded(one)]
        link = trees.behind_link(folder, [*files, *(f"{name.replace('-', '_')}/__init__.py" for name in names)])
        if link is not None:
            return _is_link(link)
    return ""


def site_folders(examination: Examination) -> list[Path]:
    """The environment's own folders of packages."""
    return [
        Path(one.path) for one in examination.target.search if one.where == "environment" and Path(one.path).is_dir()
    ]


# ---- uv --------------------------------------------------------------------------------------------------------


def uv_of(action: Install, matrix: Matrix, hands: Hands) -> Uv:
    """uv with the sources of the user and the project. Raises InputError, UsageError, Failed."""
    project = source_builds.project_for(hands)
    sources = sources_for(project, source_builds.sources_wish(project), matrix, hands.environ)
    if action.index is not None:
        sources = sources.with_pytorch(action.index)
    folder = project.root if project.root.is_dir() else hands.home
    # uv refuses it beside --no-compile-bytecode, which keeps it from running what nobody looked at.
    environment = {**sources.uv_environment(), "UV_COMPILE_BYTECODE": None}
    return Uv.find(hands.runner, environment, folder, sources.uv_arguments(), hands.progress)


def install(action: Install, python: Path, uv: Uv, *extra: str) -> frozenset[str]:
    """Have uv install what an action asks for; returns the normalized names of what changed. Raises BnbenvError."""
    options = [word for name in action.reinstall for word in ("--reinstall-package", name)]
    options += [word for name in action.upgrade for word in ("--upgrade-package", name)]
    options += ["--no-deps"] if action.no_deps else []
    options += ["--no-index", "--find-links", action.folder] if action.folder else []
    text = "".join(f"{one}{_hash(action, one)}\n" for one in action.requirements)
    dry = "--dry-run" in extra
    said = uv.add(text, python, (*options, *extra), LIMIT) if dry else uv.add(text, python, (*options, *extra))
    return frozenset(re.sub(r"[-_.]+", "-", name).lower() for name in _CHANGE.findall(said))


def _hash(action: Install, requirement: str) -> str:
    sha256 = action.hashes.get(requirement.partition("=")[0])
    return f" --hash=sha256:{sha256}" if sha256 else ""


def resolved(action: Install, examination: Examination, matrix: Matrix, hands: Hands) -> tuple[Uv, frozenset[str]]:
    """The uv that can install it, and the packages that would change; nothing is changed. Raises BnbenvError.

    PyTorch's own index is asked only where the user's sources have not what is wanted.
    """
    python = Path(examination.target.python or "")
    with during(hands.progress, "asking uv whether that can be had"):
        try:
            uv = uv_of(msgspec.structs.replace(action, index=None), matrix, _unheard(hands))
            return uv, install(action, python, _briefly(uv), "--dry-run")
        except BnbenvError:
            if action.index is None:
                raise
        uv = uv_of(action, matrix, _unheard(hands))
        return uv, install(action, python, _briefly(uv), "--dry-run")


def _briefly(uv: Uv) -> Uv:
    """uv that asks once and does not wait long: who asks what is wrong is to be told soon."""
    return dataclasses.replace(uv, environment={**uv.environment, "UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "5"})


def _unheard(hands: Hands) -> Hands:
    """The same hands, and nobody is told."""
    return dataclasses.replace(hands, progress=Quiet())
