"""glibc's dynamic linker, simulated: what a process has loaded, and what a library that it loads next would get.

It follows ``elf/dl-load.c``, ``dl-deps.c`` and ``dl-version.c`` of glibc: what is loaded already is taken by its name;
then DT_RPATH of the one that needs it and of those that caused that to be loaded, unless it has a DT_RUNPATH;
LD_LIBRARY_PATH; DT_RUNPATH of the one that needs it; the linker's cache; the default folders.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import msgspec

from bnbenv.doctor.examine.disk import Disk, Stop
from bnbenv.doctor.examine.dynamic import Dynamic
from bnbenv.doctor.examine.ldcache import LdCache
from bnbenv.doctor.model import Linked

# The CUDA libraries whose releases can be mixed: their missing symbols are looked for one by one.
CUDA_LIBRARY = re.compile(
    r"lib(cudart|cublas|cublasLt|cusparse|cusparseLt|cusolver|cusolverMg|curand|cufft|cudnn|nvrtc|nvJitLink|nccl|cupti)"
    r"\.so(?:\.[0-9]+)*"
)
_TOKEN = re.compile(r"\$(?:\{(ORIGIN|LIB|PLATFORM)\}|(ORIGIN|LIB|PLATFORM)(?![A-Za-z0-9_]))")
_OF_SYSTEM = ("/lib", "/usr/lib")
_MOST = 4000  # objects of one process


@dataclass(eq=False)
class Object:
    """A program or library in the process. ``loader`` caused it to be loaded, ``via`` is how it was found."""

    path: str
    dynamic: Dynamic
    loader: Object | None
    via: str
    file: tuple[int, int]
    names: set[str] = field(default_factory=set)

    @property
    def folder(self) -> str:
        return posixpath.dirname(self.path)

    def is_called(self, name: str) -> bool:
        return name in self.names or name == self.dynamic.soname


@dataclass(frozen=True)
class Search:
    """Where the linker looks beside what the files themselves say. Folders are as the process sees them.

    ``levels`` are the folders below ``glibc-hwcaps`` for this CPU. ``sure``: all of it is known; else what is not found
    is unknown, with ``because``.
    """

    library_path: tuple[str, ...] = ()
    cache: LdCache | None = None
    defaults: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    sure: bool = True
    because: str = ""


class Linker:
    """The process, as it grows."""

    def __init__(self, disk: Disk, search: Search) -> None:
        self.disk, self.search = disk, search
        self.objects: list[Object] = []
        self.unsure = "" if search.sure else search.because

    def start(self, program: str, preload: tuple[str, ...] = ()) -> list[Linked]:
        """Begin with a program, given by its real path, and what LD_PRELOAD names. Gives what it needs and lacks."""
        try:
            main = self._add(program, None, "program")
        except Stop:
            main = None
        if main is None:
            self.unsure = self.unsure or f"{program} cannot be read as a program of this machine"
            return []
        interpreter = main.dynamic.interpreter
        if interpreter and not interpreter.startswith(_OF_SYSTEM):
            # A program of Nix or Guix brings its own glibc, which knows neither the system's cache nor its folders.
            self.search = replace(self.search, cache=None, defaults=(posixpath.dirname(interpreter),))
        if interpreter and "musl" in interpreter:
            self.unsure = self.unsure or f"{program} runs on musl, whose linker is another one"
        if interpreter:
            self._try(interpreter, main)
        for name in preload:
            self._try(name, main)
        return self._needs([main, *self.objects[1:]])

    def _try(self, name: str, loader: Object) -> None:
        """What cannot be preloaded is passed over, with a message."""
        try:
            self._find(name, loader)
        except Stop:
            return

    def load(self, path: str, caller: Object | None) -> list[Linked]:
        """Open a library by its path, as ``dlopen`` does: with all that it needs, or not at all.

        Gives every need of what is loaded by this, with what is wrong.
        """
        before = len(self.objects)
        try:
            new, _ = self._find(path, caller)
        except Stop as why:
            return [Linked(soname=path, needed_by="", answer="no", because=str(why))]
        if new is None:
            return [Linked(soname=path, needed_by="", answer="no", because="there is no such file for this machine")]
        if len(self.objects) == before:
            return []
        needs = self._needs(self.objects[before:])
        if any(one.answer == "no" for one in needs):
            del self.objects[before:]
        return needs

    def loaded(self, name: str) -> Object | None:
        """What in the process goes by a name."""
        return next((one for one in self.objects if one.is_called(name)), None)

    def would_find(self, name: str) -> Object | None:
        """What the program would get for a name now; nothing is loaded by asking."""
        before = len(self.objects)
        try:
            found, _ = self._find(name, self.objects[0] if self.objects else None)
        except Stop:
            found = None
        del self.objects[before:]
        return found

    def _needs(self, queue: list[Object]) -> list[Linked]:
        first = len(self.objects) - len(queue)
        queue, found, by = list(queue), [], dict[tuple[str, str], Object]()
        for one in queue:  # grows
            for name in one.dynamic.needed:
                before = len(self.objects)
                linked, other = self._need(name, one, first)
                found.append(linked)
                if other is not None:
                    by[one.path, name] = other
                queue += self.objects[before:]
        return [self._checked(linked, by) for linked in found]

    def _need(self, name: str, by: Object, first: int) -> tuple[Linked, Object | None]:
        need = Linked(soname=name, needed_by=by.path, answer="no")
        try:
            other, searched = self._find(name, by)
        except Stop as why:
            return msgspec.structs.replace(need, because=str(why)), None
        if other is not None:
            via = "loaded" if other in self.objects[:first] else other.via
            return msgspec.structs.replace(need, answer="yes", path=other.path, via=via), other
        if self.unsure:
            return msgspec.structs.replace(need, answer="unknown", because=self.unsure), None
        return msgspec.structs.replace(need, because=f"not found by {', '.join(searched)}, default folders"), None

    def _find(self, name: str, loader: Object | None) -> tuple[Object | None, list[str]]:
        """What is loaded for a name, and where it was looked for. Raises Stop for a file at which the linker stops."""
        known = self.loaded(name)
        if known is not None:
            return known, []
        searched: list[str] = []
        for path, via in self._candidates(name, loader, searched):
            found = self._add(path, loader, via, name)
            if found is not None:
                return found, searched
        return None, searched

    def _add(self, path: str, loader: Object | None, via: str, name: str | None = None) -> Object | None:
        file = self.disk.identity(path)
        if file is None:
            return None
        same = next((one for one in self.objects if one.file == file), None)
        if same is None:
            dynamic = self.disk.dynamic(path)
            if dynamic is None or len(self.objects) >= _MOST:
                return None
            same = Object(path, dynamic, loader, via, file)
            self.objects.append(same)
        same.names |= {path, name or path}
        return same

    def _candidates(self, name: str, loader: Object | None, searched: list[str]) -> Iterator[tuple[str, str]]:
        """Paths to try in order, and by which way."""
        if "/" in name:
            path = self._expanded(name, loader)
            if path is not None:
                yield path, "path"
            return
        for via, folders in self._ways(loader):
            if folders and via not in searched:
                searched.append(via)
            for folder in folders:
                for below in self._levels(folder):
                    yield posixpath.join(below, name), via
        nodeflib = loader is not None and loader.dynamic.nodeflib
        cached = self.search.cache.find(name) if self.search.cache and not nodeflib else None
        searched.append("ld-cache")
        if cached is not None:
            yield cached, "ld-cache"
        for folder in () if nodeflib else self.search.defaults:
            for below in self._levels(folder):
                yield posixpath.join(below, name), "default"

    def _ways(self, loader: Object | None) -> Iterator[tuple[str, list[str]]]:
        main = self.objects[0] if self.objects else None
        if loader is None or not loader.dynamic.runpath:
            one, past_main = loader, False
            while one is not None:
                yield "rpath", self._folders(one.dynamic.rpath, one)
                past_main = past_main or one is main
                one = one.loader
            if main is not None and not past_main:
                yield "rpath", self._folders(main.dynamic.rpath, main)
        yield "LD_LIBRARY_PATH", self._folders(self.search.library_path, main)
        if loader is not None:
            yield "runpath", self._folders(loader.dynamic.runpath, loader)

    def _folders(self, paths: tuple[str, ...], of: Object | None) -> list[str]:
        return [path for path in (self._expanded(one, of) for one in paths) if path]

    def _levels(self, folder: str) -> Iterator[str]:
        if self.search.levels:
            yield from self.disk.levels(folder, self.search.levels)
        yield folder

    def _expanded(self, path: str, of: Object | None) -> str | None:
        """A path with its ``$ORIGIN`` and the like replaced; None where that is not known."""
        if "$" not in path:
            return path
        if of is None:
            return None
        values = {"ORIGIN": of.folder, "LIB": self.disk.library_folder(), "PLATFORM": of.dynamic.machine}
        return _TOKEN.sub(lambda match: values[match[1] or match[2]], path)

    def _checked(self, linked: Linked, by: dict[tuple[str, str], Object]) -> Linked:
        """With the symbol versions, and of CUDA libraries the symbols, that what is found does not have."""
        other = by.get((linked.needed_by, linked.soname))
        one = next((one for one in self.objects if one.path == linked.needed_by), None)
        if other is None or one is None:
            return linked
        have = other.dynamic.defines
        lacks = [name for name in one.dynamic.wants.get(linked.soname, ()) if have is not None and name not in have]
        if not lacks and CUDA_LIBRARY.fullmatch(linked.soname):
            lacks = list(self.disk.missing_symbols(one.path, other.path, linked.soname))
        if not lacks:
            return linked
        because = f"{other.path} has no {', '.join(lacks[:3])}"
        return msgspec.structs.replace(linked, answer="no", lacks=tuple(lacks), because=because)
