"""``bnbenv adopt``: an environment that others made is taken in, and not one byte of it changes, then or later."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec._core
import pytest
from msgspec.structs import replace

from bnbenv.envs.fitness import Held, judge, measure
from bnbenv.envs.foreign import Dist, Foreign, read_distributions, read_foreign, roots
from bnbenv.envs.generations import adopted, remove
from bnbenv.envs.project import Project as Place
from bnbenv.envs.wishes import EnvWish
from bnbenv.errors import BnbenvError
from bnbenv.facts.model import decode_facts
from bnbenv.matrix.load import load_matrix
from bnbenv.process import SystemRunner
from bnbenv.solve.model import Request

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the folders are those of Linux and macOS")

# Any native library for this machine stands in for those of torch and bitsandbytes.
LIBRARY = Path(msgspec._core.__file__)
DRIVER = str(Path(__file__).with_name("at_effect.py"))
H200 = "linux-x86_64__580.65.06__h200-sm90"


def tree(prefix: Path) -> str:
    """A digest of everything below a folder: names, kinds, rights, times, where links lead, and contents.

    Of what has more than a megabyte, the size and the time stand for its content.
    """
    digest = hashlib.sha256()
    for folder, names, files in os.walk(prefix):
        names.sort()
        for name in (".", *sorted(files), *names):
            path = Path(folder, name)
            stat = path.lstat()
            plain = path.is_file() and not path.is_symlink() and stat.st_size < 1 << 20
            content = os.readlink(path) if path.is_symlink() else path.read_bytes() if plain else b""
            digest.update(repr((str(path), stat.st_mode, stat.st_size, stat.st_mtime_ns, content)).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Others:
    """Makes environments as others do: by uv, from small wheels with a native library that is none of theirs."""

    folder: Path
    make_wheel: Callable[..., Path]

    def uv(self, *words: str) -> None:
        from uv import find_uv_bin

        foreign = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_", "VIRTUAL"))}
        environ = {**foreign, "UV_CACHE_DIR": str(self.folder / "cache"), "UV_PYTHON_DOWNLOADS": "never"}
        subprocess.run([find_uv_bin(), *words, "--quiet"], env=environ, check=True, timeout=60)

    def torch(self, version: str, cuda: str | None = None, minor: str = "") -> None:
        python = (minor or f"{sys.version_info.major}.{sys.version_info.minor}").replace(".", "")
        files = {
            "torch/__init__.py": f"__version__ = '{version}'\n",
            "torch/version.py": f"__version__ = '{version}'\ncuda = {cuda!r}\n",
            f"torch/_C.cpython-{python}-x86_64-linux-gnu.so": "",
        }
        if cuda:
            files["torch/lib/libtorch_python.so"] = "\0sm_80 sm_90\0"
        self.make_wheel(self.folder / "wheels", "torch", version, (), files)

    def bitsandbytes(self, version: str) -> None:
        files = {"bitsandbytes/__init__.py": f"__version__ = '{version}'\n", "bitsandbytes/libbitsandbytes_cpu.so": ""}
        self.make_wheel(self.folder / "wheels", "bitsandbytes", version, ("torch",), files)

    def package(self, name: str, version: str = "1.0", requires: tuple[str, ...] = ()) -> None:
        self.make_wheel(self.folder / "wheels", name, version, requires)

    def venv(self, name: str, *requirements: str, python: str = sys.executable) -> Path:
        prefix = self.folder / name
        self.uv("venv", str(prefix), "--python", python)
        if requirements:
            self.install(prefix, *requirements)
        return prefix.resolve()

    def install(self, prefix: Path, *requirements: str) -> None:
        links = ("--no-index", "--find-links", str(self.folder / "wheels"))
        self.uv("pip", "install", *links, "--python", str(prefix / "bin" / "python"), *requirements)
        for path in prefix.glob("lib/python*/site-packages/*/**/*.so"):
            words = path.read_bytes()
            if len(words) < 100:
                path.unlink()  # it may be a link into uv's cache
                path.write_bytes(LIBRARY.read_bytes() + words)


@pytest.fixture
def others(tmp_path: Path, wheel_maker: Callable[..., Path]) -> Others:
    folder = tmp_path / "others"
    folder.mkdir()
    made = Others(folder, wheel_maker)
    made.torch("2.13.0+cpu")
    made.bitsandbytes("0.50.2")
    made.package("tokenizing")
    made.package("modelling", "4.0", ("tokenizing", "torch"))
    return made


@pytest.fixture
def faults_of() -> Callable[[Any], list[str]]:
    """What a document's schema in the package has against it."""
    from importlib.resources import files

    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    known = [json.loads(path.read_text()) for path in (files("bnbenv") / "schemas").iterdir()]
    registry = Registry().with_resources((schema["$id"], Resource.from_contents(schema)) for schema in known)

    def check(document: Any) -> list[str]:
        name = document["schema"].removeprefix("bnbenv.").removesuffix("/1")
        validator = Draft202012Validator({"$ref": f"urn:bnbenv:schema:{name}"}, registry=registry)
        return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(document)]

    return check


