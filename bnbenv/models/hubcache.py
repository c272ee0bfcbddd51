"""The hub's cache on this disk, and the settings of huggingface_hub, as that library (release 2.4.0) reads them.

A model lies in ``models--OWNER--NAME``: ``refs/main`` holds the commit, ``snapshots/COMMIT`` the files of it, as links
into ``blobs``. Nothing is written there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from bnbenv.decode import load_toml
from bnbenv.errors import UsageError
from bnbenv.paths import exists, expand

_TRUE = frozenset({"1", "on", "yes", "true", "y", "t"})
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"(?:\b[\w\-.]{1,96}\b/)?\b[\w\-.]{1,96}\b", re.ASCII)  # as huggingface_hub checks a name
_REVISION = re.compile(r"[\w\-.]+(?:/[\w\-.]+)*", re.ASCII)


def check_name(name: str) -> None:
    """Raises UsageError for what cannot be the name of a model on the hub."""
    if "://" in name:
        message = "a model is named by its folder or by its name on the hub, not by an address"
        raise UsageError("bad-model-name", message, "Name it as OWNER/NAME.")
    if not _NAME.fullmatch(name) or "--" in name or ".." in name or name.endswith(".git"):
        message = f"{ascii(name)[:200]} is no folder that is there, and cannot be a name on the hub"
        raise UsageError("bad-model-name", message, "Name a folder with a config.json, or a model as OWNER/NAME.")


def check_revision(revision: str) -> None:
    """Raises UsageError for what cannot be a branch, a tag or a commit."""
    if not _REVISION.fullmatch(revision) or ".." in revision or len(revision) > 200:
        message = f"{ascii(revision)[:200]} cannot be a revision"
        raise UsageError("bad-revision", message, "Name a branch, a tag or a commit.")


def snapshot(name: str, revision: str, environ: Mapping[str, str]) -> Path | None:
    """The folder with the cached files of a model, all or some; None where there is none of this revision."""
    folder = cache(environ) / "--".join(("models", *name.split("/")))
    commit = _text(folder / "refs" / revision)
    commit = commit if commit is not None and _COMMIT.fullmatch(commit) else revision
    found = folder / "snapshots" / commit
    return found if _COMMIT.fullmatch(commit) and exists(found) else None


def cache(environ: Mapping[str, str]) -> Path:
    """The folder of the cache: ``HF_HUB_CACHE``, ``HUGGINGFACE_HUB_CACHE``, else ``hub`` in the library's home."""
    named = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    return _path(named, environ) if named else _home(environ) / "hub"


def endpoint(environ: Mapping[str, str]) -> str:
    """The address of the hub, without a slash at its end."""
    named = environ.get("HF_ENDPOINT")
    if named:
        return named.rstrip("/")
    text = Path(__file__).with_name("hub.toml").read_text(encoding="utf-8")
    return str(load_toml(text)["endpoint"]).rstrip("/")


def token(environ: Mapping[str, str]) -> str | None:
    """The user's access token, of the environment or of the file that ``hf auth login`` wrote.

    Raises UsageError for one that no header can hold.
    """
    if _true(environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN")):
        return None
    found, where = environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN"), "HF_TOKEN"
    if not found:
        named = environ.get("HF_TOKEN_PATH")
        path = _path(named, environ) if named else _home(environ) / "token"
        found, where = _text(path), str(path)
    found = (found or "").replace("\r", "").replace("\n", "").strip()
    if not (found.isascii() and found.isprintable()):
        raise UsageError("bad-token", f"the token in {where} has characters that no token has", "Log in again.")
    return found or None


def offline(environ: Mapping[str, str]) -> str | None:
    """The variable that forbids the hub, if one is set."""
    names = ("BNBENV_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return next((name for name in names if _true(environ.get(name))), None)


def _home(environ: Mapping[str, str]) -> Path:
    if environ.get("HF_HOME"):
        return _path(environ["HF_HOME"], environ)
    base = environ.get("XDG_CACHE_HOME")
    return (_path(base, environ) if base else expand("~") / ".cache") / "huggingface"


def _path(text: str, environ: Mapping[str, str]) -> Path:
    """A path with ``~`` and ``$VARIABLE`` replaced, as the library does."""
    replaced = re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: environ.get(found[1] or found[2], found[0]), text)
    return expand(replaced)


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return stream.read(1 << 16).decode("utf-8", "replace").strip()
    except (OSError, ValueError):
        return None


def _true(value: str | None) -> bool:
    return (value or "").strip().lower() in _TRUE
