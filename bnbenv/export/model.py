"""What is exported: the packages of a lock, where their files come from, and what has to be set. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from bnbenv.envs.lockfile import Locked, file_name
from bnbenv.envs.provenance import local_file
from bnbenv.envs.sources import PackageSources
from bnbenv.redact import without_userinfo


@dataclass(frozen=True)
class Package:
    """One package of a lock. ``folder`` is where its files lie on this machine, empty where they have an address."""

    name: str
    version: str
    hashes: tuple[str, ...]
    folder: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Exported:
    """An environment to be made by another program.

    ``python`` is a minor version; ``environment`` what must be set; ``index`` the address of the index that torch is
    on, where that is PyTorch's own; ``indexes`` those that are set up on this machine and that files come from;
    ``kept`` the torch that is there and that all this lies on top of, else empty; ``driver`` the oldest NVIDIA driver
    that torch's CUDA runs on, else empty.
    """

    env: str
    title: str
    python: str
    packages: tuple[Package, ...]
    environment: dict[str, str]
    index: str
    indexes: tuple[str, ...]
    kept: str
    cuda: str
    driver: str

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of this machine that files come from."""
        return tuple(dict.fromkeys(one.folder for one in self.packages if one.folder))

    def notes(self) -> list[str]:
        """What whoever installs it elsewhere has to know."""
        said = []
        local = [one.name for one in self.packages if one.folder]
        if local:
            shown = ", ".join(local[:4]) + (f" and {len(local) - 4} more" if len(local) > 4 else "")
            said.append(f"{shown}: in folders of this machine ({', '.join(self.folders)}), which others do not have")
        if self.indexes:
            said.append(f"files come from {', '.join(self.indexes)}: set that up where it is installed")
        if self.kept:
            said.append(f"it lies on top of a torch that is there ({self.kept}) and does not bring one")
        return said


def exported(locked: Locked, sources: PackageSources, driver: str = "") -> Exported:
    """What a lock holds. ``driver`` is the oldest that the CUDA of its torch runs on."""
    choice = locked.decision.solution.choice
    cuda = f"CUDA {choice.torch.cuda}" if choice.torch.cuda else "CPU"
    return Exported(
        env=locked.decision.env,
        title=f"{choice.title}, torch {choice.torch.version} ({cuda})",
        python=choice.python,
        packages=tuple(_package(locked, name) for name in sorted(locked.packages)),
        environment=dict(choice.environment),
        index=without_userinfo(sources.pytorch_source(choice.torch.index).url) if choice.torch.index else "",
        indexes=_used(locked, sources),
        kept=f"{choice.torch.version}, {cuda}" if choice.torch.source == "existing" else "",
        cuda=choice.torch.cuda or "",
        driver=driver if choice.torch.cuda else "",
    )


def _package(locked: Locked, name: str) -> Package:
    files = locked.files[name]
    local = [path for path in (local_file(one.place) for one in files) if path is not None]
    folder = str(local[0].parent) if len(local) == len(files) else ""
    hashes = tuple(dict.fromkeys(one.sha256 for one in files))
    return Package(name, locked.packages[name], hashes, folder, tuple(file_name(one.place) for one in files))


def _used(locked: Locked, sources: PackageSources) -> tuple[str, ...]:
    """The indexes that somebody set up here and that files of the lock come from, without credentials."""
    places = {urlsplit(one.place).netloc for files in locked.files.values() for one in files if "://" in one.place}
    set_up = [one for one in (sources.default, *sources.indexes) if one is not None and one.address]
    return tuple(one.shown for one in set_up if urlsplit(without_userinfo(one.address)).netloc in places - {""})
