"""The single changes: a new generation, packages of an environment that bnbenv did not make, and their proof."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bnbenv.doctor.families import families_in
from bnbenv.doctor.fixes import trees
from bnbenv.doctor.fixes.choose import install, resolved, site_folders
from bnbenv.doctor.fixes.model import Delete, Hands, Install
from bnbenv.doctor.fixes.records import Distribution, MendRecord, distributions
from bnbenv.doctor.fixes.trees import Tree
from bnbenv.doctor.model import Examination
from bnbenv.envs.filesystem import forget
from bnbenv.envs.integrity import BadRecord, Damage, parse_record, wrong_files
from bnbenv.errors import BnbenvError, Failed
from bnbenv.matrix.model import Matrix
from bnbenv.verify.report import Report


def new_generation(env: str, examination: Examination, hands: Hands) -> tuple[int | None, dict[str, Any] | None]:
    """A fresh generation, verified before the switch; its number and the report. Raises what ``bnbenv sync`` does."""
    from bnbenv.envs.check import observe_host
    from bnbenv.envs.generations import held, note_wishes_file
    from bnbenv.envs.resolve import Setting, user_matrix
    from bnbenv.envs.stage import Options
    from bnbenv.envs.sync import sync_env
    from bnbenv.envs.wishes import load_wishes

    project = hands.project
    assert project is not None
    host = observe_host(hands.environ, hands.runner)
    with held(project, environ=hands.environ, say=hands.progress.say):
        wishes, matrix = load_wishes(project), user_matrix(hands.environ)
        if env not in wishes.envs:
            message = f"{project.config} names no environment {env} any more"
            raise Failed("no-such-env", message, f"Add [envs.{env}] to it, then run it again.")
        setting = Setting(project, wishes, examination.facts, matrix, hands.environ, hands.runner, None, hands.progress)
        done = sync_env(setting, env, host, Options(fresh=True, recorded=hands.recorded))
        note_wishes_file(project, env)
    return done.generation, done.verification


# ---- the way back ----------------------------------------------------------------------------------------------


def keep_trees(
    installs: Sequence[Install],
    deletes: Sequence[Delete],
    examination: Examination,
    matrix: Matrix,
    hands: Hands,
    place: Path,
) -> tuple[tuple[Tree, ...], tuple[Distribution, ...]]:
    """Each folder of packages that will be changed, with what may be changed in it saved in the record's folder.

    Raises OSError, and what resolving raises.
    """
    stakes: dict[Path, tuple[list[Path], list[Path]]] = {}
    for delete in deletes:
        for one in map(Path, delete.metadata):
            stakes.setdefault(one.parent, ([], []))[0].append(one)
    if installs:
        names = frozenset(name for one in installs for name in resolved(one, examination, matrix, hands)[1])
        sweeps = [Path(path) for one in installs for path in one.sweep]
        for folder in site_folders(examination):
            metadata, more = stakes.setdefault(folder, ([], []))
            metadata += [one for one in trees.metadata_of(folder, names) if one not in metadata]
            more += [path for path in sweeps if path.is_relative_to(folder)]
            # Of what lies there without metadata, too, an installer overwrites the files.
            more += [path for name in names if (path := folder / name.replace("-", "_")).is_dir()]
    found: list[Tree] = []
    packages: list[Distribution] = []
    for number, (base, (metadata, more)) in enumerate(stakes.items()):
        tree = _listed(base, metadata, examination.target.prefix)
        names_at_stake = trees.at_stake(base, metadata, more, tree.before)
        found.append(trees.save(tree, names_at_stake, trees.deleted_first(metadata), place / f"tree{number}"))
        packages += distributions(sorted(base.glob("*.dist-info")))
    return tuple(found), tuple(packages)


def _listed(base: Path, metadata: Sequence[Path], prefix: str | None) -> Tree:
    beside = {path for one in metadata for path in trees.recorded(one) if path.startswith("..")}
    if prefix is not None and base.is_relative_to(prefix):
        beside.update(trees.scripts(base, Path(prefix)))
    before, folders = trees.list_tree(base, beside)
    return Tree(base=str(base), before=before, folders=folders)


def finished(record: MendRecord) -> MendRecord:
    """The record of a change that was made and proved: what it made of each tree."""
    changed = []
    for tree in record.trees:
        outside = {name for name in tree.before if name.startswith("..")}
        now, _ = trees.list_tree(Path(tree.base), {*outside, *trees.scripts_of(tree, record.prefix)})
        changed.append(trees.differing(tree.before, now))
    return msgspec.structs.replace(record, state="done", changed=tuple(changed))


# ---- packages --------------------------------------------------------------------------------------------------


def delete(action: Delete) -> None:
    """Delete distributions by their RECORD, with what Python compiled of them. Raises OSError."""
    for metadata in map(Path, action.metadata):
        base = metadata.parent
        paths = [base / one for one in trees.recorded(metadata) if not one.startswith(("..", "/"))]
        for path in paths:
            path.unlink(missing_ok=True)
            for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
                compiled.unlink(missing_ok=True)
        shutil.rmtree(metadata, ignore_errors=True)
        for folder in sorted(
            {up for path in paths for up in path.parents if base in up.parents}, key=str, reverse=True
        ):
            for one in (folder / "__pycache__", folder):
                if one.is_dir() and not any(one.iterdir()):
                    one.rmdir()


def install_clean(action: Install, examination: Examination, matrix: Matrix, hands: Hands) -> None:
    """Install, then look whether the files are those of the wheels: a copy in uv's cache may be the damaged one.

    Raises BnbenvError, OSError.
    """
    uv, python = resolved(action, examination, matrix, hands)[0], Path(examination.target.python or "")
    uv = dataclasses.replace(uv, progress=hands.progress)
    hands.progress.say(f"installing {', '.join(action.requirements)}")
    changed = install(action, python, uv) | {*action.reinstall}
    damage = _damage(examination, changed)
    if damage:
        names = frozenset(one.package for one in damage if one.package)
        hands.progress.say(f"changed in uv's cache: {damage[0]}; loading {', '.join(sorted(names))} again")
        if not forget(uv, names):
            raise Failed("damaged-files", f"{damage[0]}", f"uv cache clean {' '.join(sorted(names))}")
        again = msgspec.structs.replace(action, reinstall=tuple(dict.fromkeys((*action.reinstall, *sorted(names)))))
        install(again, python, uv)
        damage = _damage(examination, changed)
        if damage:
            message = f"what was installed is not what its package brought: {damage[0]}"
            raise Failed("damaged-files", message, "Report it to whoever built the package.")
    _sweep(action, examination)


def _damage(examination: Examination, names: frozenset[str] | set[str]) -> list[Damage]:
    """Files of packages that are not as their RECORD says; all of them are read."""
    found = []
    for base in site_folders(examination):
        for metadata in trees.metadata_of(base, names):
            try:
                rows = parse_record((metadata / "RECORD").read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, BadRecord):
                found.append(
                    Damage(f"{metadata.name}/RECORD", metadata.name.partition("-")[0].lower(), "cannot be read")
                )
                continue
            found += wrong_files(base, metadata.name, rows)
    return found


def _sweep(action: Install, examination: Examination) -> None:
    """Delete what was left over: what no RECORD names now, a pip's ``~`` folders, metadata of other versions."""
    pairs = (one.replace("===", "==").partition("==") for one in action.requirements)
    right = {f"{re.sub('[-_.]+', '_', name)}-{version}.dist-info" for name, _, version in pairs}
    for base in site_folders(examination):
        known: set[str] | None = None
        for path in map(Path, action.sweep):
            if not path.is_relative_to(base) or path == base:
                continue
            if path.name.startswith(("~", "-")) or (path.name.endswith(".dist-info") and path.name not in right):
                shutil.rmtree(path, ignore_errors=True)
                continue
            if known is None:
                metadata = [one for one in base.glob("*.dist-info") if (one / "RECORD").is_file()]
                known = {name for one in metadata for name in trees.recorded(one)}
            files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
            for one in files:
                name = one.relative_to(base).as_posix()
                if name not in known and "__pycache__" not in one.parts:
                    one.unlink(missing_ok=True)
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


# ---- its proof -------------------------------------------------------------------------------------------------


def verified(examination: Examination, hands: Hands, dropped: Sequence[str]) -> Report | None:
    """The kernels' report; None where there is nothing to run them on. ``dropped`` are variables that were taken out.

    Raises UsageError where its Python cannot be started.
    """
    from bnbenv.matrix.load import load_families
    from bnbenv.verify.devices import CPU, default_selection
    from bnbenv.verify.run import devices_for, verify_environment

    target, facts = examination.target, examination.facts
    if target.python is None:
        return None
    if hands.recorded and facts.gpus:
        hands.progress.say("not verified: the facts are recorded, and the GPUs in them are not here")
        return None
    try:
        devices = devices_for(facts, default_selection(facts, hands.environ))
    except BnbenvError as error:
        hands.progress.say(f"the CPU alone is verified: {error.message}")
        devices = (CPU,)
    environ: dict[str, str | None] = dict.fromkeys(dropped)
    families = families_in(examination, load_families()) or ("bitsandbytes",)
    return verify_environment(
        Path(target.python), devices, hands.runner, family=families[0], environ=environ, progress=hands.progress
    )
