"""What the tests of the solver share: the shipped matrix, hosts and small hand-made matrices, the document's schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

from bnbenv.facts.model import HostFacts, decode_facts
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import (
    BitsandbytesWheel,
    Evidence,
    Level,
    LoaderRule,
    Matrix,
    NativeLibrary,
    TorchBuild,
    TorchSource,
)


class Rows:
    """Builders of rows and hosts with defaults that all fit each other: an A100 with R580 and Python 3.12 on Linux."""

    def __init__(self, shipped: Matrix) -> None:
        self.shipped = shipped

    def host(
        self,
        *gpus: str,
        driver: str | None = "580.65.06",
        glibc: str = "2.36",
        pythons: tuple[str, ...] = ("3.12.3",),
        machine: str = "x86_64",
    ) -> HostFacts:
        document = {
            "schema": "bnbenv.facts/1",
            "platform": {"os": "linux", "machine": machine, "libc": {"name": "glibc", "version": glibc}},
            "driver": {"state": "ok" if driver and gpus else "absent", "version": driver if gpus else None},
            "gpus": [
                {
                    "index": index,
                    "uuid": f"GPU-{index:08x}-0000-0000-0000-000000000000",
                    "name": f"GPU of {capability}",
                    "compute_capability": capability,
                    "memory_total": 85899345920,
                }
                for index, capability in enumerate(gpus)
            ],
            "pythons": [{"path": f"/usr/bin/python{version}", "version": version} for version in pythons],
        }
        return decode_facts(json.dumps(document), "the host")

    def torch(
        self,
        version: str,
        cuda: str | None = "13.0",
        archs: str = "sm_80",
        source: TorchSource = "default-index",
        index: str | None = None,
        level: Level = "measured",
        pythons: tuple[str, ...] = ("cp312",),
    ) -> TorchBuild:
        return TorchBuild(
            version=version,
            source=source,
            os="linux",
            machine="x86_64",
            cuda=cuda,
            arch_list=tuple(archs.split()) if cuda else (),
            pythons=pythons,
            libc_tag="2.28",
            requires_python=None,
            requires_dist=(),
            evidence=Evidence(level, f"torch {version}", "2026-11-21"),
            index=index,
        )

    def wheel(
        self, version: str, libraries: Mapping[str, str], requires: str = "torch>=2.4,<3", python: str = ">=3.10"
    ) -> BitsandbytesWheel:
        """``libraries`` maps ``cuda130`` or ``cpu`` to its targets: ``sm_80 compute_90``."""
        return BitsandbytesWheel(
            version=version,
            filename=f"bitsandbytes-{version}-py3-none-manylinux_2_24_x86_64.whl",
            sha256=f"{version.replace('.', ''):0>64}",
            size=1,
            os="linux",
            machine="x86_64",
            libc_tag="2.24",
            requires_python=python,
            requires_dist=(requires,),
            libraries=tuple(
                NativeLibrary(
                    name=f"libbitsandbytes_{name}.so",
                    backend="cuda" if name.startswith("cuda") else "cpu",
                    sass=tuple(target for target in targets.split() if target.startswith("sm_")),
                    ptx=tuple(target for target in targets.split() if target.startswith("compute_")),
                )
                for name, targets in libraries.items()
            ),
            evidence=Evidence("measured", f"bitsandbytes {version}", "2026-11-21"),
        )

    def matrix(self, *rows: TorchBuild | BitsandbytesWheel) -> Matrix:
        """These rows with the shipped drivers and architectures, and the loaders of 0.45 to 0.49 and of 0.50."""
        return Matrix(
            bitsandbytes=tuple(row for row in rows if isinstance(row, BitsandbytesWheel)),
            torch=tuple(row for row in rows if isinstance(row, TorchBuild)),
            loaders=(
                LoaderRule(
                    versions="<0.50", rule="exact", override="BNB_CUDA_VERSION", nocublaslt=False, source="source"
                ),
                LoaderRule(
                    versions=">=0.50", rule="same-major", override="BNB_CUDA_VERSION", nocublaslt=False, source="source"
                ),
            ),
            drivers=self.shipped.drivers,
            archs=self.shipped.archs,
            advisories=(),
            pytorch_index=self.shipped.pytorch_index,
        )


@pytest.fixture(scope="session")
def shipped() -> Matrix:
    return load_matrix()


@pytest.fixture(scope="session")
def rows(shipped: Matrix) -> Rows:
    return Rows(shipped)


@pytest.fixture(scope="session")
def conforms() -> Callable[[dict[str, Any]], None]:
    """Raises where a document of ``bnbenv solve --json`` is not what its schema says."""
    folder = files("bnbenv") / "schemas"
    schemas = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("solve", "error", "common")}
    registry = Registry().with_resources((one["$id"], Resource.from_contents(one)) for one in schemas.values())
    validators = {name: jsonschema.Draft202012Validator(one, registry=registry) for name, one in schemas.items()}

    def check(document: dict[str, Any]) -> None:
        validators["error" if "error" in document else "solve"].validate(document)

    return check
