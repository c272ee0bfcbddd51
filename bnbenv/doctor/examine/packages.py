"""The installed distributions that matter here, and which of several an import takes. Metadata is read, nothing run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bnbenv.doctor.examine.files import head, text
from bnbenv.doctor.examine.search import Folder, Search
from bnbenv.doctor.model import Package
from bnbenv.matrix.rows import is_version

LARGEST = 1 << 18  # bytes of a METADATA's head

# Distributions that decide whether bitsandbytes works, that stand in its way, or that break with the same torch.
_LISTED = """
    torch torchvision torchaudio torchao torchtext functorch pytorch pytorch-cuda
    bitsandbytes bitsandbytes-windows bitsandbytes-windows-webui bitsandbytes-rocm bitsandbytes-foundation
    bitsandbytes-intel bitsandbytes-npu
    triton triton-windows triton-nightly triton-rocm pytorch-triton pytorch-triton-rocm pytorch-triton-xpu triton-xpu
    transformers accelerate peft trl diffusers datasets numpy scipy huggingface-hub safetensors tokenizers sentencepiece
    optimum optimum-quanto quanto hqq eetq aqlm auto-gptq gptqmodel autoawq autoawq-kernels exllamav2 flute-kernel
    compressed-tensors llmcompressor intel-extension-for-pytorch intel-extension-for-transformers
    xformers flash-attn flash-attn-3 deepspeed vllm sglang unsloth unsloth-zoo liger-kernel apex transformer-engine
    cuda-toolkit cuda-bindings cuda-python cupy tensorflow jax jaxlib onnxruntime-gpu
    setuptools packaging pip protobuf typing-extensions
"""
_NAMES = frozenset(_LISTED.split())
_PREFIXES = ("nvidia-", "bitsandbytes-cuda", "cupy-cuda", "jax-cuda", "rocm-", "amd-")

# The module of a distribution where it is another word than its name with ``_`` for ``-``.
_MODULES = {
    "bitsandbytes-windows": "bitsandbytes",
    "bitsandbytes-windows-webui": "bitsandbytes",
    "bitsandbytes-rocm": "bitsandbytes",
    "triton-windows": "triton",
    "triton-nightly": "triton",
    "triton-rocm": "triton",
    "triton-xpu": "triton",
    "pytorch-triton": "triton",
    "pytorch-triton-rocm": "triton",
    "pytorch-triton-xpu": "triton",
    "autoawq": "awq",
    "optimum-quanto": "optimum",
    "protobuf": "google",
    "pytorch": "torch",
}


_EXTRA = re.compile(r";.*\bextra\s*==")


class Known(NamedTuple):
    """A distribution's metadata as it lies in a folder: ``entry`` is the name of its .dist-info or .egg-info there."""

    name: str
    version: str | None
    folder: Folder
    entry: str
    requires: tuple[str, ...] = ()
    editable: bool = False
    readable: bool = True

    @property
    def path(self) -> Path:
        return self.folder.path / self.entry


def normalized(name: str) -> str:
    """A distribution's name as indexes write it: ``nvidia-cublas-cu12``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def module_of(name: str) -> str:
    """The module that a distribution brings, by its normalized name."""
    if name.startswith("bitsandbytes-cuda"):
        return "bitsandbytes"
    return _MODULES.get(name, name.replace("-", "_"))


def of_interest(name: str) -> bool:
    """Whether a distribution of that normalized name is listed."""
    return name in _NAMES or name.startswith(_PREFIXES)


def known_in(search: Search) -> tuple[Known, ...]:
    """Every distribution of interest in every folder, in the order in which importlib.metadata meets them."""
    found = []
    for folder in search.folders:
        for entry in folder.names:
            stem, _, kind = entry.rpartition(".")
            if kind not in ("dist-info", "egg-info"):
                continue
            name = normalized(stem.partition("-")[0])
            if of_interest(name):
                found.append(_read(folder, entry, name, stem))
    return tuple(found)


def packages(known: tuple[Known, ...], search: Search) -> tuple[Package, ...]:
    """The distributions, with the one of each name that an import takes marked as effective.

    That is the one in the folder from which its module is imported; where that folder has none, the first one.
    """
    effective = {id(one) for one in effective_of(known, search).values()}
    return tuple(
        Package(
            name=one.name,
            version=one.version,
            path=str(one.path),
            where=one.folder.where,
            effective=id(one) in effective,
            editable=one.editable,
            requires_dist=one.requires,
        )
        for one in known
    )


def effective_of(known: tuple[Known, ...], search: Search) -> dict[str, Known]:
    """The distribution of each name that an import takes."""
    found: dict[str, Known] = {}
    for name in dict.fromkeys(one.name for one in known):
        candidates = [one for one in known if one.name == name]
        place = search.module(module_of(name)) if len({one.folder.path for one in candidates}) > 1 else None
        beside = [one for one in candidates if place is not None and one.folder.path == place.parent]
        readable = [one for one in beside or candidates if one.readable]
        found[name] = (readable or candidates)[0]
    return found


def _read(folder: Folder, entry: str, name: str, stem: str) -> Known:
    path = folder.path / entry
    inside = "METADATA" if entry.endswith(".dist-info") else "PKG-INFO"
    content = text(path / inside if path.is_dir() else path, LARGEST)  # an egg-info of distutils is a file
    fields = list(_fields(content)) if content else []
    version = next((value for key, value in fields if key == "version" and is_version(value)), None)
    parts = stem.split("-")
    return Known(
        name=name,
        version=version or (parts[1] if len(parts) > 1 and is_version(parts[1]) else None),
        folder=folder,
        entry=entry,
        requires=tuple(value for key, value in fields if key == "requires-dist" and not _EXTRA.search(value)),
        editable=_editable(path),
        readable=version is not None,
    )


def _fields(content: str) -> Iterator[tuple[str, str]]:
    """The headers of METADATA, up to the empty line before the description."""
    for line in content.splitlines():
        if not line:
            return
        key, colon, value = line.partition(":")
        if colon and not line[0].isspace():
            yield key.strip().lower(), value.strip()


def _editable(path: Path) -> bool:
    """PEP 610: direct_url.json says ``{"dir_info": {"editable": true}}``."""
    try:
        content = head(path / "direct_url.json", LARGEST)
    except OSError:
        return path.name.endswith(".egg-info") and path.parent.name not in ("site-packages", "dist-packages")
    try:
        document = json.loads(content)
        return bool(document["dir_info"].get("editable"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
