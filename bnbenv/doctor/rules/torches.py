"""torch and Python: the build, its fit to the GPUs and to bitsandbytes, and the platform."""

from __future__ import annotations

from bnbenv.doctor.model import Verdict
from bnbenv.doctor.rules.case import NO, Case, Rule, absent, unknown, yes
from bnbenv.facts.model import Gpu
from bnbenv.solve.coverage import ptx_for, sass_for
from bnbenv.solve.rules import compiles_ptx, ptx_need
from bnbenv.solve.versions import admits, is_version, requirement_on

OTHER_PYTHON = "built for Python"  # in the fault of a torch whose extension module is for another one

# From which torch on its compiler works with a Python. Sources: pytorch issues 120233 and 144048.
COMPILER = {"3.12": "2.4", "3.13": "2.6"}


def missing(case: Case) -> Verdict:
    found = case.examination
    if found.target.kind == "none" or found.torch is not None or found.bitsandbytes is None:
        return NO
    return absent(case, f"bitsandbytes {case.bitsandbytes or 'of unknown version'} is in {found.bitsandbytes.path}")


def damaged(case: Case) -> Verdict:
    torch = case.examination.torch
    if torch is None or torch.fault is None or OTHER_PYTHON in torch.fault:
        return NO
    return yes(f"{torch.path}: {torch.fault}")


def python_abi(case: Case) -> Verdict:
    """Extension modules for another Python, or a bitsandbytes that does not take this one."""
    found = case.examination
    torch, version = found.torch, found.target.version
    if torch is not None and torch.fault is not None and OTHER_PYTHON in torch.fault:
        return yes(f"torch {torch.version or ''} in {torch.path}: {torch.fault}".replace("  ", " "))
    if version is None:
        return unknown("the version of this environment's Python is not known") if torch is not None else NO
    row = next((one for one in case.matrix.bitsandbytes if one.version == case.bitsandbytes), None)
    spec = row.requires_python if row is not None else None
    if spec and is_version(version) and not admits(spec, version, pre=True):
        return yes(f"bitsandbytes {case.bitsandbytes} needs Python {spec}; this is {version}")
    return NO


def compiler(case: Case) -> Verdict:
    torch, version = case.torch, case.examination.target.version
    if torch is None or version is None or not is_version(torch):
        return NO
    need = COMPILER.get(".".join(version.split(".")[:2]))
    if need is None or admits(f">={need}", torch, pre=True):
        return NO
    return yes(f"torch.compile works with Python {version} from torch {need} on; this is {torch}")


def rocm(case: Case) -> Verdict:
    torch, facts = case.examination.torch, case.examination.facts
    if torch is None or torch.hip is None or not facts.gpus:
        return NO
    return yes(f"torch {torch.version} is a build for ROCm {torch.hip}", f"GPU {_called(facts.gpus[0])}")


def cuda_on_amd(case: Case) -> Verdict:
    torch, found = case.examination.torch, case.examination.conditions
    if torch is None or torch.cuda is None or case.examination.facts.gpus or "amd-gpu" not in found:
        return NO
    return yes(f"torch {torch.version} is for CUDA {torch.cuda}", found["amd-gpu"])


def cpu_build(case: Case) -> Verdict:
    """Beside GPUs that the driver shows; an environment that was made for the CPU is as it should be."""
    torch, facts = case.examination.torch, case.examination.facts
    if torch is None or torch.cuda is not None or torch.hip is not None or case.for_cpu:
        return NO
    if torch.fault is not None and torch.version is None:
        return NO
    if case.made_for == "cuda":
        return yes(f"torch {torch.version} has no CUDA", "this environment was made for NVIDIA GPUs")
    if not facts.gpus or facts.driver.state == "absent":
        return NO
    return yes(f"torch {torch.version} has no CUDA", f"GPU {_called(facts.gpus[0])} is here")


def requirement(case: Case) -> Verdict:
    wheel, torch = case.examination.package("bitsandbytes"), case.examination.torch
    spec = requirement_on("torch", wheel.requires_dist) if wheel is not None else None
    if wheel is None or torch is None or not spec:
        return NO
    if torch.version is None or not is_version(torch.version):
        return NO if torch.fault else unknown("the version of torch is not known, so whether it fits is not either")
    if admits(spec, torch.version, pre=True):
        return NO
    return yes(f"bitsandbytes {wheel.version} requires torch{spec}; torch {torch.version} is here")


def lacks_gpu(case: Case) -> Verdict:
    torch = case.examination.torch
    if torch is None or torch.cuda is None or torch.fault is not None:
        return NO
    gpus = case.visible()
    if gpus and not torch.arch_list:
        return unknown("for which GPUs torch was compiled could not be read")
    bare = [gpu for gpu in gpus if not runs(case, gpu, torch.arch_list, torch.cuda)]
    if not bare:
        return NO
    have = " ".join(torch.arch_list)
    return yes(
        *(f"GPU {_called(gpu)}: {_why(case, gpu, torch.arch_list, torch.cuda)}" for gpu in bare), f"it has {have}"
    )


def runs(case: Case, gpu: Gpu, names: tuple[str, ...], cuda: str | None) -> bool:
    """Whether code for these architectures runs on a GPU with the driver that is here."""
    if sass_for(gpu.capability, names):
        return True
    return ptx_for(gpu.capability, names) is not None and compiles_ptx(case.situation, cuda or "")


def _why(case: Case, gpu: Gpu, names: tuple[str, ...], cuda: str | None) -> str:
    if ptx_for(gpu.capability, names) is None:
        return "no code for it"
    return f"only PTX for it, {ptx_need(case.situation, cuda)}"


def _called(gpu: Gpu) -> str:
    return f"{gpu.index} ({gpu.name or 'no name'}, {gpu.arch})"


def jetson(case: Case) -> Verdict:
    """NVIDIA's own torch is built for the module's GPU; a wheel for servers has no CUDA, or no code for it."""
    facts, torch = case.examination.facts, case.examination.torch
    if not facts.platform.jetson or torch is None or case.for_cpu:
        return NO
    where = f"this is a Jetson with L4T {facts.platform.jetson}"
    if torch.cuda is None:
        return yes(where, f"torch {torch.version} has no CUDA")
    bare = [gpu for gpu in facts.gpus if torch.arch_list and not sass_for(gpu.capability, torch.arch_list)]
    return yes(where, f"torch {torch.version} has no code for {bare[0].arch}") if bare else NO


def musl(case: Case) -> Verdict:
    libc, wheel = case.examination.facts.platform.libc, case.examination.bitsandbytes
    if libc is None or libc.name != "musl" or wheel is None:
        return NO
    return yes(f"this system has musl {libc.version}", f"bitsandbytes {case.bitsandbytes} is built for glibc")


TORCHES = (
    Rule("musl-libc", musl),
    Rule("jetson-wheel", jetson),
    Rule("python-abi", python_abi),
    Rule("python-compiler", compiler),
    Rule("torch-missing", missing),
    Rule("torch-damaged", damaged),
    Rule("torch-rocm", rocm),
    Rule("cuda-torch-on-amd", cuda_on_amd),
    Rule("torch-cpu-build", cpu_build),
    Rule("torch-requirement", requirement),
    Rule("torch-lacks-gpu", lacks_gpu),
)
