"""A requirement that says itself where its package comes from is a place of its own, for that package alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.envs.lockfile import Locked, LockedFile
from bnbenv.envs.provenance import check_sources
from bnbenv.envs.sources import PackageSources
from bnbenv.errors import Failed

NOWHERE = PackageSources(None, (), (), "", no_index=True)
CASES = [
    ("/srv/wheels/pack-1.0-py3-none-any.whl", "Pack @ file:///srv/wheels/pack-1.0-py3-none-any.whl", True),
    ("https://host/pack-1.0.whl", "pack[x] @ https://user:secret@host/pack-1.0.whl ; python_version > '3'", True),
    ("https://host/pack-1.0.whl", "pack @ https://other/pack-1.0.whl", False),
    ("https://host/pack-1.0.whl", "other @ https://host/other-1.0.whl", False),
    ("https://host/pack-1.0.whl", "pack>=1.0", False),
]


@pytest.mark.parametrize(("place", "asked", "own"), CASES)
def test_the_address_of_a_requirement(place: str, asked: str, own: bool) -> None:
    decision: Any = None
    locked = Locked("", decision, {}, {}, {"pack": (LockedFile("archive", place, "0" * 64),)})
    if own:
        check_sources(locked, NOWHERE, asked=(asked,))
    else:
        with pytest.raises(Failed) as caught:
            check_sources(locked, NOWHERE, asked=(asked,))
        assert caught.value.code == "foreign-source"


def test_it_is_installed_from_a_lock_that_stands_in_a_file(
    gpu_box: Callable[..., Any], wheel_maker: Callable[..., Path], tmp_path: Path
) -> None:
    project = gpu_box("linux-x86_64__580.65.06__h200-sm90")
    wheel = wheel_maker(tmp_path / "elsewhere", "bnbenvdirect", "1.0")
    asked = f'requirements = ["bnbenvdirect @ {wheel.as_uri()}"]\n[sources]'.encode()
    project.replace("bnbenv.toml", lambda text: text.replace(b"[sources]", asked))
    project.done("lock")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() in (project.root / "pylock.bnb.toml").read_text()
    project.done("sync", "--locked")
    assert project.python("import bnbenvdirect; print(bnbenvdirect.VERSION)") == "1.0"
