"""The recorded hosts: each can be read and is what its folder's name says; one with a replay.json is probed again."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from bnbenv.facts.host import HostPort
from bnbenv.facts.model import HostFacts, decode_facts, encode_facts
from bnbenv.facts.probe import probe_host
from bnbenv.matrix.drivers import unsupported
from bnbenv.matrix.load import load_hardware
from bnbenv.paths import Sysroot
from bnbenv.process import SystemRunner

HOSTS = Path(__file__).parent.parent / "hosts"
NAMES = sorted(folder.name for folder in HOSTS.iterdir() if folder.is_dir())
REPLAYED = [name for name in NAMES if (HOSTS / name / "replay.json").exists()]
NAME = re.compile(
    r"(?P<os>[a-z]+)-(?P<machine>x86_64|aarch64)__(?P<driver>[a-z0-9.]+)__(?P<gpus>[a-z0-9+-]+?)(?:__(?P<rest>.+))?"
)


def recorded(name: str) -> HostFacts:
    path = HOSTS / name / "facts.json"
    return decode_facts(path.read_bytes(), str(path))


def replay(description: dict[str, Any], folder: Path, nvml_stub: Any) -> HostFacts:
    """Lay the description out as files and programs below ``folder``, then probe that host for real.

    ``files`` and ``links`` are laid out below a sysroot, ``nvml`` is a configuration of the stand-in library
    (``nvml_file`` the version in its file name), ``smi`` what a program called nvidia-smi prints, and its exit code.
    """
    root, programs = folder / "root", folder / "bin"
    programs.mkdir(parents=True)
    root.mkdir()
    for name, text in description.get("files", {}).items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if text.startswith("#!"):
            path.chmod(0o755)
    for name, target in description.get("links", {}).items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    if "smi" in description:
        text, code = description["smi"]["stdout"], description["smi"]["exit"]
        program = programs / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\nexit {code}\n")
        program.chmod(0o755)
    environ = {"PATH": f"{programs}:{os.defpath}", "WINDIR": str(root / "Windows"), **description.get("environ", {})}
    if "nvml" in description:
        environ |= nvml_stub.environment("\n".join(description["nvml"]) + "\n", description.get("nvml_file"))
    port = HostPort(description["system"], description["machine"], description.get("glibc"))
    return probe_host(environ, Sysroot(root), SystemRunner(), port, limit=description.get("limit", 20.0))


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_host_is_what_its_folder_is_called(name: str) -> None:
    facts = recorded(name)
    match = NAME.fullmatch(name)
    assert match is not None
    assert (facts.platform.os, facts.platform.machine) == (match["os"], match["machine"])
    if match["driver"][0].isdigit():
        assert (facts.driver.state, facts.driver.version) == ("ok", match["driver"])
    else:
        assert facts.driver.state == match["driver"]
    archs = [] if match["gpus"] == "nogpu" else [part.rsplit("-", 1)[1] for part in match["gpus"].split("+")]
    assert sorted({gpu.arch.replace("_", "") for gpu in facts.gpus}) == sorted(set(archs))
    libc, rest = facts.platform.libc, match["rest"] or ""
    assert (facts.platform.os == "linux") == (libc is not None)
    assert facts.platform.wsl == ("wsl" in rest)
    assert (f"jetson{facts.platform.jetson}" in rest) == (facts.platform.jetson is not None)
    assert any(gpu.mig is not None for gpu in facts.gpus) == ("mig" in rest)
    if libc is not None and ("glibc" in rest or "musl" in rest):
        assert f"{libc.name}{libc.version}" in rest
    assert (facts.platform.container or "") in rest
    if "python" in rest:
        named = rest.split("python")[1]
        assert [".".join(python.version.split(".")[:2]) for python in facts.pythons] == ([named] if named else [])


def test_there_are_many_recorded_hosts_and_each_has_an_expected_answer() -> None:
    cases = HOSTS.parent.joinpath("cases", "solve").glob("*/case.toml")
    expected = {
        line.split('"')[1] for case in cases for line in case.read_text().splitlines() if line.startswith("host")
    }
    assert len(NAMES) >= 60
    assert sorted(set(NAMES) - expected) == []


def test_recorded_gpus_are_what_the_matrix_says_of_them() -> None:
    _, archs = load_hardware()
    by_capability = {row.compute_capability: row for row in archs}
    products = {product: row.arch for row in archs for product in row.products}
    wrong = set()
    for name in NAMES:
        facts = recorded(name)
        windows = facts.platform.os == "windows" or facts.platform.wsl
        for gpu in facts.gpus:
            product = gpu.name.removeprefix("NVIDIA ")
            if products.setdefault(product, gpu.arch) != gpu.arch or gpu.compute_capability not in by_capability:
                wrong.add(f"{name}: {product} is no {gpu.arch}")
            why = unsupported(by_capability[gpu.compute_capability], facts.driver.version, windows)
            if why is not None and facts.platform.jetson is None:
                wrong.add(f"{name}: {why.because}")
    assert wrong == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_host_survives_writing_and_reading(name: str) -> None:
    facts = recorded(name)
    assert decode_facts(encode_facts(facts), name) == facts


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_host_says_what_it_is_modelled_on_and_why_facts_are_missing(name: str) -> None:
    document = json.loads((HOSTS / name / "facts.json").read_bytes())
    assert document["about"]
    explained = {entry["fact"] for entry in document["unknown"]}
    missing = {
        f"driver.{key}" for key in ("version", "kernel_module", "userland", "cuda") if not document["driver"][key]
    }
    assert missing <= explained
    if not document["gpus"]:
        assert "gpus" in explained
    if document["driver"]["state"] in ("mismatch", "error"):
        assert "driver" in explained


@pytest.mark.parametrize("name", REPLAYED)
def test_probing_a_replayed_host_gives_its_facts(name: str, tmp_path: Path, nvml_stub: Any) -> None:
    description = json.loads((HOSTS / name / "replay.json").read_bytes())
    expected, found = recorded(name), replay(description, tmp_path, nvml_stub)
    assert found.platform == expected.platform
    assert found.driver == expected.driver
    assert found.gpus == expected.gpus

    def about_hardware(facts: HostFacts) -> list[tuple[str, str]]:
        entries = [(entry.fact, entry.reason) for entry in facts.unknown]
        return sorted(entry for entry in entries if entry[0].startswith(("driver", "gpus", "platform")))

    # the prefix of this run stands in some reasons
    assert [(fact, reason.replace(str(tmp_path / "root"), "ROOT")) for fact, reason in about_hardware(found)] == (
        about_hardware(expected)
    )
