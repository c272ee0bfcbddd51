"""Splitting a mixed environment: what is in it, what uv resolves together, and the environments made one by one."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from bnbenv.doctor.fixes import records
from bnbenv.doctor.fixes.choose import site_folders
from bnbenv.doctor.fixes.model import Hands, Mended, PlanStep, Share, Split
from bnbenv.doctor.fixes.records import MendRecord, SavedFile
from bnbenv.doctor.fixes.split import distribute, title, with_extras
from bnbenv.doctor.model import Examination
from bnbenv.envs.foreign import Dist, read_distributions
from bnbenv.envs.lockfile import normalized
from bnbenv.envs.project import Project
from bnbenv.envs.resolve import Setting, decide, make_lock
from bnbenv.envs.survey import survey
from bnbenv.envs.wishes import EnvWish, Wishes, decode_wishes, edited, load_wishes
from bnbenv.errors import BnbenvError, Failed, NoCombination
from bnbenv.matrix.installed import parse_metadata
from bnbenv.matrix.model import Matrix
from bnbenv.paths import write_atomically
from bnbenv.progress import Quiet

MOST = 12  # further packages that are tried one by one where they do not fit together


def shares_of(
    examination: Examination, matrix: Matrix, project: Project | None
) -> tuple[tuple[Share, ...], dict[str, str]]:
    """How the examined environment is split, as ``distribute`` says. Raises InputError (bnbenv.toml), UsageError."""
    dists: dict[str, Dist] = {}
    requires: dict[str, tuple[str, ...]] = {}
    for folder in site_folders(examination):
        for one in read_distributions(folder):
            dists.setdefault(one.name, one)
        for file in sorted(folder.glob("*.dist-info/METADATA")):
            known = parse_metadata(file.read_text(encoding="utf-8", errors="replace"))
            requires.setdefault(normalized(file.parent.name.partition("-")[0]), known.requires_dist)
    wishes = {} if project is None or _nothing_yet(project) else load_wishes(project).envs
    return distribute(with_extras(dists.values(), requires), matrix.families, wishes)


def _nothing_yet(project: Project) -> bool:
    """Without a file one environment is meant, and it counts where it was made."""
    return not project.config.exists() and not project.envs_made()


def plan(action: Split, project: Project) -> tuple[PlanStep, ...]:
    """A step an environment, for people."""
    return tuple(
        PlanStep(
            f"{'add to' if share.known else 'make'} the environment {share.env}: {title(share)}",
            str(project.link(share.env)),
            f"bnbenv sync --env {share.env}",
        )
        for share in action.shares
    )


# ---- what fits together ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settled:
    """A share with the requirements that uv resolved together; ``against`` says of others why they are not in it."""

    share: Share
    requirements: tuple[str, ...]
    against: dict[str, str]


def settle(action: Split, setting: Setting) -> tuple[Settled, ...]:
    """Have uv resolve each share: first what has to be in it, then the further packages, all at once or one by one.

    Raises what resolving raises, naming the environment; nothing is changed.
    """
    return tuple(_settle(share, action.python, setting) for share in action.shares)


def _settle(share: Share, python: str, setting: Setting) -> Settled:
    setting.progress.say(f"{share.env}: asking uv what fits together")
    # Each try would say what it downloads.
    quiet = replace(setting, wishes=_with(setting.wishes, share, python, share.requirements), progress=Quiet())
    try:
        found, sources, quiet = survey(quiet, share.family)
        solution = decide(quiet, quiet.wishes.request(share.env), found, sources)
        if solution.choice.compiled:  # its wheel is not there yet: sync says whether all fits beside it
            return Settled(share, (*share.requirements, *share.further), {})

        def against(requirements: tuple[str, ...]) -> BnbenvError | None:
            wishes = _with(quiet.wishes, share, python, requirements)
            try:
                make_lock(replace(quiet, wishes=wishes), share.env, solution, sources, found)
            except NoCombination as error:
                return error
            return None

        conflict = against(share.requirements)
        if conflict is not None:
            raise conflict
    except BnbenvError as error:
        error.message = f"{share.env} ({title(msgspec.structs.replace(share, further=()))}): {error.message}"
        raise
    if not share.further or against((*share.requirements, *share.further)) is None:
        return Settled(share, (*share.requirements, *share.further), {})
    taken, refused = share.requirements, {}
    for name in share.further[:MOST]:
        conflict = against((*taken, name))
        if conflict is None:
            taken = (*taken, name)
        else:
            refused[name] = conflict.message
    refused.update(dict.fromkeys(share.further[MOST:], "all of the further packages together do not fit"))
    return Settled(share, taken, refused)


def _with(wishes: Wishes, share: Share, python: str, requirements: tuple[str, ...]) -> Wishes:
    """The wishes with a share's environment in them."""
    before = wishes.envs.get(share.env, EnvWish()) if share.known else EnvWish()
    changes = _changes(share, python, requirements, before.requirements)
    wish = msgspec.structs.replace(before, **{**changes, "requirements": tuple(changes.get("requirements", ()))})
    return msgspec.structs.replace(wishes, envs={**wishes.envs, share.env: wish})


