"""What a Python process has loaded when bitsandbytes opens its library: the interpreter, and what torch loads.

Source: ``_load_global_deps`` and ``_preload_cuda_deps`` in ``torch/__init__.py`` of 1.13 to 2.15. What these preload
differs by release, so it is read in the installed file itself.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, replace
from pathlib import Path

from bnbenv.doctor.examine.disk import Disk
from bnbenv.doctor.examine.files import head
from bnbenv.doctor.examine.linking import Linker, Object
from bnbenv.doctor.model import Linked, Torch

_INIT_LIMIT = 1 << 20
_PYTHON = re.compile(r"python(3\.[0-9]{1,2}t?)")
_CTYPES = re.compile(r"_ctypes\.[\w.-]*so")
_TORCH_C = re.compile(r"_C(?:\.[\w.-]+)?\.so")
_LIBPYTHON = re.compile(r"libpython3[\w.]*\.so[\w.]*")
# ("cublas", "libcublas.so.*[0-9]") of today, 'cublas': 'libcublas.so.*[0-9]' of torch 2.0 to 2.8,
# join(nvidia_path, 'cublas', 'lib', 'libcublas.so.11') of 1.13
_LISTED = re.compile(
    r"""["'](\w+)["']\s*[,:]\s*(?:["']lib["']\s*,\s*)?["'](lib[\w-]+\.so[^"'\n]{0,40})["'](,\s*required=False)?"""
)
_ALL = re.compile(r"_preload_cuda_deps\((required=False)?\)")
_MAPPED = re.compile(r"""if\s+["']([^"'\n]{1,200})["']\s+not\s+in\s+_maps""")


@dataclass(frozen=True)
class Preload:
    """One of the CUDA libraries that torch opens by itself: the folder of its package and the pattern of its name."""

    folder: str
    pattern: str
    required: bool = True


@dataclass(frozen=True)
class Plan:
    """What a torch preloads. ``always`` after its own libraries, where ``mapped`` is part of a loaded path;
    ``rescue`` where they cannot be loaded for a CUDA library's sake. ``with_major``: also in ``nvidia/cu13/lib``.
    """

    rescue: tuple[Preload, ...] = ()
    always: tuple[Preload, ...] = ()
    mapped: str = ""
    with_major: bool = False


def plan_of(text: str) -> Plan:
    """What a ``torch/__init__.py`` says that it preloads."""
    before, _, after = text.partition("/proc/self/maps")
    inner, _, after = after.partition("except")
    rescue = _preloads(before + after)
    always = _preloads(inner)
    everything = _ALL.search(inner)
    if everything and not always:
        always = tuple(replace(one, required=one.required and not everything[1]) for one in rescue)
    mapped = _MAPPED.search(inner)
    return Plan(rescue, always, mapped[1] if mapped else "", "cu{" in text)


def _preloads(text: str) -> tuple[Preload, ...]:
    return tuple(Preload(match[1], match[2], match[3] is None) for match in _LISTED.finditer(text))


