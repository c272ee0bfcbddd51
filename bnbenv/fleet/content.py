"""What each class of hosts gets: its locks, and one bundle with every file of them, made once and found again.

A bundle is a function of the locks and their files alone: whichever hosts and classes there are today, whenever and in
whatever order it is made, it has the same bytes. Classes with the same locks and files share it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from bnbenv import __version__
from bnbenv.bundle.gather import Group
from bnbenv.bundle.make import Also, make_of
from bnbenv.bundle.manifest import Machine
from bnbenv.bundle.target import minors
from bnbenv.bundle.tool import lacks_python
from bnbenv.envs.record import file_digest
from bnbenv.envs.resolve import Setting
from bnbenv.errors import BnbenvError
from bnbenv.fleet.kept import NEW, Home, Kept, clear, find_bundle, holding, keep_bundle, seen, use, writing
from bnbenv.fleet.locks import ClassLocks, Locker, in_order
from bnbenv.fleet.model import ClassPlan, Content
from bnbenv.progress import shown_size
from bnbenv.solve.model import Request

FORMAT = 1  # of a bundle for a class; another one is another key


def make_contents(
    setting: Setting,
    plans: Sequence[ClassPlan],
    requests: Mapping[str, Request] | None = None,
    fresh: bool = False,
    bundles: bool = True,
) -> dict[str, Content | BnbenvError]:
    """By class id the content of each class that is solved, or why it cannot be made; the others are not harmed.

    ``requests``: by environment what is asked for beyond the wishes, such as one combination for all hosts. ``fresh``:
    locks are chosen anew. Without ``bundles`` only the locks are made, and a content names no file. Raises Busy where
    another bnbenv is at work on the bundles of this project, Failed where its folder cannot be written.
    """
    solved = in_order(plan for plan in plans if plan.solved)
    with holding(setting.project, setting.environ, setting.progress.say) as home:
        settled = Locker(setting, home, requests, fresh).settle(solved)
        found: dict[str, Content | BnbenvError] = {}
        made: dict[str, Kept | BnbenvError] = {}  # by key
        for plan in solved:
            class_id, locks = plan.kind.id, settled[plan.kind.id]
            if isinstance(locks, BnbenvError):
                found[class_id] = locks
            elif not bundles:
                seen(home, class_id)
                found[class_id] = Content(class_id, "", "", 0, locks.digests, locks.choices)
            else:
                found[class_id] = _content(home, class_id, locks, made)
        if bundles:
            clear(home, setting.progress.say)
    return {plan.kind.id: found[plan.kind.id] for plan in plans if plan.kind.id in found}


def _content(
    home: Home, class_id: str, locks: ClassLocks, made: dict[str, Kept | BnbenvError]
) -> Content | BnbenvError:
    group = _group(locks)
    key = key_of(group)
    if key not in made:
        try:
            made[key] = _bundle(home, key, group)
        except BnbenvError as error:
            made[key] = error
    kept = made[key]
    if isinstance(kept, BnbenvError):
        return kept
    try:
        with writing(home.locks):
            use(home, class_id, key)
    except BnbenvError as error:
        return error
    path = str(home.bundles / f"{kept.sha256}.tar")
    return Content(class_id, path, kept.sha256, kept.size, locks.digests, locks.choices)


def _group(locks: ClassLocks) -> Group:
    """The one class of the bundle. Its machine says what the locks say, and nothing of the hosts that are there today:
    each of them compares itself with the locks."""
    group = Group(locks.setting, [], locks.locks, locks.files)
    platform, here = locks.setting.facts.platform, minors(python.version for python in locks.setting.facts.pythons)
    archs = {cover.arch for one in locks.locks.values() for cover in one.decision.solution.covers}
    pythons = tuple(minor for minor in group.pythons if minor in here)
    group.machines.append(Machine("its class", platform.os, platform.machine, None, tuple(sorted(archs)), pythons))
    return group


def key_of(group: Group) -> str:
    """What a bundle is found again by: everything that it is made of, known before the first file is asked for."""
    config = group.setting.project.config
    parts = (
        *(FORMAT, __version__, file_digest(config), group.machines),
        {env: hashlib.sha256(locked.text.encode()).hexdigest() for env, locked in sorted(group.locks.items())},
        {env: {name: one.sha256 for name, one in sorted(files.items())} for env, files in sorted(group.files.items())},
        lacks_python(group),
    )
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _bundle(home: Home, key: str, group: Group) -> Kept:
    """The bundle for a key: the one that is there, else a new one. Raises what making one raises."""
    progress = group.setting.progress
    known = find_bundle(home, key, progress.say)
    if known is not None:
        return known[1]
    progress.say("making its bundle")
    with writing(home.bundles):
        new = home.bundles / NEW
        new.unlink(missing_ok=True)
        manifest = make_of(group.setting, [group], new, Also(tool=False))
        for note in manifest.notes:
            progress.say(note)
        assert manifest.sha256 is not None and manifest.size is not None
        progress.say(f"its bundle takes {shown_size(manifest.size)}")
        return keep_bundle(home, key, new, manifest.sha256)