PAIR = ("torch", "bitsandbytes")


def record_of(project: Any, env: str = "bnb") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project.root / f".bnbenv/generations/{env}/0.json").read_text())
    return found


def test_an_environment_is_taken_in_and_watched(
    empty: Any, others: Others, faults_of: Callable[[Any], list[str]]
) -> None:
    prefix = others.venv("train", *PAIR, "modelling")
    before = tree(prefix)
    (empty.root / "bnbenv.toml").write_text('# ours\n[policy]\nprefer = "newest"  # yes\n')
    done = empty.done("adopt", str(prefix / "bin" / "python"), "--no-verify")
    assert faults_of(done) == []
    assert (done["env"], done["adopted"], done["kind"], done["reasons"]) == ("bnb", str(prefix), "venv", [])
    assert (done["verified"], done["requirements"], done["wrote"]) == (False, ["modelling"], True)
    choice = done["choice"]
    assert (choice["torch"]["version"], choice["torch"]["source"]) == ("2.13.0+cpu", "existing")
    assert (choice["bitsandbytes"]["version"], choice["bitsandbytes"]["library"]) == (
        "0.50.2",
        "libbitsandbytes_cpu.so",
    )
    assert (empty.root / ".venv-bnb").readlink() == prefix  # also where the project is moved later
    text = (empty.root / "bnbenv.toml").read_text()
    assert text.startswith('# ours\n[policy]\nprefer = "newest"  # yes\n')
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f'family = "bitsandbytes"\npython = "=={minor}.*"\nrequirements = ["modelling"]' in text

    # Nothing needs a lock; what is not verified says so, and nothing else is wrong.
    assert empty.drift() == {"unverified": "it was adopted without running its kernels"}
    plan = empty("plan", "--json").document
    assert [one["action"] for one in plan["actions"]] == ["verify"]
    assert plan["decisions"] == []
    # A file with other bytes that asks for the same: the record is told, and the environment left alone.
    (empty.root / "bnbenv.toml").write_text(f"{text}\n# more\n")
    assert set(empty.drift()) == {"unverified"}
    (row,) = empty.done("list")["generations"]
    assert (row["generation"], row["adopted"], row["path"], row["in_use"]) == (0, True, str(prefix), True)
    status = empty("status", "--json", "--disk").document
    assert faults_of(status) == []
    (row,) = status["environments"]
    assert (row["generation"], row["adopted"], row["disk"]) == (0, str(prefix), {"bytes": 0, "own": 0})
    why = empty("status", "--why").stdout
    assert "why this one: it was adopted as it was" in why and "pylock" not in why
    assert empty.done("gc", "--keep", "0")["environments"] == [{"env": "bnb", "removed": [], "kept": [0]}]
    assert empty("guard", "on").code == 1
    assert empty("guard", "off").code == 0
    assert empty.done("path")["generation"] == 0
    assert empty("run", "--", "python", "-B", "-c", "import torch; assert torch.__version__ == '2.13.0+cpu'").code == 0
    assert tree(prefix) == before


