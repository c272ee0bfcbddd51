"""The driver, and what keeps programs from the GPUs."""

from __future__ import annotations

from bnbenv.doctor.examine.devices import visible
from bnbenv.doctor.model import Verdict
from bnbenv.doctor.rules.case import NO, VISIBLE, Case, Rule, place, unknown, yes
from bnbenv.facts.model import Gpu
from bnbenv.matrix.drivers import number, too_old, unsupported


def reboot(case: Case) -> Verdict:
    driver = case.examination.facts.driver
    if driver.state != "mismatch":
        return NO
    module, library = driver.kernel_module or "of unknown version", driver.userland or "of unknown version"
    return yes(f"the kernel module is {module}, the driver library is {library}")


def _conditions(case: Case, *names: str) -> Verdict:
    """Yes where the machine has one of these conditions."""
    found = case.examination.conditions
    evidence = [found[name] for name in names if name in found]
    return yes(*evidence) if evidence else NO


def container(case: Case) -> Verdict:
    """A container without GPUs is an ordinary one, unless the host has a driver or somebody wanted GPUs."""
    facts = case.examination.facts
    if case.for_cpu or facts.driver.state == "ok" or facts.platform.container is None:
        return NO
    if facts.driver.kernel_module is None and case.made_for != "cuda":
        return NO
    return _conditions(case, "container-without-gpu", "container-without-libcuda")


def container_compute(case: Case) -> Verdict:
    return _conditions(case, "container-compute-not-asked") if case.uses_gpus else NO


def module_not_loaded(case: Case) -> Verdict:
    found = _conditions(case, "module-not-loaded", "module-not-built", "secure-boot", "nouveau")
    return found if not case.for_cpu and "module-not-loaded" in case.examination.conditions else NO


def absent(case: Case) -> Verdict:
    facts = case.examination.facts
    if facts.driver.state != "absent" or case.for_cpu:
        return NO
    seen = _conditions(case, "no-driver-installed", "nouveau")
    if seen.answer == "yes":
        return seen
    reason = next((one.reason for one in facts.unknown if one.fact == "driver.version"), "there is no NVIDIA driver")
    if "PCI bus" in reason:
        return yes(reason)
    if case.made_for == "cuda":
        extra = _conditions(case, "login-node", "job-without-gpu", "wsl-no-dxg", "wsl-libcuda-missing")
        return yes("this environment was made for NVIDIA GPUs", reason, *extra.evidence)
    return NO


def error(case: Case) -> Verdict:
    facts = case.examination.facts
    if facts.driver.state != "error" or case.for_cpu:
        return NO
    reason = next((one.reason for one in facts.unknown if one.fact.split(".")[0] == "driver"), None)
    more = _conditions(case, "wsl-no-dxg", "wsl-libcuda-missing", "wsl-not-searched")
    return yes(reason or "the driver answers with an error", *more.evidence)


def lost(case: Case) -> Verdict:
    facts = case.examination.facts
    if facts.driver.state != "ok" or case.for_cpu:
        return NO
    reason = next((one.reason for one in facts.unknown if one.fact == "gpus"), None)
    return yes(reason) if reason else NO


def _unsupported(case: Case, gpu: Gpu, last: bool) -> str | None:
    """Why the driver does not run a GPU: since it is too new for it (``last``), or too old."""
    row = case.situation.archs.get(gpu.compute_capability)
    why = unsupported(row, case.examination.facts.driver.version, case.situation.windows_driver)
    if why is None or (why.last_branch is not None) != last:
        return None
    return f"GPU {gpu.index} ({gpu.name}): {why.because}"


def dropped(case: Case) -> Verdict:
    found = [why for gpu in case.examination.facts.gpus if (why := _unsupported(case, gpu, last=True))]
    return yes(*found) if found else NO


def before_gpu(case: Case) -> Verdict:
    found = [why for gpu in case.examination.facts.gpus if (why := _unsupported(case, gpu, last=False))]
    return yes(*found) if found else NO