class Startup:
    """Starts a process and imports torch in it; ``wrong`` is what makes that fail, ``unknown`` what cannot be told."""

    def __init__(self, linker: Linker, disk: Disk, search: tuple[str, ...]) -> None:
        self.linker, self.disk, self.search = linker, disk, search
        self.wrong: list[Linked] = []
        self.unknown: list[tuple[str, str]] = []
        self.caller: Object | None = None

    def python(self, path: str | None, preload: tuple[str, ...]) -> None:
        """The interpreter, and its module ctypes, through which bitsandbytes and torch open libraries."""
        if path is None:
            self._unknown("python", "which Python is used is unknown, and so where it looks for libraries")
            return
        program = self.disk.real(path)
        self.linker.start(program, preload)
        if not self.linker.objects:
            self._unknown("python", self.linker.unsure)
            return
        base = posixpath.dirname(posixpath.dirname(program))
        version = next((m[1] for text in (*self.search, program) if (m := _PYTHON.search(text))), None)
        ctypes = self.disk.matching(f"{base}/lib/python{version}/lib-dynload", _CTYPES) if version else ()
        interpreter = next((one for one in self.linker.objects if _is_libpython(one)), self.linker.objects[0])
        if ctypes:
            self.linker.load(ctypes[0], interpreter)
        self.caller = self.linker.loaded(ctypes[0]) if ctypes else None
        self.caller = self.caller or interpreter

    def torch(self, torch: Torch | None) -> None:
        """What ``import torch`` loads, in its order."""
        if torch is None or torch.fault is not None:
            because = torch.fault if torch else "there is none"
            self._unknown("torch", f"what torch loads is unknown: {because}")
            return
        folder = torch.path
        try:
            plan = plan_of(head(Path(folder, "__init__.py"), _INIT_LIMIT).decode("utf-8", "replace"))
        except OSError as error:
            self._unknown("torch", f"what torch loads is unknown: {error.strerror or error}")
            return
        wrong = self._global_deps(f"{folder}/lib/libtorch_global_deps.so", plan, torch)
        extension = next(iter(self.disk.matching(folder, _TORCH_C)), None)
        if not wrong and extension is not None:
            interpreter = next((one for one in self.linker.objects if _is_libpython(one)), None)
            wrong = _faults(self.linker.load(extension, interpreter or self.caller))
        self.wrong += wrong
        if wrong:
            self.linker.unsure = self.linker.unsure or "torch itself cannot be imported"

    def _global_deps(self, path: str, plan: Plan, torch: Torch) -> list[Linked]:
        """What ``_load_global_deps`` fails on."""
        if self.disk.identity(path) is None:  # conda's torch may have it in the prefix alone
            return []
        wrong = _faults(self.linker.load(path, self.caller))
        if wrong and self._is_about(wrong, plan.rescue):
            missing = self._not_there(wrong, plan, torch)
            # The first one that is not there ends the import, whatever the others are.
            return missing or self._preload(plan.rescue, plan, torch) or _faults(self.linker.load(path, self.caller))
        if not wrong and any(plan.mapped in one.path for one in self.linker.objects):
            self._preload(plan.always, plan, torch)
        return wrong

    def _is_about(self, wrong: list[Linked], preloads: tuple[Preload, ...]) -> bool:
        """torch looks for a CUDA library's name in the message, which names what is missing or what lacks a symbol."""
        names = {one.pattern.partition(".")[0] for one in preloads}
        words = " ".join(one.needed_by if one.lacks else one.soname for one in wrong[:1])
        return any(name in words for name in names)

    def _not_there(self, wrong: list[Linked], plan: Plan, torch: Torch) -> list[Linked]:
        """What torch looks for in the packages and does not find; by the full name where its libraries need it."""
        lost = [one for one in plan.rescue if one.required and self._place(one, plan, torch) is None]
        stems = tuple(one.pattern.partition("*")[0] for one in lost)
        named = [one for one in wrong if one.path is None and one.soname.startswith(stems)] if stems else []
        because = "torch needs it, and it is in no nvidia package of this environment"
        others = [stem.rstrip(".") for stem in stems]
        return named or [Linked(soname=one, needed_by=torch.path, answer="no", because=because) for one in others]

    def _preload(self, preloads: tuple[Preload, ...], plan: Plan, torch: Torch) -> list[Linked]:
        """Open each in turn, until one that is required is not there or one cannot be opened, which is given."""
        for one in preloads:
            path = self._place(one, plan, torch)
            if path is None and one.required:
                break
            wrong = _faults(self.linker.load(path, self.caller)) if path else []
            if wrong:
                return wrong
        return []

    def _place(self, one: Preload, plan: Plan, torch: Torch) -> str | None:
        """The file of a preload: the first folder of ``sys.path`` decides that has any."""
        pattern = re.compile(re.escape(one.pattern).replace(r"\*", "[^/]*").replace(r"\[0\-9\]", "[0-9]"))
        for path in self.search:
            folders = [f"{path}/nvidia/{one.folder}/lib"]
            if plan.with_major and torch.cuda:
                folders.append(f"{path}/nvidia/cu{torch.cuda.partition('.')[0]}/lib")
            for folder in (*folders, f"{path}/{one.folder}/lib"):
                found = self.disk.matching(folder, pattern)
                if found:
                    return found[0]
        return None

    def _unknown(self, fact: str, reason: str) -> None:
        self.unknown.append((fact, reason))
        self.linker.unsure = self.linker.unsure or reason


def _is_libpython(one: Object) -> bool:
    return bool(_LIBPYTHON.fullmatch(posixpath.basename(one.path)))


def _faults(needs: list[Linked]) -> list[Linked]:
    return [one for one in needs if one.answer == "no"]
