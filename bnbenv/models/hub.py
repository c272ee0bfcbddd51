"""A model by what users call it: a folder, or a name on the hub, which may lie in the hub's cache on this disk."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import msgspec

from bnbenv.errors import SourceUnreachable, UsageError
from bnbenv.models import hubcache
from bnbenv.models.config import LARGEST, read_config
from bnbenv.models.local import (
    CONFIG,
    INDEX,
    LARGEST_INDEX,
    SINGLE,
    join,
    main_file,
    missing_shards,
    no_config,
    read_index,
    read_local,
    refuse_adapter,
    refuse_other_weights,
    some,
    with_own_code,
)
from bnbenv.models.model import Checkpoint, CheckpointError
from bnbenv.paths import Sysroot, exists, expand, user_home

if TYPE_CHECKING:
    from bnbenv.envs.network import Network
    from bnbenv.models.hubhttp import Hub

LIMIT = 180.0  # seconds that the hub has for all of a model
AT_ONCE = 8  # files whose headers are read at the same time; huggingface_hub's own number
_PARTLY = frozenset({"missing-shards", "broken-link", "missing-weights"})  # what a cache is that was filled in part


def open_model(name: str, environ: Mapping[str, str], revision: str | None = None, limit: float = LIMIT) -> Checkpoint:
    """The configuration of a model and the headers of its weights; ``source`` is ``name``.

    A folder that is there comes first, then the hub's cache on this disk where it holds the weights, then the hub,
    which has ``limit`` seconds and sends headers alone. Where the hub is forbidden or does not answer, a cached
    config.json alone is taken (``tensors`` None). Raises CheckpointError, InputError of a configuration, UsageError
    for a name that is none, SourceUnreachable.
    """
    folder = _folder(name, revision)
    if folder:
        return msgspec.structs.replace(read_local(folder), source=name)
    cached, fault = _cached(name, revision or "main", environ)
    if cached and cached.tensors is not None:
        return cached
    variable = hubcache.offline(environ)
    try:
        if variable:
            raise _forbidden(name, revision, variable)
        return _from_hub(name, revision or "main", environ, limit)
    except SourceUnreachable as error:
        if cached:
            return cached
        raise fault or error from None


def weights_folder(name: str, environ: Mapping[str, str], revision: str | None = None) -> Path:
    """The folder that holds all of a model's weights: the one that was named, or the snapshot in the hub's cache.

    Nothing is loaded. Raises CheckpointError for weights of the hub that are missing, with the command that downloads
    them; what is in a folder, ``read_local`` says.
    """
    folder = _folder(name, revision)
    if folder:
        return folder
    cached, fault = _cached(name, revision or "main", environ)
    snapshot = hubcache.snapshot(name, revision or "main", environ)
    if fault:
        raise fault
    if snapshot is None or cached is None or cached.tensors is None:
        message = f"the weights of {name} are not on this disk"
        raise CheckpointError("not-downloaded", message, _download(name, revision))
    return snapshot


def _folder(name: str, revision: str | None) -> Path | None:
    """The folder that a name means; None for a name on the hub. Raises UsageError for what is neither."""
    path = expand(name) if name else None
    if path and (exists(path) or _like_a_path(name)):
        if revision:
            message = f"{name} is a folder, and a folder has no revisions"
            raise UsageError("folder-revision", message, "Leave the revision out.")
        return path
    hubcache.check_name(name)
    if revision:
        hubcache.check_revision(revision)
    return None


def _like_a_path(name: str) -> bool:
    starts = name.startswith(("/", "./", "../", "~")) or name in (".", "..") or name.count("/") > 1
    windows = os.name == "nt" and ("\\" in name or re.match("[A-Za-z]:", name) is not None)
    return (starts or windows) and "://" not in name


def _cached(name: str, revision: str, environ: Mapping[str, str]) -> tuple[Checkpoint | None, CheckpointError | None]:
    """What the cache has of a model, and what is wrong with it where it was filled in part."""
    snapshot = hubcache.snapshot(name, revision, environ)
    if snapshot is None or not exists(snapshot / CONFIG):
        return None, None
    try:
        return msgspec.structs.replace(read_local(snapshot), source=name), None
    except CheckpointError as error:
        if error.code not in _PARTLY:
            raise
        return None, CheckpointError(error.code, error.message, _download(name, revision))


def _download(name: str, revision: str | None) -> str:
    chosen = f" --revision {revision}" if revision and revision != "main" else ""
    return f"Download them: hf download {name}{chosen}"


def _forbidden(name: str, revision: str | None, variable: str) -> SourceUnreachable:
    message = f"{name} is not in the hub's cache on this disk, and {variable} forbids to ask the hub"
    step = f"Unset {variable}, give a folder with the model, or fill the cache: "
    return SourceUnreachable("offline", message, step + _download(name, revision).partition(": ")[2])


# -- over the network


def _from_hub(name: str, revision: str, environ: Mapping[str, str], limit: float) -> Checkpoint:
    """The limit is kept from outside: a name server can hang, and a server send a byte a second."""
    from bnbenv.models.hubhttp import LOCAL, Hub

    end, endpoint = time.monotonic() + limit, hubcache.endpoint(environ)
    hub = Hub(endpoint, name, revision, hubcache.token(environ), _network(environ), end)
    found = _all_at_once(lambda _: _read(hub, name), [name], end)
    if found is None:
        message = f"the hub was asked for {name} and did not answer all in {limit:.0f} s"
        raise SourceUnreachable("no-answer", message, LOCAL)
    checkpoint: Checkpoint = found[0]
    return checkpoint


def _read(hub: Hub, name: str) -> Checkpoint:
    text = hub.file(CONFIG, LARGEST)
    if text is None:
        names = hub.names()
        refuse_adapter(names, lambda file: hub.file(file, LARGEST) or b"", name)
        raise no_config(names, name)
    config = with_own_code(read_config(text, f"{name}/{CONFIG}"))
    # Which of the two there is shows when it is asked for.
    named = config.fields.get("transformers_weights")
    main = main_file(config, (named,) if isinstance(named, str) else (), name)
    for file in (main,) if main else (SINGLE, INDEX):
        found = _sharded(hub, file) if file.endswith(".json") else _single(hub, file)
        if found:
            return Checkpoint(name, config, found[0], found[1])
    names = hub.names()
    refuse_adapter(names, lambda file: hub.file(file, LARGEST) or b"", name)
    refuse_other_weights(names, name)
    return Checkpoint(name, config, None)


def _single(hub: Hub, file: str) -> tuple[tuple[Any, ...], dict[str, int]] | None:
    found = hub.header(file)
    return (some(found[0], file), {file: found[1]}) if found else None


def _sharded(hub: Hub, file: str) -> tuple[tuple[Any, ...], dict[str, int]] | None:
    data = hub.file(file, LARGEST_INDEX)
    if data is None:
        return None
    where = read_index(data, file)
    shards = sorted(set(where.values()))
    headers = dict(zip(shards, _all_at_once(hub.header, shards) or [], strict=True))
    missing = [shard for shard, found in headers.items() if found is None]
    if missing:
        raise missing_shards(missing, len(shards), hub.model)
    there = {shard: found for shard, found in headers.items() if found is not None}
    joined = join(where, {shard: tensors for shard, (tensors, _) in there.items()}, file)
    return joined, {shard: size for shard, (_, size) in there.items()}


def _all_at_once(work: Callable[[str], Any], items: list[str], end: float | None = None) -> list[Any] | None:
    """What a function gives for each, in their order; the first error ends it. None where ``end`` came before.

    The threads are daemons, so that what hangs cannot keep bnbenv from ending.
    """
    waiting: SimpleQueue[tuple[int, str]] = SimpleQueue()
    done: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()
    for pair in enumerate(items):
        waiting.put(pair)
    failed = threading.Event()

    def run() -> None:
        while not failed.is_set():
            try:
                number, item = waiting.get_nowait()
            except Empty:
                return
            try:
                done.put((number, work(item), None))
            except BaseException as error:
                done.put((number, None, error))

    for _ in range(min(AT_ONCE, len(items))):
        threading.Thread(target=run, daemon=True).start()
    found: dict[int, Any] = {}
    while len(found) < len(items):
        try:
            number, result, error = done.get(timeout=None if end is None else max(0.0, end - time.monotonic()))
        except Empty:
            failed.set()
            return None
        if error:
            failed.set()
            raise error
        found[number] = result
    return [found[number] for number in range(len(items))]


def _network(environ: Mapping[str, str]) -> Network:
    """Certificates and proxy as for packages: uv's settings, else pip's."""
    from bnbenv.envs.network import read_network
    from bnbenv.envs.pipconfig import read_pip_config
    from bnbenv.envs.uvconfig import read_uv_files

    sysroot, home = Sysroot.from_environment(environ), user_home()
    pip = read_pip_config(environ, sysroot, home, (Path(sys.base_prefix), Path(sys.prefix)))
    return read_network(environ, pip, read_uv_files(environ, sysroot, home, Path.cwd()))
