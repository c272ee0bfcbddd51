"""A model in a folder: which files count, and what is said of one that is incomplete or of another kind."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.errors import InputError
from bnbenv.models.local import read_local
from bnbenv.models.model import CheckpointError

CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8})
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def weights(*names: str) -> bytes:
    """A safetensors file with a tensor of four bytes for each name."""
    header = {
        name: {"dtype": "BF16", "shape": [2], "data_offsets": [4 * place, 4 * place + 4]}
        for place, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4 * len(names))


def index(**where: str) -> bytes:
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": where}).encode()


def folder_of(tmp_path: Path, **files: bytes | str) -> Path:
    """A folder with a config.json and files, their names written with ``__`` for dots."""
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    for name, content in {"config__json": CONFIG, **files}.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def sharded(tmp_path: Path, **where: str) -> Path:
    folder = folder_of(tmp_path, model__safetensors__index__json=index(**where or {"a": SHARDS[0], "b": SHARDS[1]}))
    (folder / SHARDS[0]).write_bytes(weights("a", "shared"))
    (folder / SHARDS[1]).write_bytes(weights("shared", "b"))
    return folder


def refused(folder: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read_local(folder)
    assert caught.value.next_step
    return caught.value


def test_one_file(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path,
        model__safetensors=weights("a", "b"),
        pytorch_model__bin=b"older",
        consolidated__safetensors=b"of another library",
        model__safetensors__index__json=b"never looked at",
    )
    found = read_local(folder)
    assert found.tensors is not None and [tensor.name for tensor in found.tensors] == ["a", "b"]
    assert dict(found.files) == {"model.safetensors": len(weights("a", "b"))}
    assert found.source == str(folder)


def test_shards(tmp_path: Path) -> None:
    """A tensor that is in both counts where the index says; one that it does not name is loaded all the same."""
    found = read_local(sharded(tmp_path, a=SHARDS[0], b=SHARDS[1], shared=SHARDS[1]))
    assert found.tensors is not None
    assert [(tensor.name, tensor.file) for tensor in found.tensors] == [
        ("a", SHARDS[0]),
        ("shared", SHARDS[1]),
        ("b", SHARDS[1]),
    ]
    assert list(found.files) == list(SHARDS)


def test_a_file_that_the_configuration_names(tmp_path: Path) -> None:
    config = json.dumps({"transformers_weights": "best.safetensors"})
    folder = folder_of(tmp_path, config__json=config, model__safetensors=weights("a"))
    assert refused(folder).code == "missing-weights"
    (folder / "best.safetensors").write_bytes(weights("best"))
    found = read_local(folder)
    assert found.tensors is not None and found.tensors[0].name == "best"


def test_a_configuration_alone(tmp_path: Path) -> None:
    assert read_local(folder_of(tmp_path, generation_config__json="{}")).tensors is None


@pytest.mark.parametrize(("kind", "own"), [("llama", False), ("nobodys-model", True)])
def test_code_that_comes_with_a_model_counts_where_transformers_has_none(kind: str, own: bool, tmp_path: Path) -> None:
    config = {"model_type": kind, "auto_map": {"AutoModelForCausalLM": "modeling_x.XForCausalLM"}}
    assert read_local(folder_of(tmp_path, config__json=json.dumps(config))).config.remote_code is own


@pytest.mark.parametrize(
    ("file", "code", "said"),
    [
        ("pytorch_model.bin", "pickled-weights", "not opened"),
        ("pytorch_model-00001-of-00002.bin", "pickled-weights", "not opened"),
        ("tf_model.h5", "pickled-weights", "tf_model.h5"),
        ("model.fp16.safetensors", "variant-only", "variant='fp16'"),
        ("model.fp16-00001-of-00002.safetensors", "variant-only", "variant='fp16'"),
        ("model-00001-of-00002.safetensors", "missing-index", "model.safetensors.index.json"),
        ("model-Q4_K_M.gguf", "gguf", "llama.cpp"),
        ("consolidated.00.pth", "other-layout", "own layout"),
        ("weights.safetensors", "other-name", "weights.safetensors"),
    ],
)
def test_weights_that_are_not_loaded(file: str, code: str, said: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / file).write_bytes(weights("a"))
    error = refused(folder)
    assert error.code == code and said in error.message


def test_an_adapter_names_its_base_model(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path,
        adapter_config__json='{"base_model_name_or_path": "owner/base", "peft_type": "LORA"}',
        adapter_model__safetensors=weights("a"),
    )
    error = refused(folder)
    assert error.code == "adapter" and error.next_step == "Name its base model: owner/base"


@pytest.mark.parametrize(
    ("files", "code", "said"),
    [
        ({"model.gguf": b"GGUF"}, "gguf", "GGUF files only"),
        ({"model_index.json": b"{}"}, "no-config", "diffusers"),
        ({"model.safetensors": b""}, "no-config", "has no config.json"),
        ({}, "no-config", "has no config.json"),
    ],
)
def test_a_folder_that_is_no_model(files: dict[str, bytes], code: str, said: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    error = refused(tmp_path)
    assert error.code == code and said in error.message


def test_the_checkpoints_of_a_training(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "checkpoint-500" / "config.json").write_text(CONFIG)
    assert str(tmp_path / "checkpoint-500") in refused(tmp_path).next_step


BROKEN: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "a shard is missing": (lambda folder: (folder / SHARDS[1]).unlink(), "missing-shards", "1 of 2 files"),
    "a tensor is missing": (
        lambda folder: (folder / SHARDS[1]).write_bytes(weights("c")),
        "missing-tensor",
        f"{SHARDS[1]} lacks the tensor b",
    ),
    "a shard is truncated": (
        lambda folder: (folder / SHARDS[0]).write_bytes(weights("a", "shared")[:-3]),
        "truncated-safetensors",
        f"{SHARDS[0]} is truncated",
    ),
    "a shard is a pointer": (
        lambda folder: (folder / SHARDS[0]).write_bytes(b"version https://git-lfs.example/spec/v1\n"),
        "lfs-pointer",
        "Git LFS",
    ),
    "a shard is a folder": (
        lambda folder: ((folder / SHARDS[0]).unlink(), (folder / SHARDS[0]).mkdir()),
        "missing-shards",
        SHARDS[0],
    ),
    "the index is a web page": (
        lambda folder: (folder / "model.safetensors.index.json").write_text("<html>"),
        "web-page",
        "a web page",
    ),
    "the index is no JSON": (
        lambda folder: (folder / "model.safetensors.index.json").write_text("{"),
        "broken-index",
        "not JSON",
    ),
    "the index has no map": (
        lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}'),
        "broken-index",
        "no weight_map",
    ),
    "the index leads out of the folder": (
        lambda folder: (folder / "model.safetensors.index.json").write_bytes(index(a="../other.safetensors")),
        "bad-file-name",
        "no plain name",
    ),
    "the index names a device": (
        lambda folder: (folder / "model.safetensors.index.json").write_bytes(index(a="/dev/zero")),
        "bad-file-name",
        "no plain name",
    ),
    "the index names pickles": (
        lambda folder: (folder / "model.safetensors.index.json").write_bytes(index(a="pytorch_model.bin")),
        "pickled-weights",
        "no safetensors file",
    ),
    "the index names a number": (
        lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}'),
        "broken-index",
        "names of files",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_checkpoint(what: str, tmp_path: Path) -> None:
    spoil, code, said = BROKEN[what]
    folder = sharded(tmp_path)
    spoil(folder)
    error = refused(folder)
    assert error.code == code and said in error.message


def test_no_folder(tmp_path: Path) -> None:
    file = folder_of(tmp_path, model__safetensors=weights("a")) / "model.safetensors"
    assert refused(tmp_path / "none").code == "no-folder"
    assert str(file.parent) in refused(file).next_step
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert refused(tmp_path / "x.gguf").code == "gguf"


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
def test_links_that_lead_nowhere_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    assert "is a link to what is not there" in refused(tmp_path / "link").message
    folder = folder_of(tmp_path)
    (folder / "model.safetensors").symlink_to("../../blobs/00")
    assert refused(folder).code == "broken-link"
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    assert refused(folder).code == "no-file"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="rights do not bind this user")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    folder.chmod(0)
    try:
        assert refused(folder).code == "unreadable"
    finally:
        folder.chmod(0o755)


def test_a_configuration_that_cannot_be_read_is_named_with_its_path(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, config__json='{"hidden_size": "8"}')
    with pytest.raises(InputError) as caught:
        read_local(folder)
    assert str(folder / "config.json") in caught.value.message and caught.value.where == "hidden_size"


def test_a_model_of_70_billion_parameters_is_read_at_once(tmp_path: Path) -> None:
    """80 layers in 30 files, the weights holes in the files; a tenth of the time on a quiet machine."""
    folder = folder_of(tmp_path)
    parts = [f"self_attn.{one}_proj" for one in "qkvo"] + [f"mlp.{one}_proj" for one in ("gate", "up", "down")]
    names = [f"model.layers.{layer}.{part}.weight" for layer in range(80) for part in (*parts, "norm", "norm2")]
    where = {name: f"model-{place * 30 // len(names) + 1:05}-of-00030.safetensors" for place, name in enumerate(names)}
    size = 8192 * 8192 * 2
    for shard in dict.fromkeys(where.values()):
        own = [name for name in names if where[name] == shard]
        header = {
            name: {"dtype": "BF16", "shape": [8192, 8192], "data_offsets": [place * size, (place + 1) * size]}
            for place, name in enumerate(own)
        }
        text = json.dumps(header).encode()
        with (folder / shard).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + len(own) * size)
    (folder / "model.safetensors.index.json").write_bytes(index(**where))
    begun = time.process_time()
    found = read_local(folder)
    assert time.process_time() - begun < 0.5
    assert found.tensors is not None and len(found.tensors) == 720 and found.bytes > 90e9


@pytest.mark.real
@pytest.mark.xdist_group("models-5")
def test_what_transformers_wrote(model_zoo: Path) -> None:
    single, shards = read_local(model_zoo / "llama"), read_local(model_zoo / "llama-sharded")
    assert single.tensors is not None and shards.tensors is not None and len(shards.files) > 1
    assert {(one.name, one.dtype, one.shape) for one in single.tensors} == {
        (one.name, one.dtype, one.shape) for one in shards.tensors
    }
    assert (single.config.architecture, single.config.dtype) == ("LlamaForCausalLM", "BF16")
