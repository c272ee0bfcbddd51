"""A mixed environment is split: what goes where, and a real one, with bitsandbytes and autoawq, in a project."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from uv import find_uv_bin

from bnbenv.doctor.fixes import Hands, records, undo
from bnbenv.doctor.fixes.model import PlanStep, Share
from bnbenv.doctor.fixes.records import MendRecord, SavedFile
from bnbenv.doctor.fixes.split import distribute, title, with_extras
from bnbenv.envs.foreign import Dist
from bnbenv.envs.wishes import EnvWish
from bnbenv.matrix.load import load_families
from bnbenv.paths import Sysroot
from bnbenv.process import SystemRunner

AWQ = (
    Dist("autoawq", "0.2.9", ("torch", "transformers", "datasets")),
    Dist("transformers", "4.56.2", ("tokenizers",)),
    Dist("tokenizers", "0.22.1"),
    Dist("datasets", "5.2.0"),
    Dist("accelerate", "1.15.0", ("torch",)),
)
BASE = (Dist("torch", "2.13.0"), Dist("bitsandbytes", "0.50.2", ("torch",)), Dist("pip", "26.0"), *AWQ)


def split(*dists: Dist, wishes: dict[str, EnvWish] | None = None) -> tuple[dict[str, Share], dict[str, str]]:
    shares, left = distribute(dists, load_families(), wishes or {})
    return {share.env: share for share in shares}, left


def test_each_family_gets_its_own_and_what_belongs_to_none_goes_where_it_fits() -> None:
    shares, left = split(*BASE, Dist("peft", "0.21.2", ("transformers", "accelerate")), Dist("einops", "0.8.1"))
    assert list(shares) == ["bnb", "awq"]
    # transformers is autoawq's own requirement, and bitsandbytes is called through it: it is in both.
    assert shares["bnb"].requirements == ("transformers", "accelerate")
    assert shares["awq"].requirements == ()  # what autoawq brings itself, and torch, is not asked for
    assert shares["bnb"].further == shares["awq"].further == ("einops", "peft")
    assert left == {}
    assert title(shares["awq"]) == "autoawq; and as far as they fit einops, peft"


def test_what_requires_a_family_goes_with_it_and_what_requires_two_nowhere() -> None:
    shares, left = split(
        *BASE,
        Dist("gptqmodel", "7.6.0", ("torch",)),
        Dist("auto-gptq", "0.7.1", ("torch",)),
        Dist("autoawq-kernels", "0.0.9", ("torch",)),
        Dist("served", "1", ("between",)),
        Dist("between", "1", ("gptqmodel",)),
        Dist("everything", "1", ("bitsandbytes", "autoawq")),
        Dist("mine", "1", ("einops",), place="/home/me/mine"),
        Dist("einops", "0.8.1"),
    )
    assert [(share.env, share.family, share.package) for share in shares.values()] == [
        ("bnb", "bitsandbytes", ""),
        ("gptq", "gptq", ""),
        ("awq", "awq", "autoawq[kernels]"),
    ]
    assert shares["gptq"].requirements == ("served",)
    # What something from a folder requires nothing else would bring in.
    assert (shares["bnb"].further, shares["awq"].further) == (("einops",), ("accelerate", "einops"))
    assert left == {
        "everything": "it requires packages of several families (bitsandbytes, awq)",
        "auto-gptq": "an environment holds either gptqmodel or auto-gptq",
        "mine": "it was installed from /home/me/mine and not from an index",
    }


def test_what_is_required_through_an_extra_is_not_asked_for() -> None:
    dists = (*BASE, Dist("fsspec", "2026.9"), Dist("aiohttp", "3.14"), Dist("einops", "0.8.1"))
    requires = {
        "datasets": ["fsspec[http]<=2027"],
        "fsspec": ['aiohttp>3; extra == "http"', 'einops; extra == "other"', "torn (line"],
        "tokenizers": ["absent[extra]", "absent[more]"],
        "accelerate": ['fsspec[other]; extra == "dev"', 'accelerate[dev]; extra == "all"'],
    }
    shares, _ = distribute(with_extras(dists, requires), load_families(), {})
    # datasets, which autoawq requires, asks for that extra; the other is asked for by an extra that nobody asks for.
    assert shares[0].further == ("einops", "fsspec")


def test_the_project_keeps_its_own_environments() -> None:
    wishes = {"train": EnvWish(), "awq": EnvWish(family="none")}
    shares, _ = split(*BASE, wishes=wishes)
    assert [(share.env, share.family, share.known) for share in shares.values()] == [
        ("train", "bitsandbytes", True),  # gets what it lacks
        ("awq-2", "awq", False),  # that name is another one's
    ]
    assert split(*AWQ, Dist("torch", "2.13.0")) == ({}, {})  # of one family: nothing to split


@pytest.mark.parametrize("created", [True, False])
def test_bnbenv_toml_goes_back_from_every_step_of_the_way_unless_somebody_edited_it(
    tmp_path: Path, created: bool
) -> None:
    environ = {"BNBENV_HOME": str(tmp_path / "user")}
    hands = Hands(environ, SystemRunner(), Sysroot.from_environment({}), tmp_path, tmp_path)
    file, before = tmp_path / "bnbenv.toml", b"" if created else b"[envs.bnb]\n"
    steps = [b"[envs.bnb]\nfirst\n", b"[envs.bnb]\nfirst\n[envs.awq]\n"]
    for text, state in ((steps[0], "changing"), (steps[1], "done"), (b"edited", "done")):
        with records.held(environ, lambda line: None) as folder:
            name = records.new_name(folder)
            (folder / name).mkdir()
            (folder / name / "file0").write_bytes(before)
            digests = [records.digest(one) for one in (before, *steps)]
            saved = SavedFile(
                path=str(file),
                saved="file0",
                before=digests[0],
                after=digests[2],
                between=digests[1:2],
                created=created,
            )
            plan = (PlanStep("make the environment awq", str(tmp_path), "bnbenv sync --env awq"),)
            record = MendRecord(
                name=name, created="2026-11-21", state=state, prefix=None, python=None, plan=plan, files=(saved,)
            )
            records.write(record, folder)
        file.write_bytes(text)
        done = undo(name, hands)
        if text == b"edited":
            assert file.read_bytes() == text
            assert f"{file} was edited since: it stays as it is" in done.notes
        else:
            assert (file.read_bytes() if file.exists() else b"") == before
            assert file.exists() is not created
            assert f"what was made stays ({tmp_path})" in done.notes[0]


def wheel(folder: Path, name: str, requires: str) -> None:
    """A tiny wheel."""
    folder.mkdir()
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: {requires}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {path: hashlib.sha256(text.encode()).digest() for path, text in files.items()}
    lines = (
        f"{path},sha256={base64.urlsafe_b64encode(digests[path]).rstrip(b'=').decode()},{len(text)}\n"
        for path, text in files.items()
    )
    files[f"{info}/RECORD"] = f"{''.join(lines)}{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


@pytest.mark.real
@pytest.mark.skipif(os.name == "nt", reason="written for Linux")
def test_a_real_mixed_environment_becomes_two_that_hold_together_what_it_held(project: Any, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree((project.root / ".venv-bnb").resolve(), mixed, symlinks=True, copy_function=linked)
    wheel(tmp_path / "wheels", "newcomer", "transformers==4.57.6")  # beside which autoawq cannot be imported
    more = ("pip", "install", "-q", "--python", str(mixed), "--find-links", str(tmp_path / "wheels"))
    environ = project.changed(PYTHONDONTWRITEBYTECODE="1", BNBENV_HOME=str(tmp_path / "user"))
    installed = subprocess.run(
        [find_uv_bin(), *more, "autoawq==0.2.9", "newcomer"], env=environ, capture_output=True, text=True, check=False
    )
    if installed.returncode != 0:
        pytest.skip(f"autoawq cannot be installed: {installed.stderr.strip()[-300:]}")
    config = project.root / "bnbenv.toml"
    config.write_text(config.read_text().replace("# find-links = []", f'find-links = ["{tmp_path / "wheels"}"]', 1))
    before, held = config.read_bytes(), listing(mixed)

    found = project("doctor", str(mixed), "--json", BNBENV_HOME=str(tmp_path / "user"))
    assert found.code == 3, found.stderr
    first = found.document["findings"][0]
    assert (first["code"], first["fix"]["automatic"]) == ("quant-libraries-mixed", True)
    assert "Environment awq gets autoawq; and as far as they fit newcomer." in first["fix"]["steps"]

    done = project("doctor", str(mixed), "--fix", "--json", BNBENV_HOME=str(tmp_path / "user"))
    assert done.code == 0, done.stdout + done.stderr
    mended = done.document["mended"]
    assert (mended["state"], mended["verified"]) == ("done", True)
    assert [step["where"] for step in mended["plan"]] == [str(project.root / f".venv-{env}") for env in ("bnb", "awq")]
    notes = "\n".join(mended["notes"])
    assert "newcomer is in bnb alone; it does not fit into awq" in notes
    assert f"{mixed} was left as it is" in notes
    assert listing(mixed) == held
    assert project.python("import bitsandbytes, transformers, newcomer; print(transformers.__version__)") == "4.57.6"
    names = "import importlib.metadata as m; print([d.metadata['Name'].lower() for d in m.distributions()])"
    assert "'autoawq'" in project.python(names, env="awq") and "'bitsandbytes'" not in project.python(names, env="awq")
    assert "'autoawq'" not in project.python(names)

    back = project("doctor", "--undo", "--json", BNBENV_HOME=str(tmp_path / "user"))
    assert back.code == 0, back.stderr
    assert config.read_bytes() == before
    shutil.rmtree(mixed)


def linked(source: str, target: str) -> None:
    os.link(source, target) if f"{os.sep}lib{os.sep}" in source else shutil.copy2(source, target)


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file."""
    paths = [path for path in folder.rglob("*") if not path.is_dir()]
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths}