def test_what_changes_behind_it_is_told(empty: Any, others: Others) -> None:
    prefix = others.venv("train", *PAIR)
    (empty.root / "bnbenv.toml").write_text("")
    empty.done("adopt", str(prefix), "--no-verify")
    others.package("another")
    others.torch("2.14.0+cpu")
    others.install(prefix, "another")  # people install more
    assert set(empty.drift()) == {"unverified"}
    others.install(prefix, "torch==2.14.0+cpu")
    assert empty.drift()["packages-changed"] == (
        "changed since it was adopted: torch 2.13.0+cpu is now 2.14.0+cpu "
        f"(if that was on purpose: bnbenv adopt {prefix} --env bnb)"
    )
    # On purpose: read anew, it is what it is.
    done = empty.done("adopt", str(prefix), "--no-verify")
    assert (done["choice"]["torch"]["version"], done["wrote"]) == ("2.14.0+cpu", False)
    assert set(empty.drift()) == {"unverified"}
    shutil.move(prefix, f"{prefix}-moved")
    assert empty.drift() == {"adopted-gone": f"the environment that was adopted is gone: {prefix} was moved or deleted"}
    unknown = empty("doctor", "--json").document["unknown"]
    assert any(f"{prefix} was moved or deleted" in one["reason"] for one in unknown)
    shutil.move(f"{prefix}-moved", prefix)
    assert set(empty.drift()) == {"unverified"}
    # It is the exception for just that folder.
    (empty.root / ".venv-bnb").unlink()
    (empty.root / ".venv-bnb").symlink_to(others.venv("other", *PAIR))
    assert set(empty.drift()) == {"link-foreign"}
    # The project goes, the environment stays.
    before = tree(prefix)
    shutil.rmtree(empty.root)
    assert tree(prefix) == before


def test_one_that_does_not_fit_is_taken_in_and_what_follows_moves_least(
    gpu_box: Callable[..., Any], others: Others, torch_wheel: Callable[..., str]
) -> None:
    """Its kernels are not run. Newer ones are offered, and newest is the policy; what may stay stays all the same."""
    box = gpu_box(H200)
    torch_wheel(box.root / "wheels", "13.0", "2.14.1")
    others.torch("2.13.0+cu130", "13.0")
    others.bitsandbytes("0.49.1")
    prefix = others.venv("train", "torch==2.13.0+cu130", "bitsandbytes==0.49.1")
    (box.root / "bnbenv.toml").write_text('[sources]\nfind-links = ["wheels"]\n')
    done = box.done("adopt", str(prefix))
    (reason,) = done["reasons"]
    assert (reason["code"], done["backend"]) == ("does-not-fit", "cuda")
    assert reason["because"].startswith("it does not fit this host: ") and "library" in reason["because"]
    assert box.drift() == {"does-not-fit": reason["because"]}
    for code in ("does-not-fit", "adopted-gone"):
        plan = box("plan", "--json").document
        assert [one["code"] for one in plan["reasons"]] == [code]
        choice = plan["decisions"][0]["decision"]["choice"]
        assert (choice["torch"]["version"], choice["bitsandbytes"]["version"]) == ("2.13.0+cu130", "0.49.1")
        prefix.rename(prefix.with_name("moved"))
        prefix = prefix.with_name("moved")


def test_kernels_that_fail_are_a_reason_for_a_generation_of_ones_own(empty: Any, others: Others) -> None:
    prefix = others.venv("train", *PAIR)
    before = tree(prefix)
    (empty.root / "bnbenv.toml").write_text("")
    empty.done("adopt", str(prefix), "--no-verify")
    ended = empty("sync", "--json")
    assert (ended.code, ended.document["error"]["code"]) == (5, "verification-failed")
    assert "bnbenv sync" in ended.document["error"]["next_step"]
    assert set(empty.drift()) == {"kernels-failed"}
    assert empty("verify").code == 5
    assert tree(prefix) == before


def test_one_that_is_damaged_is_taken_in_by_what_its_metadata_says(empty: Any, others: Others) -> None:
    (empty.root / "bnbenv.toml").write_text("")
    for part, env, word in [("torch", "one", "torch 2.13.0+cpu is damaged"), ("bitsandbytes", "two", "is damaged")]:
        prefix = others.venv(env, *PAIR)
        (library,) = prefix.glob(f"lib/python*/site-packages/{part}/*.so")
        library.write_bytes(b"")
        done = empty.done("adopt", str(prefix), "--env", env)
        assert word in done["reasons"][0]["because"]
        assert (done["choice"]["torch"]["version"], done["choice"]["bitsandbytes"]["version"]) == (
            "2.13.0+cpu",
            "0.50.2",
        )
    assert set(empty.drift()) == {"does-not-fit"}


