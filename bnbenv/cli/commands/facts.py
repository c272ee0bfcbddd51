"""``bnbenv facts``: what this host is."""

from __future__ import annotations

import argparse
import json

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import facts_of
from bnbenv.errors import Exit

SUMMARY = """\
Say what this host is: NVIDIA driver, GPUs, C library, Pythons, CUDA toolkits.

The driver is asked through NVML, then the kernel's files, then nvidia-smi, each
with a time limit; torch is not needed. What cannot be found out is listed with
the reason. With --json the output is a file that --facts and BNBENV_FACTS take,
here or on another machine."""
EXAMPLE = "bnbenv facts --json > gpu-box.json && bnbenv solve --facts gpu-box.json"
EXITS = "0 done (whatever the facts are), 2 a facts file cannot be read"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("--facts", metavar="FILE", help="show recorded facts instead of probing; - is standard input")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    """The facts as a document; exit 0 whatever they are. Raises InputError for a facts file that cannot be read."""
    from bnbenv.facts.model import encode_facts

    facts = facts_of(ctx, args.facts)
    return Outcome(Exit.DONE, json.loads(encode_facts(facts)))
