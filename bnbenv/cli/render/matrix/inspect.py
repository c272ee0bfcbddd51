"""How ``bnbenv matrix inspect`` looks: of each package what it is and whether it would run, then its libraries."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.matrix.words import targets
from bnbenv.cli.render.text import listed, wrap

_SYSTEMS = {"linux": "Linux", "windows": "Windows", "macos": "macOS"}
_BACKENDS = {"cpu": "CPU", "rocm": "ROCm", "xpu": "XPU", "cuda": "CUDA"}
# What every library links says nothing about it.
_COMMON = ("libc.", "libm.", "libdl.", "librt.", "libpthread.", "libgcc_s.", "libstdc++.", "ld-linux", "kernel32")
_MOST = 6


def render(document: dict[str, Any], elsewhere: bool = False) -> str:
    """``elsewhere``: judged by recorded facts."""
    here = "there" if elsewhere else "here"
    blocks = [_package(package, here) for package in document["packages"]]
    machine = wrap(f"judged for: {_host(document['host'])}")
    return "\n\n".join("\n".join(block) for block in [*blocks, machine])


def _host(host: dict[str, Any]) -> str:
    driver = host["driver"]
    states = {"absent": "no NVIDIA driver", "mismatch": "reboot required", "error": "NVIDIA driver does not work"}
    parts = [
        f"{_SYSTEMS.get(host['os'], host['os'])} {host['machine']}",
        host["libc"],
        states.get(driver["state"], f"driver {driver['version'] or 'unknown'}"),
    ]
    groups: dict[str, list[int]] = {}
    for gpu in host["gpus"]:
        groups.setdefault(f"{gpu['name'] or 'unnamed'} ({gpu['arch']})", []).append(gpu["index"])
    parts += [f"{_gpu_words(gpus)} {name}" for name, gpus in groups.items()]
    return ", ".join(part for part in parts if part)


def _package(package: dict[str, Any], here: str) -> list[str]:
    libraries = package["libraries"]
    if package["name"] is None and len(libraries) == 1 and not package["unreadable"]:
        sentences = _library(libraries[0], here)
        return wrap(f"{_title(package)}: {_kind(libraries[0])}") + [
            line for sentence in sentences for line in wrap(sentence, "  ")
        ]
    sentences = _against(package["answers"], here)
    if package["arch_list"] is not None:
        sentences = _answers(package["answers"], here)
        code = f"CUDA {package['cuda']}, {targets(package['arch_list'])}" if package["cuda"] else "for the CPU alone"
        sentences.append(code)
    elif libraries:
        sentences.append(_summary(libraries, here))
    for library in libraries:
        if library["name"] == package["loads"]:
            beside = next(one["because"] for one in package["answers"] if one["about"] == "loader")
            sentences = [beside, *_answers(library["answers"], here), *sentences]
    if package["requires_python"]:
        sentences.append(f"asks for Python {package['requires_python']}")
    if package["name"] is not None:
        sentences.append(f"read from {package['place']}")
    lines = wrap(_title(package)) + [line for sentence in sentences for line in wrap(sentence, "  ")]
    for names, library in _grouped(libraries):
        lines += ["", *wrap(f"{_first(names)}: {_kind(library)}")]
        lines += [line for sentence in _library(library, here) for line in wrap(sentence, "  ")]
    for one in package["unreadable"]:
        lines += ["", *wrap(f"{one['name']}: passed over"), *wrap(one["because"], "  ")]
    return lines


def _first(names: list[str]) -> str:
    """Not more names than one reads; --json has all."""
    return ", ".join(names) if len(names) <= _MOST else f"{', '.join(names[:_MOST])} and {len(names) - _MOST} others"


def _title(package: dict[str, Any]) -> str:
    words = [f"{package['name']} {package['version']}" if package["name"] else package["place"]]
    if package["os"]:
        machine = "any machine" if package["machine"] == "any" else package["machine"]
        words.append(f"for {_SYSTEMS.get(package['os'], package['os'])} {machine}")
    if package["libc_tag"]:
        words.append(f"glibc {package['libc_tag']} by its tag")
    return ", ".join(words)


def _summary(libraries: list[dict[str, Any]], here: str) -> str:
    """How many of the libraries with GPU code run, on each GPU."""
    if not any(_runs(one, None) for one in libraries):
        return f"none of its libraries would run {here}"
    code = [one for one in libraries if one["sass"] or one["ptx"]]
    if not code:
        return "no library in it holds code for NVIDIA GPUs"
    gpus = sorted({answer["gpu"] for one in code for answer in one["answers"] if answer["gpu"] is not None})
    if not gpus:
        return f"{len(code)} of {len(libraries)} libraries hold code for NVIDIA GPUs"
    counts: dict[int, list[int]] = {}
    for gpu in gpus:
        counts.setdefault(sum(_runs(one, gpu) for one in code), []).append(gpu)
    told = [f"{count} of {len(code)} on {_gpu_words(which)}" for count, which in counts.items()]
    return f"of its libraries with GPU code would run {here}: {', '.join(told)}"


def _runs(library: dict[str, Any], gpu: int | None) -> bool:
    """On one GPU, or as far as no GPU is asked about."""
    asked = [one for one in library["answers"] if one["about"] != "gpu" or (gpu is not None and one["gpu"] == gpu)]
    return all(one["answer"] == "yes" if one["about"] == "gpu" else one["answer"] != "no" for one in asked)


def _kind(library: dict[str, Any]) -> str:
    if library["backend"] == "cuda" and library["cuda"]:
        return f"CUDA {library['cuda']}"
    return _BACKENDS[library["backend"]]


def _grouped(libraries: list[dict[str, Any]]) -> list[tuple[list[str], dict[str, Any]]]:
    """Libraries of which the same is said stand together."""
    found: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for library in libraries:
        rest = {key: value for key, value in library.items() if key != "name"}
        found.setdefault(repr(rest), ([], library))[0].append(library["name"])
    return list(found.values())


def _library(library: dict[str, Any], here: str) -> list[str]:
    sentences = []
    if library["sass"] or library["ptx"]:
        parts = [f"SASS {targets(library['sass'])}"] if library["sass"] else []
        parts += [f"PTX {targets(library['ptx'])}"] if library["ptx"] else []
        sentences.append(", ".join(parts))
    needs = [f"glibc {library['glibc']}"] if library["glibc"] else []
    needs += [f"GLIBCXX {library['glibcxx']}"] if library["glibcxx"] else []
    needs += [name for name in library["needed"] if not name.lower().startswith(_COMMON)]
    if needs:
        sentences.append(f"needs {', '.join(needs)}")
    return sentences + _answers(library["answers"], here)


def _against(answers: list[dict[str, Any]], here: str) -> list[str]:
    """What stands against it as a whole, or might."""
    words = {"no": "would not run", "unknown": "unknown whether it runs"}
    return [
        f"{words[one['answer']]} {here}: {one['because']}"
        for one in answers
        if one["gpu"] is None and one["answer"] in words
    ]


def _answers(answers: list[dict[str, Any]], here: str) -> list[str]:
    """What stands against it as a whole, else each GPU, else that nothing is known against it."""
    told = _against(answers, here)
    if any(one["answer"] == "no" for one in answers if one["gpu"] is None):
        return told
    groups: dict[tuple[str, str], list[int]] = {}
    for one in answers:
        if one["gpu"] is not None:
            groups.setdefault((one["answer"], one["because"]), []).append(one["gpu"])
    words = {"yes": "runs", "no": "would not run:", "unknown": "unknown:"}
    told += [f"{_gpu_words(gpus)}: {words[answer]} {because}" for (answer, because), gpus in groups.items()]
    return told or ([f"nothing known stands against it {here}"] if answers else [])


def _gpu_words(gpus: list[int]) -> str:
    if len(gpus) > 2 and gpus == list(range(gpus[0], gpus[-1] + 1)):
        return f"GPU {gpus[0]} to {gpus[-1]}"
    return f"GPU {listed([str(gpu) for gpu in gpus])}"