def test_what_is_no_environment_is_refused(empty: Any, others: Others) -> None:
    (empty.root / "bnbenv.toml").write_text("[envs.bnb]\n")
    place = Place(empty.root, empty.root / "bnbenv.toml")
    bare = others.venv("bare")
    broken = others.venv("broken", *PAIR)
    (broken / "bin" / "python").unlink()
    (broken / "bin" / "python").symlink_to("/nowhere/python3")
    silent = others.venv("silent", *PAIR)
    (silent / "bin" / "python").unlink()
    (silent / "bin" / "python").write_text("#!/bin/sh\necho no >&2\nexit 3\n")
    (silent / "bin" / "python").chmod(0o755)
    generation = empty.root / ".bnbenv/generations/bnb/3"
    shutil.copytree(bare, generation, symlinks=True)
    below = others.venv("below")
    config = (below / "pyvenv.cfg").read_text().replace("packages = false", "packages = true")
    (below / "pyvenv.cfg").write_text(config)
    for path, word, name in [
        (others.folder / "nothing", "does not exist", "no-environment"),
        (others.folder / "wheels", "neither pyvenv.cfg nor conda-meta", "not-an-environment"),
        (below / "pyvenv.cfg", "it is no folder", "not-an-environment"),
        (Path(sys.base_prefix), "is a Python installation", "not-an-environment"),
        (generation, "is generation 3 of the environment bnb", "of-bnbenv"),
        (bare, "there is no torch in", "no-torch"),
        (below, "takes what the Python below it has", "no-torch"),
        (broken, "has no Python", "no-python"),
        (silent, "does not run (exit 3)", "broken-python"),
    ]:
        with pytest.raises(BnbenvError) as refused:
            measure(read_foreign(str(path), empty.root, place, {}, SystemRunner()))
        assert (refused.value.code, word in refused.value.message) == (name, True), refused.value
        assert refused.value.next_step
    ended = empty("adopt", str(bare), "--json")
    assert (ended.code, ended.document["error"]["code"]) == (2, "no-torch")
    assert (empty.root / "bnbenv.toml").read_text() == "[envs.bnb]\n"
    assert list((empty.root / ".bnbenv/generations").iterdir()) == [generation.parent]


def test_a_name_that_is_taken_is_refused(empty: Any, others: Others) -> None:
    (empty.root / "bnbenv.toml").write_text("")
    first, second = others.venv("first", *PAIR), others.venv("second", *PAIR)
    empty.done("adopt", str(first), "--no-verify")
    again = (str(first), "--env", "other")
    for words, word in [(again, "is adopted already, as bnb"), ((str(second),), "there is an environment bnb")]:
        ended = empty("adopt", *words, "--json")
        assert (ended.code, ended.document["error"]["code"]) == (2, "exists")
        assert word in ended.document["error"]["message"]
    done = empty.done("adopt", str(second), "--env", "eval", "--no-verify")
    assert done["env"] == "eval"
    assert empty("check", "--json").document["environments"] == ["bnb", "eval"]


