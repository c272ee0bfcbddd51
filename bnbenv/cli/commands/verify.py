"""``bnbenv verify``: run real kernels in an environment and hold the results against references."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from bnbenv.cli.command import Context, Outcome
from bnbenv.errors import Exit, Failed, RebootRequired, UsageError
from bnbenv.paths import expand
from bnbenv.solve.model import FamilyName

if TYPE_CHECKING:
    from bnbenv.facts.model import HostFacts

SUMMARY = """\
Run the kernels of torch and bitsandbytes, and compare each result with a
reference computed independently: 8-bit and 4-bit quantization in every block
size and float type, 4-bit and int8 products, the 8-bit AdamW, a QLoRA step.
Where transformers and accelerate are installed, also a small model, made on the
spot without network: loaded in 4 and in 8 bits, run, made to generate text, and
trained with LoRA adapters where peft is installed.

An environment of the family gptq or awq: a small layer is quantized and packed
by its own package, decoded independently, and multiplied by the kernels that
the package takes on this device. Of the family none: torch's own products.

One process per GPU or MIG slice, each with a time limit; on a host without a
GPU the CPU library is run. --python takes any environment, one that bnbenv did
not make too. CUDA_VISIBLE_DEVICES, if set, says which GPUs may be used."""
EXAMPLE = "bnbenv verify --python ~/venvs/train/bin/python --device 0"
EXITS = (
    "0 every result is right, 1 there is no environment yet, 2 no such Python or device, 5 a result is "
    "wrong or a kernel died, 6 reboot required"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--env", metavar="NAME", help="the environment of this project (default: bnb)")
    which.add_argument("--python", metavar="PATH", help="an environment's Python, or its folder")
    parser.add_argument(
        "--family",
        choices=get_args(FamilyName),
        help="what to verify (default: what the environment is for; with --python, what is installed there)",
    )
    parser.add_argument(
        "--device",
        metavar="WHICH",
        action="append",
        help='"cpu", an index, or a UUID of a GPU or MIG slice; may be given more than once (default: all GPUs)',
    )
    parser.add_argument(
        "--timeout", metavar="S", type=_seconds, help="time limit for each device in seconds (default: 180, or 360)"
    )


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    """The report as a document; exit 0 or 5.

    Raises UsageError for a Python or device that is not there, RebootRequired where the driver is half upgraded.
    """
    import msgspec

    from bnbenv.cli.common import facts_of
    from bnbenv.redact import redact
    from bnbenv.verify.run import devices_for, verify_environment

    python, decided, family, changes = _environment(args, ctx)
    facts = facts_of(ctx)
    selection = tuple(args.device or ()) or decided or _default(facts, ctx)
    if any(word != "cpu" for word in selection):
        _stop_on_mismatch(facts)
    devices = devices_for(facts, selection)
    wished: FamilyName | None = args.family or family
    families = (wished,) if wished else _installed(python, ctx)
    report = verify_environment(
        python,
        devices,
        ctx.runner,
        family=families[0],
        limit_seconds=args.timeout,
        environ=changes,
        progress=ctx.progress,
    )
    if families[1:]:
        more = f"packages of other families are installed too: --family {' or '.join(families[1:])} verifies them"
        report = msgspec.structs.replace(report, warnings=(*report.warnings, more))
    document: dict[str, Any] = msgspec.to_builtins(report)
    for device in document["devices"]:
        if device["died"]:
            device["died"]["stderr"] = redact(device["died"]["stderr"])
    return Outcome(Exit.DONE if report.ok else Exit.VERIFY_FAILED, document)


def _seconds(text: str) -> float:
    """A positive number of seconds, at most a day."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError(f'expected a number of seconds, found "{text}"')
    return value


def _installed(python: Path, ctx: Context) -> tuple[FamilyName, ...]:
    """The families of which packages are installed; bitsandbytes where there are none, and its steps then say so."""
    from bnbenv.verify.families import installed_families

    return installed_families(python, ctx.runner) or ("bitsandbytes",)


def _environment(
    args: argparse.Namespace, ctx: Context
) -> tuple[Path, tuple[str, ...], FamilyName | None, dict[str, str | None]]:
    """The interpreter, the devices that the environment was made for (none known: empty), its family, and variables."""
    if args.python is not None:
        return _interpreter(ctx.cwd / expand(args.python)), (), None, {}
    from bnbenv.cli.common import project_of
    from bnbenv.envs.check import in_use
    from bnbenv.envs.project import DEFAULT_ENV, env_python

    project = project_of(args, ctx)
    env = args.env or DEFAULT_ENV
    use = in_use(project, env)
    if use.record is None:
        because = use.problem.because if use.problem else f"there is no environment {env}"
        raise Failed("no-environment", because, "Make it with: bnbenv sync, or name another one with --python PATH")
    from bnbenv.matrix.load import load_families
    from bnbenv.verify.families import family_decided

    decision = use.record.decision
    devices = ("cpu",) if decision.get("backend") == "cpu" else tuple(decision.get("visible_devices") or ())
    family = family_decided(decision.get("choice"), load_families())
    # Nothing is written into one that was adopted, not even bytecode.
    changes: dict[str, str | None] = {"PYTHONDONTWRITEBYTECODE": "1"} if use.record.adopted or use.record.base else {}
    return env_python(project.link(env)), devices, family, changes


def _interpreter(path: Path) -> Path:
    """The Python itself; of a folder, the one in it. Links are kept: a virtual environment's Python is one."""
    if path.is_dir():
        path = path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not path.is_file():
        raise UsageError("no-such-python", f"there is no Python {path}", "Give the path of an environment's Python.")
    return path


def _default(facts: HostFacts, ctx: Context) -> tuple[str, ...]:
    from bnbenv.verify.devices import default_selection

    _stop_on_mismatch(facts)
    return default_selection(facts, ctx.environ)


def _stop_on_mismatch(facts: HostFacts) -> None:
    """No GPU can be used before the reboot, and the CPU instead would prove nothing."""
    driver = facts.driver
    if driver.state == "mismatch":
        versions = f"({driver.kernel_module or 'unknown'}) and the driver library ({driver.userland or 'unknown'})"
        message = f"the NVIDIA kernel module {versions} differ: no GPU can be used"
        raise RebootRequired("reboot-required", message, "Reboot, then run: bnbenv verify")
