"""What makes a folder of quantized files a checkpoint: the files beside the weights, and a last look at all of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from bnbenv.errors import Failed
from bnbenv.models.model import Checkpoint, CheckpointError
from bnbenv.models.prequantize.inputs import CONFIG, INDEX, sha256
from bnbenv.models.prequantize.note import NOTE, File
from bnbenv.models.prequantize.target import is_text

# Of the files beside the weights, those that loading, tokenizing, prompting and licences need. Weights of any kind,
# states of trainings and other quantizations' configurations are none of them.
_ENDINGS = (".json", ".txt", ".model", ".tiktoken", ".jinja", ".md", ".vocab", ".bpe", ".spm")
_NAMES = ("license", "licence", "notice", "copying", "use_policy")
_NOT = frozenset(
    {
        *(CONFIG, INDEX, NOTE, "adapter_config.json", "quantize_config.json", "quant_config.json"),
        *("hf_quant_config.json", "trainer_state.json", "all_results.json", "train_results.json", "eval_results.json"),
    }
)
_TEMPLATES = "additional_chat_templates"
LARGEST = 256 << 20  # bytes; the largest tokenizers have some 30 MB


def copy_others(model: Path, out: Path, code: bool) -> tuple[list[str], list[str]]:
    """Copy what belongs to a checkpoint beside its weights; ``code``: its own modules too.

    Returns the names of what was copied and sentences about what was not. Raises OSError.
    """
    copied, notes = [], []
    for path in _others(model, code):
        name = str(path.relative_to(model))
        if not is_text(name):
            notes.append(f"{name!a} was not copied: its name is no UTF-8")
        elif not _is_inside(path, model):
            notes.append(f"{name} was not copied: it is a link out of {model}")
        elif not path.is_file() or path.stat().st_size > LARGEST:
            notes.append(f"{name} was not copied: it is no file of a usual size")
        else:
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, out / name)  # the content: a snapshot in the hub's cache consists of links
            copied.append(name)
    return copied, notes


def _others(model: Path, code: bool) -> Iterator[Path]:
    names = sorted(entry.name for entry in os.scandir(model))
    for name in names:
        low = name.lower()
        if low in _NOT or low.endswith(".index.json") or low.startswith("."):
            continue
        wanted = low.endswith(_ENDINGS) or (low.endswith(".py") and code)
        if (wanted or low.partition(".")[0] in _NAMES) and not (model / name).is_dir():
            yield model / name
    templates = model / _TEMPLATES
    if templates.is_dir() and _is_inside(templates, model):
        yield from sorted(templates.glob("*.jinja"))


def _is_inside(path: Path, model: Path) -> bool:
    """Whether a file lies in the folder, or, of a snapshot in the hub's cache, among the files of that repository."""
    real, home = Path(os.path.realpath(path)), Path(os.path.realpath(model))
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    return any(one in real.parents for one in homes)


def check_result(out: Path, shards: Mapping[str, File], total_size: int) -> Checkpoint:
    """Read back what was written, as ``from_pretrained`` will: the index, and each file's header.

    Raises Failed (``not-as-written``): a disk or a file system that lies.
    """
    from bnbenv.models.local import read_local

    try:
        found = read_local(out)
    except CheckpointError as error:
        raise _wrong(error.message) from None
    if found.tensors is None or set(found.files) != set(shards):
        raise _wrong(f"{out} does not consist of the files that were written")
    for name, size in found.files.items():
        if size != shards[name].bytes:
            raise _wrong(f"{name} has {size} bytes, and {shards[name].bytes} were written")
    if sum(one.bytes for one in found.tensors) != total_size:
        raise _wrong("the tensors are not as large as those that were written")
    if found.config.quantization is None:
        raise _wrong(f"{CONFIG} does not say that it is quantized")
    return found


def _wrong(what: str) -> Failed:
    return Failed("not-as-written", f"what was written is not what can be read: {what}", "Look at the disk: dmesg")


def all_files(out: Path, shards: Mapping[str, File]) -> dict[str, File]:
    """Every file of the result. Those of the weights have been digested while they were written."""
    found = dict(shards)
    for place, _, names in os.walk(out):
        for path in (Path(place) / name for name in names):
            name = path.relative_to(out).as_posix()
            if name not in found:
                found[name] = File(path.stat().st_size, sha256(path))
    return dict(sorted(found.items()))