def test_a_conda_environment(empty: Any, others: Others) -> None:
    """As conda lays one out: its own notes, packages with conda's paths in direct_url.json, a link python3.1."""
    (empty.root / "bnbenv.toml").write_text("")
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    made = others.venv("made", *PAIR, "modelling")
    prefix = (others.folder / "conda").resolve()
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "python").symlink_to(f"python{minor}")
    (prefix / "bin" / f"python{minor}").symlink_to(os.path.realpath(sys.executable))
    site = prefix / "lib" / f"python{minor}" / "site-packages"
    shutil.copytree(made / "lib" / f"python{minor}" / "site-packages", site)
    (prefix / "lib" / "python3.1").symlink_to(f"python{minor}")
    for info in site.glob("*.dist-info"):
        (info / "INSTALLER").write_text("conda\n")
        (info / "direct_url.json").write_text('{"dir_info": {}, "url": "file:///home/conda/feedstock_root/build"}')
    (prefix / "conda-meta").mkdir()
    for name in (f"python-{minor}.9-h955ad1f_0", "pytorch-2.13.0-py_0", "ffmpeg-4.3-hf_0", "modelling-4.0-py_0"):
        (prefix / "conda-meta" / f"{name}.json").write_text("{}")
    (prefix / "conda-meta" / "history").write_text("")
    before = tree(prefix)
    done = empty.done("adopt", str(prefix), "--no-verify")
    assert (done["kind"], done["requirements"]) == ("conda", ["modelling"])
    assert "only conda knows 1 package in it (ffmpeg)" in done["notes"][0]
    assert tree(prefix) == before
    assert set(empty.drift()) == {"unverified"}
    (prefix / "conda-meta" / "pytorch-2.13.0-py_0.json").rename(prefix / "conda-meta" / "pytorch-2.12.0-py_0.json")
    assert "conda-meta/pytorch-2.13.0-py_0.json" in empty.drift()["files-changed"]


def test_every_python(empty: Any, others: Others) -> None:
    found = {one["version"].rpartition(".")[0]: one["path"] for one in empty.done("facts")["pythons"]}
    (empty.root / "bnbenv.toml").write_text("")
    for minor in ("3.9", "3.10", "3.11", "3.12", "3.13"):
        if minor not in found:
            continue
        others.torch("2.13.0+cpu", minor=minor)
        prefix = others.venv(minor, *PAIR, python=found[minor])
        done = empty.done("adopt", str(prefix), "--no-verify", "--env", f"py{minor[2:]}")
        assert done["choice"]["python"] == minor
        if minor == "3.9":  # a generation made from it has a newer one
            assert "Python >=3.10 was asked for and it holds 3.9." in done["reasons"][0]["because"]
        else:
            assert done["reasons"] == []
    if len(found) < 2:
        pytest.skip("there is only one Python on this machine")


def test_a_mixed_one_is_adopted_as_the_family_that_its_name_says(empty: Any, others: Others) -> None:
    others.package("gptqmodel", "7.6.0", ("torch",))
    prefix = others.venv("both", *PAIR, "gptqmodel", "modelling")
    (empty.root / "bnbenv.toml").write_text("")
    done = empty.done("adopt", str(prefix), "--no-verify")
    assert (done["env"], done["family"], done["requirements"]) == ("bnb", "bitsandbytes", ["modelling"])
    assert "it also holds gptqmodel (gptq), which belongs apart" in done["notes"][0]
    assert f"bnbenv doctor {prefix}" in done["notes"][0]
    (row,) = empty("status", "--json").document["environments"]
    assert row["notes"] == [
        f"it holds packages of several families (bitsandbytes, gptqmodel): see bnbenv doctor {prefix}"
    ]
    shutil.rmtree(empty.root / ".bnbenv")
    (empty.root / ".venv-bnb").unlink()
    (empty.root / "bnbenv.toml").write_text("")
    done = empty.done("adopt", str(prefix), "--no-verify", "--env", "gptq")
    assert (done["family"], done["choice"]["bitsandbytes"]) == ("gptq", None)
    assert [one["name"] for one in done["choice"]["packages"]] == ["gptqmodel"]


def test_what_people_asked_for() -> None:
    """What nothing else requires; torch's and the installers' own requirements are theirs; of a ring, the first."""
    dists = (
        Dist("accelerate", "1", ("torch", "numpy")),
        Dist("bitsandbytes", "1", ("torch",)),
        Dist("numpy", "1"),
        Dist("nvidia-cublas", "1"),
        Dist("peft", "1", ("accelerate", "transformers")),
        Dist("ring-a", "1", ("ring-b",)),
        Dist("ring-b", "1", ("ring-a",)),
        Dist("torch", "1", ("nvidia-cublas",)),
        Dist("transformers", "1", ("numpy",)),
    )
    assert roots(dists, ("torch", "bitsandbytes", "pip")) == ("peft", "ring-a")