def driver_too_old(case: Case) -> Verdict:
    facts, torch = case.examination.facts, case.examination.torch
    if torch is None or torch.cuda is None or facts.driver.state != "ok" or facts.platform.jetson:
        return NO
    version = facts.driver.version
    if version is None:
        if facts.driver.cuda is None:
            return unknown("the version of the NVIDIA driver is not known, so whether it runs torch is not either")
        if number(facts.driver.cuda)[:1] >= number(torch.cuda)[:1]:
            return NO
        return yes(f"torch {torch.version} is for CUDA {torch.cuda}; the driver supports CUDA {facts.driver.cuda}")
    need = too_old(case.matrix.drivers, torch.cuda, version, case.situation.windows_driver)
    if need is None:
        return NO
    return yes(f"torch {torch.version} is for CUDA {torch.cuda}, which needs driver {need} or newer; this is {version}")


def devices_closed(case: Case) -> Verdict:
    found = _conditions(case, "device-files-missing", "devices-no-permission")
    return found if not case.for_cpu else NO


def uvm(case: Case) -> Verdict:
    """nvidia-modprobe makes the device when CUDA starts: it is missing in earnest where torch could not use it."""
    if case.for_cpu or case.examination.facts.platform.container is None:
        return NO
    return _conditions(case, "uvm-missing")


def fabric(case: Case) -> Verdict:
    return _conditions(case, "fabric-manager-not-running") if not case.for_cpu else NO


def compat(case: Case) -> Verdict:
    return _conditions(case, "cuda-compat-older") if not case.for_cpu else NO


def wsl_linux_driver(case: Case) -> Verdict:
    return _conditions(case, "wsl-linux-driver") if not case.for_cpu else NO


def wsl_not_searched(case: Case) -> Verdict:
    return _conditions(case, "wsl-not-searched") if case.uses_gpus else NO


def hidden(case: Case) -> Verdict:
    """Hiding the GPUs from a torch that cannot use them harms nothing."""
    gpus, torch = case.examination.facts.gpus, case.examination.torch
    if not gpus or case.for_cpu or (torch is not None and torch.cuda is None):
        return NO
    if not all(gpu.uuid for gpu in gpus) and any("GPU-" in one.value for one in case.settings(VISIBLE)):
        return unknown("the UUIDs of the GPUs are not known, so what CUDA_VISIBLE_DEVICES names is not either")
    for setting in case.settings(VISIBLE):
        if visible(gpus, setting.value):
            if setting.file is None:
                return NO  # what this process has goes before what files say
        else:
            names = ", ".join(str(gpu.index) for gpu in gpus)
            return yes(f'{VISIBLE} is "{setting.value}" {place(setting)}', f"the GPUs here have the indices {names}")
    return NO


def cuda_without_gpu(case: Case) -> Verdict:
    """A note: the CPU library is used, which works."""
    facts, torch = case.examination.facts, case.examination.torch
    if torch is None or torch.cuda is None or facts.driver.state != "absent" or facts.gpus:
        return NO
    if absent(case).answer == "yes" or container(case).answer == "yes":
        return NO
    more = _conditions(case, "login-node", "job-without-gpu", "container-without-gpu", "wsl-no-dxg")
    return yes(f"torch {torch.version} is for CUDA {torch.cuda}", *more.evidence)


DRIVER = (
    Rule("driver-reboot", reboot),
    Rule("container-without-gpus", container),
    Rule("container-without-compute", container_compute),
    Rule("module-not-loaded", module_not_loaded),
    Rule("driver-absent", absent),
    Rule("driver-error", error),
    Rule("gpu-lost", lost),
    Rule("driver-dropped-gpu", dropped),
    Rule("driver-before-gpu", before_gpu),
    Rule("devices-closed", devices_closed),
    Rule("uvm-missing", uvm),
    Rule("fabric-manager-missing", fabric),
    Rule("cuda-compat-older", compat),
    Rule("wsl-linux-driver", wsl_linux_driver),
    Rule("wsl-not-searched", wsl_not_searched),
    Rule("gpus-hidden", hidden),
    Rule("driver-too-old", driver_too_old),
    Rule("cuda-torch-without-gpu", cuda_without_gpu),
)
