"""A model in a folder: which of its files ``from_pretrained`` would load, and what their headers say.

The order is transformers' ``_get_resolved_checkpoint_files`` (releases 4.57.6 and 5.23.0): what config.json names as
``transformers_weights``, else model.safetensors, else model.safetensors.index.json. A folder with an
adapter_config.json is an adapter, whatever else lies there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from bnbenv.decode import shown
from bnbenv.models.config import LARGEST, read_config
from bnbenv.models.mistaken import HEAD, mistaken
from bnbenv.models.model import Checkpoint, CheckpointError, Config, Tensor
from bnbenv.models.safetensors import read_header
from bnbenv.models.strictjson import NotJson, load
from bnbenv.paths import exists

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
LARGEST_INDEX = 100_000_000  # bytes
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_VARIANT = re.compile(r"model\.([\w-]+?)(?:-\d+-of-\d+)?\.safetensors")
_CONVERT = "Convert it: load it with transformers' from_pretrained, and call save_pretrained with another folder."


def read_local(folder: Path) -> Checkpoint:
    """The model in a folder: its configuration and the headers of its weights.

    ``tensors`` is None where there are no weights at all. Raises CheckpointError for what is no model, incomplete, or
    broken; InputError for a configuration that cannot be read.
    """
    names = _names(folder)
    refuse_adapter(names, lambda name: _read(folder, name, LARGEST), str(folder))
    if CONFIG not in names:
        raise no_config(names, str(folder), _below(folder, names))
    config = with_own_code(read_config(_read(folder, CONFIG, LARGEST), str(folder / CONFIG)))
    main = main_file(config, names, str(folder))
    if main is None:
        refuse_other_weights(names, str(folder))
        return Checkpoint(str(folder), config, None)
    if not main.endswith(".json"):
        tensors, size = _header(folder, main)
        return Checkpoint(str(folder), config, some(tensors, main), {main: size})
    where = read_index(_read(folder, main, LARGEST_INDEX), main)
    shards = sorted(set(where.values()))  # the order in which transformers loads them
    there = set(names)
    missing = [shard for shard in shards if shard not in there or not (folder / shard).is_file()]
    if missing:
        raise missing_shards(missing, len(shards), str(folder))
    headers = {shard: _header(folder, shard) for shard in shards}
    joined = join(where, {shard: tensors for shard, (tensors, _) in headers.items()}, main)
    return Checkpoint(str(folder), config, joined, {shard: size for shard, (_, size) in headers.items()})


def _told(place: object) -> str:
    """A path or a name as an error tells it: they are longer than values, and needed whole."""
    return shown(place, 200)


# -- what a model's files are, wherever they lie (pure; hub.py needs the same)


def with_own_code(config: Config) -> Config:
    """The configuration, with ``remote_code`` only where transformers has no class for the model's type.

    Without ``trust_remote_code`` its own class goes before the checkpoint's (``resolve_trust_remote_code``). Which
    types it has is known of the releases that were measured, and looked up in the newest.
    """
    if not config.remote_code:
        return config
    from bnbenv.matrix.architectures import row_for

    return msgspec.structs.replace(config, remote_code=row_for(None, config.model_type, None) is None)


def main_file(config: Config, names: Collection[str], source: str) -> str | None:
    """The file that ``from_pretrained`` begins with, among the names of those that are there; None without weights.

    Raises CheckpointError where config.json names one that is not there or may not be read.
    """
    named = config.fields.get("transformers_weights")
    if isinstance(named, str):
        check_name(named, CONFIG, (".safetensors", ".safetensors.index.json"))
        if named not in names:
            message = f"{_told(source)} lacks {_told(named)}, which its config.json names as transformers_weights"
            raise CheckpointError("missing-weights", message, "Download that file.")
        return named
    return next((name for name in (SINGLE, INDEX) if name in names), None)


def read_index(data: bytes, file: str) -> Mapping[str, str]:
    """Which tensor lies in which file: the weight_map of an index. Raises CheckpointError."""
    other = mistaken(data[:HEAD], weights=False)
    if other:
        raise CheckpointError(other.code, f"{file} is {other.what}", other.step)
    try:
        document = load(data)
    except NotJson as error:
        place = f", at {error.where}" if error.where else ""
        raise _bad_index(file, f"{error}{place}") from None
    found = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(found, dict) or not found:
        raise _bad_index(file, "it has no weight_map")
    for shard in dict.fromkeys(one if isinstance(one, str) else None for one in found.values()):
        if shard is None:
            raise _bad_index(file, "its weight_map holds something else than names of files")
        check_name(shard, file)
    return found


def check_name(name: str, file: str, endings: tuple[str, ...] = (".safetensors",)) -> None:
    """Raises CheckpointError for the name of a file that leads out of the folder or is none of safetensors."""
    if "/" in name or "\\" in name or name.startswith("..") or not name.isprintable() or len(name) > 255:
        message = f"{file} names the file {shown(ascii(name))}, which is no plain name of a file in its folder"
        raise CheckpointError("bad-file-name", message, "Take the checkpoint from where it was published.")
    if not name.endswith(endings):
        message = f"{file} names the file {_told(name)}, which is no safetensors file"
        raise CheckpointError("pickled-weights", message, _CONVERT)


def join(where: Mapping[str, str], headers: Mapping[str, tuple[Tensor, ...]], file: str) -> tuple[Tensor, ...]:
    """The tensors of all shards, shard by shard; of two with one name the one that the index means.

    What a shard holds beside is loaded too. Raises CheckpointError where a shard lacks what the index names.
    """
    there = {shard: {tensor.name for tensor in tensors} for shard, tensors in headers.items()}
    for name, shard in where.items():
        if name not in there[shard]:
            message = f"{shard} lacks the tensor {_told(name)}, which {file} says is in it"
            raise CheckpointError("missing-tensor", message, "Download both files again: they are of two versions.")
    return tuple(
        tensor for shard, tensors in headers.items() for tensor in tensors if where.get(tensor.name, shard) == shard
    )


def some(tensors: tuple[Tensor, ...], file: str) -> tuple[Tensor, ...]:
    """The tensors. Raises CheckpointError where there are none."""
    if not tensors:
        raise CheckpointError("no-tensors", f"{file} holds no tensors", "Download it again.")
    return tensors


def missing_shards(missing: list[str], count: int, source: str) -> CheckpointError:
    """The error for an index whose files are not all there."""
    named = ", ".join(_told(name) for name in missing[:3]) + (", ..." if len(missing) > 3 else "")
    are = "is" if len(missing) == 1 else "are"
    message = f"{len(missing)} of {count} files with weights {are} missing in {_told(source)}: {named}"
    return CheckpointError("missing-shards", message, "Download what is missing.")


def refuse_other_weights(names: Collection[str], source: str) -> None:
    """Raises CheckpointError where there are weights, and none that ``from_pretrained`` finds in safetensors."""
    kinds = _kinds(names)
    shown_source = _told(source)
    if kinds["shards"]:
        message = f"{shown_source} has files with weights and no {INDEX}, which says what is in which"
        raise CheckpointError("missing-index", message, f"Download {INDEX} too.")
    if kinds["variants"]:
        variant, file = kinds["variants"][0]
        message = f"{shown_source} has {file} alone, which is loaded only when variant={variant!r} is asked for"
        raise CheckpointError("variant-only", message, f"Download the model's plain files, or name it {SINGLE}.")
    if kinds["pickles"]:
        message = f"{shown_source} has its weights as a pickle only ({kinds['pickles'][0]}): those can run code and "
        raise CheckpointError("pickled-weights", message + "are not opened", _CONVERT)
    _refuse_formats(kinds, shown_source)


def _refuse_formats(kinds: Mapping[str, list[Any]], source: str) -> None:
    if kinds["gguf"]:
        message = f"{source} has GGUF files only ({kinds['gguf'][0]}), which are llama.cpp's and quantized already"
        raise CheckpointError("gguf", message, "Take the model's safetensors files.")
    if kinds["consolidated"]:
        message = f"{source} has the weights in the publisher's own layout only ({kinds['consolidated'][0]})"
        raise CheckpointError("other-layout", message, "Take the model in the layout of transformers.")
    if kinds["other"]:
        message = f"{source} has {kinds['other'][0]} and no {SINGLE}, the name that transformers looks for"
        raise CheckpointError("other-name", message, f"If it is the whole model, name it {SINGLE}.")


def _kinds(names: Iterable[str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {
        kind: [] for kind in ("shards", "variants", "pickles", "gguf", "consolidated", "other")
    }
    for name in sorted(names):
        variant = _VARIANT.fullmatch(name)
        if _SHARD.fullmatch(name):
            found["shards"].append(name)
        elif variant:
            found["variants"].append((variant[1], name))
        elif name.startswith("consolidated.") and name.endswith((".safetensors", ".pth", ".pt")):
            found["consolidated"].append(name)
        elif re.fullmatch(r"pytorch_model.*\.bin(\.index\.json)?|(tf|flax)_model\.(h5|msgpack)", name):
            found["pickles"].append(name)
        elif name.endswith(".gguf"):
            found["gguf"].append(name)
        elif name.endswith(".safetensors"):
            found["other"].append(name)
    return found


def refuse_adapter(names: Collection[str], read: Any, source: str) -> None:
    """Raises CheckpointError for a PEFT adapter, which ``from_pretrained`` loads onto its base model."""
    if ADAPTER not in names:
        return
    try:
        document = load(read(ADAPTER))
    except NotJson:
        document = None
    base = document.get("base_model_name_or_path") if isinstance(document, dict) else None
    step = f"Name its base model: {_told(base)}" if isinstance(base, str) and base else "Name its base model."
    message = f"{_told(source)} is a PEFT adapter ({ADAPTER}) and no model by itself"
    raise CheckpointError("adapter", message, step)


def no_config(names: Collection[str], source: str, below: str = "") -> CheckpointError:
    """The error for a place without a config.json, by what is there instead; ``below`` is a folder that has one."""
    kinds, shown_source = _kinds(names), _told(source)
    if "model_index.json" in names:
        message = f"{shown_source} is a pipeline of diffusers and no language model"
        return CheckpointError("no-config", message, "Name the folder of one of its parts, such as text_encoder.")
    try:
        _refuse_formats({**kinds, "other": []}, shown_source)
    except CheckpointError as error:
        return error
    message = f"{shown_source} has no {CONFIG}, so it is no model of transformers"
    step = f"Download {CONFIG} too." if any(kinds.values()) else "Name the folder that holds it."
    step = f"Name the folder that holds it, such as {_told(below)}" if below else step
    return CheckpointError("no-config", message, step)


def _bad_index(file: str, what: str) -> CheckpointError:
    return CheckpointError("broken-index", f"{file} cannot be read: {what}", "Download it again.")


# -- the disk


def _names(folder: Path) -> list[str]:
    """The names of all in a folder. Raises CheckpointError where it is none that can be looked into."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        broken = folder.is_symlink()
        what = "is a link to what is not there" if broken else "is not there"
        raise CheckpointError("no-folder", f"the folder {_told(folder)} {what}", "Check the path.") from None
    except NotADirectoryError:
        if folder.suffix == ".gguf":
            _refuse_formats({**_kinds(()), "gguf": [folder.name]}, _told(folder.parent))
        message = f"{_told(folder)} is a file, and a model is a folder with a {CONFIG}"
        raise CheckpointError("no-folder", message, f"Name its folder: {_told(folder.parent)}") from None
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from None