def test_distributions_are_read_as_they_lie(tmp_path: Path) -> None:
    """What an extra needs is not required; where one was installed from counts, unless conda built it there."""

    def lay(folder: str, name: str, *lines: str, **files: str) -> None:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("\n".join(("Metadata-Version: 2.1", *lines, "", "Requires-Dist: nobody")))
        for file, text in files.items():
            (tmp_path / folder / file.replace("_json", ".json")).write_text(text)

    needs = ("numpy>=1; python_version > '3'", "Foo.Bar", "peft; extra == 'train'")
    url = '{"url": "file:///src/app"}'
    lay("My_App-1.2.dist-info", "METADATA", *(f"Requires-Dist: {one}" for one in needs), direct_url_json=url)
    lay("numpy-2.0.dist-info", "METADATA", "Version: 2.0", INSTALLER="conda\n", direct_url_json=url)
    (tmp_path / "PyYAML-6.0-py3.11.egg-info").write_text("Metadata-Version: 2.1\nName: PyYAML\n")
    (tmp_path / "broken-1.0.dist-info").mkdir()
    assert read_distributions(tmp_path) == (
        Dist("broken", "1.0"),
        Dist("my-app", "1.2", ("numpy", "foo-bar"), "file:///src/app"),
        Dist("numpy", "2.0"),
        Dist("pyyaml", "6.0"),
    )


def test_what_would_have_to_be_set_in_it_is_against_it() -> None:
    """bnbenv writes nothing into an environment of others, so nothing there leaves the other card out."""
    matrix = load_matrix()
    linux = ("linux", "x86_64")
    wheel = next(row for row in matrix.bitsandbytes if row.version == "0.50.2" and (row.os, row.machine) == linux)
    torch = next(row for row in matrix.torch if row.version == "2.10.0" and (row.os, row.machine) == linux)
    gpus = [
        {"index": n, "uuid": f"GPU-{n}", "name": "A100", "compute_capability": "8.0", "memory_total": 1}
        for n in range(2)
    ]
    facts = decode_facts(
        json.dumps(
            {
                "schema": "bnbenv.facts/1",
                "platform": {"os": "linux", "machine": "x86_64", "libc": {"name": "glibc", "version": "2.36"}},
                "driver": {"state": "ok", "version": "580.65.06"},
                "gpus": gpus,
            }
        ),
        "the host",
    )
    dists = (Dist("bitsandbytes", "0.50.2"), Dist("torch", "2.10.0"))
    found = Foreign(Path("/venv"), "venv", "3.12", "3.12.3", Path("/venv/lib/python3.12/site-packages"), dists)
    held = Held("2.10.0", replace(torch, source="existing", sha256=None), replace(wheel, sha256="0" * 64))
    for wanted, against in ((("all",), None), (("0",), "it needs CUDA_VISIBLE_DEVICES=GPU-0, and nothing in it sets")):
        fitness = judge(found, held, EnvWish(), Request(gpus=wanted), facts, matrix)
        assert fitness.against is None if against is None else (fitness.against or "").startswith(against)
        assert fitness.solution.choice.torch.source == "existing"


def test_nothing_deletes_what_was_adopted(empty: Any, others: Others) -> None:
    prefix = others.venv("train", *PAIR)
    (empty.root / "bnbenv.toml").write_text("")
    empty.done("adopt", str(prefix), "--no-verify")
    before = tree(prefix)
    zero = adopted(Place(empty.root, empty.root / "bnbenv.toml"), "bnb")
    assert zero is not None
    remove(zero)
    assert adopted(Place(empty.root, empty.root / "bnbenv.toml"), "bnb") == zero
    remove(zero._replace(record=zero.record._replace(adopted=None) if zero.record else None))
    assert tree(prefix) == before


def test_what_a_killed_adoption_left_is_cleared(empty: Any, others: Others) -> None:
    """The record alone, without its lines in bnbenv.toml and without the link."""
    config, link = empty.root / "bnbenv.toml", empty.root / ".venv-train"
    config.write_text("[policy]\n")
    empty.done("adopt", str(others.venv("train", *PAIR)), "--env", "train", "--no-verify")
    config.write_text("[policy]\n")
    link.unlink()
    empty.done("gc")
    assert not (empty.root / ".bnbenv" / "generations" / "train").exists()


