"""The ways back that are kept: each until it was used, or ten newer ones lie there."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from bnbenv.doctor.fixes.records import MendRecord, every, held, in_progress, prune, write


def make(folder: Path, name: str, state: Literal["changing", "done", "undone"]) -> None:
    (folder / name).mkdir()
    record = MendRecord(name=name, created=f"2026-11-21T{name}", state=state, prefix=None, python=None, plan=())
    write(record, folder)


def test_which_are_kept(tmp_path: Path) -> None:
    environ = {"BNBENV_HOME": str(tmp_path)}
    with held(environ, lambda text: None) as folder:
        (folder / "begun").mkdir()
        make(folder, "00", "changing")
        for number in range(1, 13):
            make(folder, f"{number:02d}", "done")
        make(folder, "13", "undone")
    with held(environ, lambda text: None) as folder:
        assert not (folder / "begun").exists()  # it never came to a change
        prune(folder)
        assert [one.name for one in every(folder)] == ["00", *(f"{number:02d}" for number in range(3, 13))]
        assert {path.name for path in folder.iterdir() if path.is_dir()} == {one.name for one in every(folder)}
    assert in_progress(environ) == ("00",)