def _changes(share: Share, python: str, requirements: tuple[str, ...], before: tuple[str, ...]) -> dict[str, Any]:
    """What a share changes in its table of bnbenv.toml; ``before`` are the requirements that stand there."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    there = {canonicalize_name(Requirement(one).name) for one in before}
    asked: dict[str, Any] = {"requirements": [*before, *(name for name in requirements if name not in there)]}
    if not share.known:
        own = {"family": share.family, "package": share.package, "python": f"=={python}.*" if python else ""}
        asked = {**own, **asked}
    return {name: value for name, value in asked.items() if value}


# ---- carrying it out ---------------------------------------------------------------------------------------------


def carry(action: Split, examination: Examination, matrix: Matrix, hands: Hands, mended: Mended) -> Mended:
    """Make each environment, verified before its link and its lines in bnbenv.toml are there.

    One that fails leaves those before it. Raises what ``bnbenv sync`` does.
    """
    from bnbenv.envs.check import observe_host
    from bnbenv.envs.generations import held
    from bnbenv.envs.stage import Options

    project = hands.project
    assert project is not None
    host, options = observe_host(hands.environ, hands.runner), Options(recorded=hands.recorded)
    with (
        records.held(hands.environ, hands.progress.say) as folder,
        held(project, environ=hands.environ, say=hands.progress.say),
    ):
        alone = _nothing_yet(project)
        wishes = msgspec.structs.replace(load_wishes(project), envs={}) if alone else load_wishes(project)
        setting = Setting(project, wishes, examination.facts, matrix, hands.environ, hands.runner, None, hands.progress)
        settled = settle(action, setting)
        notes, verified = [], True
        with _kept(project, folder, mended.plan) as way_back:
            for one in settled:
                done = way_back.make(one, action.python, setting, host, options)
                verified = verified and done.verified
                notes.append(f"{one.share.env}: {done.solution.choice.title}, in {project.link(one.share.env)}")
        record = way_back.record.name if way_back.changed else None
    notes += _where(settled)
    notes.append(f"{examination.target.prefix} was left as it is")
    report = {"ok": verified} if not hands.recorded or verified else None
    return msgspec.structs.replace(
        mended, state="done", record=record, verification=report, notes=(*mended.notes, *notes)
    )


def _bytes(project: Project) -> bytes | None:
    try:
        return project.config.read_bytes()
    except OSError:
        return None


def _where(settled: tuple[Settled, ...]) -> list[str]:
    """Where a further package did not go, and why."""
    lines = []
    for name in dict.fromkeys(name for one in settled for name in one.against):
        into = [one.share.env for one in settled if name in one.requirements]
        why = next(one.against[name] for one in settled if name in one.against)
        without = ", ".join(one.share.env for one in settled if name in one.against)
        place = f"is in {', '.join(into)} alone" if into else "is in none of them"
        lines.append(f"{name} {place}; it does not fit into {without}: {why}")
    return lines


@dataclass
class WayBack:
    """bnbenv.toml as it was, and the record that puts it back; ``made`` are the environments that are there by now."""

    project: Project
    folder: Path
    record: MendRecord
    made: list[str]

    @property
    def changed(self) -> bool:
        """Whether bnbenv.toml is another one."""
        return bool(self.made) and bool(self.record.files[0].after)

    def make(self, one: Settled, python: str, setting: Setting, host: Any, options: Any) -> Any:
        """One environment; its lines are written just before its link. Raises as ``sync_env``."""
        from bnbenv.envs.generations import clear_strays, note_wishes_file
        from bnbenv.envs.record import file_digest
        from bnbenv.envs.sync import sync_env

        project, env = self.project, one.share.env
        none = _nothing_yet(project)
        known = {} if none else load_wishes(project).envs
        before = known[env].requirements if env in known else ()
        changes = _changes(one.share, python, one.requirements, before)
        config: str | None = edited(project, env, changes, alone=none)
        if config is not None and config.encode() == _bytes(project):
            config = None
        wishes = load_wishes(project) if config is None else decode_wishes(config.encode(), str(project.config))
        if config is not None:
            self._expect(config)
        now = replace(setting, wishes=wishes, config=config, config_before=file_digest(project.config))
        try:
            done = sync_env(now, env, host, options)
            now.write_wishes()
        finally:
            there = project.link(env).exists()
            clear_strays(project, wishes.envs if there else [name for name in wishes.envs if name != env])
        for name in wishes.envs:
            note_wishes_file(project, name)
        self.made.append(env)
        return done

    def _expect(self, config: str) -> None:
        """The text that comes next is written down before it can be there."""
        (saved,) = self.record.files
        known = (*saved.between, saved.after) if saved.after else saved.between
        saved = msgspec.structs.replace(saved, after=records.digest(config.encode()), between=known)
        self.record = msgspec.structs.replace(self.record, files=(saved,))
        records.write(self.record, self.folder)


@contextmanager
def _kept(project: Project, folder: Path, steps: tuple[PlanStep, ...]) -> Iterator[WayBack]:
    """The way back while environments are made, and what it says afterwards. Raises Failed, and what its body does."""
    records.prune(folder)
    name = records.new_name(folder)
    try:
        (folder / name).mkdir(mode=0o700)
        created = not project.config.exists()
        data = b"" if created else project.config.read_bytes()
        write_atomically(folder / name / "file0", data)
    except OSError as error:
        shutil.rmtree(folder / name, ignore_errors=True)
        message = f"bnbenv.toml cannot be kept in {folder}: {(error.strerror or str(error)).lower()}"
        raise Failed("not-kept", message, "Free some space there, or name another place: BNBENV_HOME") from None
    saved = SavedFile(path=str(project.config), saved="file0", before=records.digest(data), after="", created=created)
    record = MendRecord(
        name=name,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        state="changing",
        prefix=None,
        python=None,
        plan=steps,
        files=(saved,),
    )
    way = WayBack(project, folder, record, [])
    records.write(record, folder)
    try:
        yield way
    except BaseException as error:
        _ended(way)
        if isinstance(error, BnbenvError) and way.changed:
            back = f"bnbenv doctor --undo {name} takes it out of bnbenv.toml"
            error.next_step = f"{error.next_step} What was made stays ({', '.join(way.made)}); {back}.".strip()
        raise
    _ended(way)


def _ended(way: WayBack) -> None:
    """A record of what was made; none where nothing was."""
    if way.changed:
        records.write(msgspec.structs.replace(way.record, state="done"), way.folder)
    else:
        (way.folder / way.record.name / "record.json").unlink(missing_ok=True)
        shutil.rmtree(way.folder / way.record.name, ignore_errors=True)
