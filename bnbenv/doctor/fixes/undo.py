"""Putting back what a record holds, after a fix that was finished and after one that was cut short."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from bnbenv.doctor.fixes import records, trees
from bnbenv.doctor.fixes.model import Hands, Undone
from bnbenv.doctor.fixes.records import MendRecord, SavedFile
from bnbenv.doctor.fixes.settings_files import restored
from bnbenv.doctor.fixes.trees import Stamp, Tree
from bnbenv.envs.project import CONFIG
from bnbenv.errors import Failed, UsageError
from bnbenv.paths import write_atomically
from bnbenv.process import postponed

SHOWN = 3


def undo(name: str | None, hands: Hands) -> Undone:
    """Put back what a record holds; None: the newest that is not put back yet. No network is needed.

    Raises UsageError (no such record), Failed (what lies there was changed since), Busy, OSError.
    """
    with records.held(hands.environ, hands.progress.say) as folder:
        record = records.read(folder, name) if name is not None else _newest(folder)
        if record.state == "undone":
            raise UsageError("undone", f"{record.name} was put back already", "There is nothing to do.")
        return back(record, folder, hands)


def _newest(folder: Path) -> MendRecord:
    """One that was cut short goes first: the environment may be in pieces."""
    known = [one for one in records.every(folder) if one.state != "undone"]
    if not known:
        raise UsageError("no-record", "no fix was carried out that could be put back", "See: bnbenv doctor")
    cut = [one for one in known if one.state == "changing"]
    return (cut or known)[-1]


@postponed()
def back(record: MendRecord, folder: Path, hands: Hands) -> Undone:
    """The same for a record at hand, whole whoever interrupts it; the caller holds the records."""
    place = folder / record.name
    todo = [_todo(tree, record, number) for number, tree in enumerate(record.trees)]
    if record.state == "done":
        _unchanged_since(record, todo)
        # From here on it is a change that may be cut short, too.
        record = msgspec.structs.replace(record, state="changing")
        records.write(record, folder)
    hands.progress.say(f"putting back what was there: {record.prefix or 'settings'}")
    notes: list[str] = []
    count = 0
    for number, (tree, names) in enumerate(zip(record.trees, todo, strict=True)):
        missing = trees.put_back(tree, names, place / f"tree{number}")
        notes += [f"{Path(tree.base) / one} was changed and not kept" for one in missing[:SHOWN]]
        count += len(names) - len(missing)
    for saved in record.files:
        note = _file_back(saved, place)
        notes += [note] if note else []
        count += not note
        if Path(saved.path).name == CONFIG:
            made = ", ".join(step.where for step in record.plan if Path(step.where).exists())
            notes += [f"what was made stays ({made}); bnbenv.toml asks for it no more than before"] if made else []
    records.write(msgspec.structs.replace(record, state="undone", trees=(), changed=()), folder)
    for number in range(len(record.trees)):
        shutil.rmtree(place / f"tree{number}", ignore_errors=True)
    return Undone(record=record.name, prefix=record.prefix, files=count, notes=tuple(notes))


def _todo(tree: Tree, record: MendRecord, number: int) -> dict[str, Stamp | None]:
    """What has to become what it was: all that is another one now, or what a finished change has changed."""
    outside = [name for name in tree.before if name.startswith("..")]
    base = Path(tree.base)
    if record.prefix is not None and not Path(record.prefix).is_dir():
        step = "Make that environment anew; of another one name its record: bnbenv doctor --undo RECORD"
        raise Failed("environment-gone", f"{record.prefix} is gone: nothing can be put back in it", step)
    base.mkdir(parents=True, exist_ok=True)  # somebody may have deleted it
    now, _ = trees.list_tree(base, {*outside, *trees.scripts_of(tree, record.prefix)})
    differing = trees.differing(tree.before, now)
    if record.state == "changing":
        return differing
    changed = record.changed[number] if number < len(record.changed) else {}
    packages = {name.rpartition("/")[0] for name in changed}
    compiled = {f"{folder}/__pycache__" if folder else "__pycache__" for folder in packages}
    mine = {name for name in differing if name.rpartition("/")[0] in compiled}
    return {name: stamp for name, stamp in differing.items() if name in changed or name in mine}


def _unchanged_since(record: MendRecord, todo: list[dict[str, Stamp | None]]) -> None:
    """Raises Failed where somebody else changed the same files after the fix."""
    for changed, names in zip(record.changed, todo, strict=True):
        others = [
            name
            for name, stamp in names.items()
            if name in changed and changed[name] != stamp and "__pycache__" not in name
        ]
        if others:
            shown = ", ".join(sorted(others)[:SHOWN]) + (" and more" if len(others) > SHOWN else "")
            message = f"what this fix changed was changed again since: {shown}"
            step = f"Install what you need by hand; what was there is in the record {record.name}."
            raise Failed("changed-since", message, step)


def _file_back(saved: SavedFile, place: Path) -> str | None:
    """A shell's file: as it was, or, where it was edited meanwhile, only our line. Returns what could not be done."""
    path, before = Path(saved.path), (place / saved.saved).read_bytes()
    try:
        now = path.read_bytes()
    except OSError:
        now = b""
    ours = records.digest(now) in (saved.after, *saved.between)
    if records.digest(now) == saved.before:
        return None
    if saved.created and ours:
        path.unlink()
        return None
    data = before if ours or not now else None if saved.created else restored(saved.path, now, before)
    if data is None:
        what = "" if path.name == CONFIG else " and the line was not found again"
        return f"{saved.path} was edited since{what}: it stays as it is"
    write_atomically(path, data)
    return None