def _below(folder: Path, names: list[str]) -> str:
    """The last folder below that holds a model, such as the checkpoints of a training; empty where there is none."""
    return next(
        (str(folder / name) for name in sorted(names, reverse=True)[:1000] if exists(folder / name / CONFIG)), ""
    )


def _read(folder: Path, name: str, limit: int) -> bytes:
    path = folder / name
    try:
        _check_file(path)
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(data) > limit:
        raise CheckpointError("too-large", f"{_told(path)} is larger than {limit >> 20} MiB", "Download it again.")
    return data


def _header(folder: Path, name: str) -> tuple[tuple[Tensor, ...], int]:
    path = folder / name
    try:
        _check_file(path)
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            return read_header(stream, name, size), size
    except OSError as error:
        raise _unreadable(path, error) from None


def _check_file(path: Path) -> None:
    """Raises CheckpointError for what is no file: opening a pipe would not come back."""
    if path.is_symlink() and not path.exists():
        message = f"{_told(path)} is a link to a file that is not there"
        raise CheckpointError("broken-link", message, "Download it again.")
    if path.exists() and not path.is_file():
        raise CheckpointError("no-file", f"{_told(path)} is no file", "Download it again.")


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return CheckpointError("unreadable", f"{_told(path)} cannot be read: {why.lower()}", "Check its rights.")
