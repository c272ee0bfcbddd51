"""No network, and nobody's cache: the steps make all that they need in a folder that is deleted in the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# bitsandbytes and transformers ask a hub for kernels and models. A user's cache may hold kernels that nobody checked.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
# Places below HF_HOME by names of their own, which would overrule it.
CACHES = (
    *("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ASSETS_CACHE", "HF_MODULES_CACHE", "KERNELS_CACHE"),
    *("TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE", "PYTORCH_PRETRAINED_BERT_CACHE"),
)


# Where kernels that are compiled when they are first used would be kept.
COMPILED = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "GPTQMODEL_TORCH_EXTENSIONS_DIR")
# gptqmodel would compile the code that packs weights, and have torch compile its layers: a minute each, same results.
UNCOMPILED = {"GPTQMODEL_DISABLE_PACK_EXT": "1", "TORCH_COMPILE_DISABLE": "1", "TORCHDYNAMO_DISABLE": "1"}


@contextlib.contextmanager
def offline(device: str, family: str) -> Iterator[Path | None]:
    """A temporary folder, which also becomes the cache of Hugging Face's libraries; None where none can be made.

    They read their settings when they are imported, so this comes before torch and bitsandbytes are.
    """
    os.environ.update(OFFLINE if family == "bitsandbytes" else {**OFFLINE, **UNCOMPILED})
    try:
        folder = Path(tempfile.mkdtemp(prefix="bnbenv-verify-"))
    except OSError:
        yield None
        return
    for name in CACHES:
        os.environ.pop(name, None)
    os.environ["HF_HOME"] = str(folder / "cache")
    for name in () if family == "bitsandbytes" else COMPILED:
        if name != "GPTQMODEL_TORCH_EXTENSIONS_DIR" or not (device == "cuda" and compiled_by_gptqmodel().is_dir()):
            os.environ[name] = str(folder / name.lower())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def compiled_by_gptqmodel() -> Path:
    """The kernels that this user's gptqmodel has compiled: those are what its models run, so they are verified."""
    named = os.environ.get("GPTQMODEL_TORCH_EXTENSIONS_DIR")
    # A user without a home, as in some containers, has none of them.
    return Path(named or os.path.expanduser("~/.cache/gptqmodel/torch_extensions"))  # noqa: PTH111
