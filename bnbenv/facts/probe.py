"""Finds out what this host is.

Sources for driver and GPUs, in this order, each bounded in time: NVML (in a child process), the kernel's files under
/proc and /sys, ``nvidia-smi --query-gpu``. torch is never imported. Every fact that is missing says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bnbenv.facts import kernel
from bnbenv.facts.driver import Seen, judge
from bnbenv.facts.gpus import list_gpus
from bnbenv.facts.host import HostPort, jetson_gpu, read_platform, system_memory
from bnbenv.facts.model import Driver, Gpu, HostFacts, Platform, Unknown
from bnbenv.facts.nvml import LIMIT, ask_nvml
from bnbenv.facts.pythons import find_pythons
from bnbenv.facts.smi import ask_smi
from bnbenv.facts.toolkits import find_toolkits
from bnbenv.paths import Sysroot
from bnbenv.process import Runner

ENVIRONMENT = (
    "BNB_CUDA_VERSION",
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_DEVICE_ORDER",
    "NVIDIA_VISIBLE_DEVICES",
    "CONDA_PREFIX",
    "VIRTUAL_ENV",
    "PYTHONPATH",
)


def probe_host(
    environ: Mapping[str, str],
    sysroot: Sysroot,
    runner: Runner,
    port: HostPort | None = None,
    limit: float = LIMIT,
) -> HostFacts:
    """The facts of this host. ``limit`` is the time in seconds for each driver query; nothing a driver does raises."""
    port = port or HostPort.current()
    platform, platform_gaps = read_platform(environ, sysroot, runner, port)
    driver, gpus, driver_gaps = _driver_and_gpus(environ, sysroot, runner, port, limit, platform)
    pythons, python_gaps = find_pythons(environ, runner, port.interpreter, port.system)
    toolkits, toolkit_gaps = find_toolkits(environ, sysroot, runner)
    return HostFacts(
        platform=platform,
        driver=driver,
        gpus=gpus,
        pythons=pythons,
        toolkits=toolkits,
        environment={name: environ.get(name) for name in ENVIRONMENT},
        unknown=(*driver_gaps, *platform_gaps, *python_gaps, *toolkit_gaps),
    )


def _driver_and_gpus(
    environ: Mapping[str, str],
    sysroot: Sysroot,
    runner: Runner,
    port: HostPort,
    limit: float,
    platform: Platform,
) -> tuple[Driver, tuple[Gpu, ...], tuple[Unknown, ...]]:
    answer = ask_nvml(environ, sysroot, runner, limit, port.system)
    seen = Seen.read(environ, sysroot, answer, port.system)
    if seen.wants_smi and port.system != "darwin":
        seen = replace(seen, smi=ask_smi(environ, sysroot, runner, limit, port.system))
    driver, gaps = judge(seen)
    memory = system_memory(sysroot)
    gpus, gpu_gaps = list_gpus(seen, kernel.kernel_gpus(sysroot), memory, platform.container is not None)
    if platform.jetson and not gpus and driver.state != "mismatch":
        built_in = jetson_gpu(sysroot)
        if built_in is not None:
            return _jetson(driver, built_in, platform.jetson)
    if not gpus and not gpu_gaps and driver.state != "ok":  # a driver that works and lists none is an answer
        gpu_gaps = (Unknown("gpus", gaps[0].reason),)
    return driver, gpus, (*gaps, *gpu_gaps)


def _jetson(driver: Driver, gpu: Gpu, release: str) -> tuple[Driver, tuple[Gpu, ...], tuple[Unknown, ...]]:
    """A Jetson whose NVML is missing or knows no GPU: its driver is part of L4T, its GPU part of the chip."""
    # Through L4T 35 the module names the release of L4T (35.3.1), which is no version of a driver.
    module = None if driver.kernel_module == release else driver.kernel_module
    driver = Driver("ok", module, module, driver.userland, source="device-tree")
    reason = "the driver of a Jetson is part of L4T and does not tell"
    missing = [name for name in ("version", "kernel_module", "userland", "cuda") if getattr(driver, name) is None]
    gaps = [Unknown(f"driver.{name}", reason) for name in missing]
    gaps.append(Unknown("gpus[0].uuid", "the device tree knows none"))
    return driver, (gpu,), tuple(gaps)