def test_killed_before_any_of_its_effects_nothing_is_half_done(empty: Any, others: Others) -> None:
    """Before bnbenv.toml is written there is no such environment; afterwards the next sync sets the link."""
    prefix = others.venv("train", *PAIR)
    before = tree(prefix)
    words = ("adopt", str(prefix), "--no-verify")
    text = "[policy]\n"

    def fresh() -> None:
        shutil.rmtree(empty.root)
        empty.root.mkdir()
        (empty.root / "bnbenv.toml").write_text(text)

    fresh()
    process = empty.start(str(empty.root), "count", "0", *words, command=(DRIVER,))
    kinds = ("os.", "open ", "start ", "shutil.")
    lines = [line for line in process.communicate(timeout=60)[1].splitlines() if line.startswith(kinds)]
    telling = [
        n for n, line in enumerate(lines, 1) if line.startswith(("os.rename", "os.symlink")) and ".lock" not in line
    ]
    assert [lines[n - 1].split("/")[-1] for n in telling][-4:] == [
        "0.json",
        "bnbenv.toml",
        ".venv-bnb.new-PID",
        ".venv-bnb",
    ]
    for number in telling[-4:]:
        fresh()
        process = empty.start(str(empty.root), "kill", str(number), *words, command=(DRIVER,))
        assert process.wait(60) == -signal.SIGKILL, lines[number - 1]
        process.communicate()
        written = (empty.root / "bnbenv.toml").read_text() != text
        linked = (empty.root / ".venv-bnb").is_symlink()
        assert written or not linked
        if written:
            synced = empty("sync", "--no-verify", "--json")
            assert (synced.code, synced.document["generations"][0]["generation"]) == (0, 0), lines[number - 1]
        else:
            empty.done(*words)
        assert (empty.root / ".venv-bnb").resolve() == prefix
        assert empty.leftovers() == [], lines[number - 1]
    assert tree(prefix) == before


@pytest.mark.real
def test_a_generation_is_made_from_what_it_holds_and_left_again(
    project: Any, tmp_path: Path, others: Others, faults_of: Callable[[Any], list[str]]
) -> None:
    """Its kernels run for real; a newer package is not taken while it may stay; rollback goes back to it."""
    others.package("tokenizing", "2.0")
    prefix = (tmp_path / "real").resolve()
    (project.root / ".venv-bnb").resolve().rename(prefix)  # from now on it is nobody's
    shutil.rmtree(project.root / ".bnbenv")
    for name in (".venv-bnb", "pylock.bnb.toml"):
        (project.root / name).unlink()
    wheels = others.folder / "wheels"
    others.install(prefix, "tokenizing==1.0")
    for name in PAIR:  # those are nothing to run
        next(wheels.glob(f"{name}-*.whl")).unlink()
    before = tree(prefix)
    (project.root / "bnbenv.toml").write_text(f'[sources]\nfind-links = ["{wheels}"]\n')
    done = project.done("adopt", str(prefix))
    assert faults_of(done) == []
    assert (done["verified"], done["reasons"], done["requirements"]) == (True, [], ["tokenizing"])
    assert project.drift() == {}
    synced = project.done("sync")
    assert (synced["generations"][0]["generation"], faults_of(synced)) == (0, [])

    with (project.root / "bnbenv.toml").open("a") as stream:
        stream.write('[policy]\nbuild = "never"\n')
    assert set(project.drift()) == {"wishes-changed"}
    (row,) = project.done("sync", "--no-verify")["generations"]
    assert (project.generation(), row["generation"]) == (1, 1)
    for part in PAIR:
        assert row["choice"][part]["version"] == done["choice"][part]["version"]
    assert project.python("import tokenizing; print(tokenizing.VERSION)") == "1.0"
    assert f"{prefix} stays as it is: bnbenv rollback --env bnb goes back to it" in row["notes"]
    assert not any("other versions" in note for note in row["notes"])
    assert project.done("rollback")["generation"] == 0
    assert (project.root / ".venv-bnb").resolve() == prefix
    assert tree(prefix) == before
