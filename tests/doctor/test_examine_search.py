"""Which environment is examined and what its imports go through, held against what real interpreters say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bnbenv.doctor.examine import Ports, Where, examine
from bnbenv.doctor.model import Examination
from bnbenv.envs.project import Project
from bnbenv.errors import UsageError
from bnbenv.facts.model import HostFacts, decode_facts
from bnbenv.paths import Sysroot
from bnbenv.process import Command, Finished, SystemRunner

HOSTS = Path(__file__).parents[1] / "hosts"
ASK = """
import importlib.metadata as m, importlib.util as u, json, sys, sysconfig
library = sysconfig.get_path("stdlib")
paths = [p for p in sys.path if p and p != library and not p.endswith(("lib-dynload", ".zip"))]
spec = u.find_spec("bitsandbytes")
versions = {}
for name in ("bitsandbytes", "numpy"):
    try: versions[name] = m.version(name)
    except m.PackageNotFoundError: versions[name] = None
print(json.dumps([paths, spec and spec.origin, versions, "%d.%d.%d" % sys.version_info[:3]]))
"""


@dataclass
class Machine:
    """A home folder, an empty system and a current folder; ``environ`` is all of the environment's variables."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)
    started: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for folder in (self.home, self.cwd, self.root / "sys"):
            folder.mkdir(parents=True, exist_ok=True)
        self.environ.setdefault("HOME", str(self.home))
        self.environ.setdefault("PATH", "")

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def cwd(self) -> Path:
        return self.root / "here"

    def run(self, command: Command) -> Finished:
        self.started.append(command.argv)
        return SystemRunner().run(command)

    def examine(self, path: Path | str | None = None, **more: Any) -> Examination:
        where = Where(self.cwd, path=None if path is None else str(path), **more)
        return examine(where, facts(), Ports(self.environ, self, Sysroot(self.root / "sys"), self.home))

    def says(self, python: Path) -> Any:
        """What the interpreter itself says: its search path, where bitsandbytes is, versions."""
        done = subprocess.run(
            [python, "-c", ASK], env=self.environ, cwd=self.cwd, capture_output=True, text=True, check=True, timeout=60
        )
        return json.loads(done.stdout)


def facts() -> HostFacts:
    return decode_facts((HOSTS / "linux-x86_64__535.183.01__t4-sm75" / "facts.json").read_bytes(), "facts")


def install(site: Path, name: str, version: str, module: bool = True, more: Mapping[str, str] = {}) -> Path:
    """A distribution as pip leaves it: its metadata, and a module that names its version."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: text\n")
    for file, text in more.items():
        (info / file).write_text(text)
    if module:
        (site / name).mkdir(exist_ok=True)
        (site / name / "__init__.py").write_text(f'__version__ = "{version}"\n')
    return info


def site_of(prefix: Path) -> Path:
    return next((prefix / "lib").glob("python3*")) / "site-packages"


@pytest.fixture(scope="module")
def venvs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two real environments on the interpreter that runs the tests."""
    root = tmp_path_factory.mktemp("venvs")
    for name, system in (("own", False), ("open", True)):
        venv.create(root / name, system_site_packages=system, symlinks=os.name != "nt")
    return {"own": root / "own", "open": root / "open"}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def base_python() -> Path:
    return Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"


def agrees(machine: Machine, python: Path, found: Examination) -> None:
    paths, origin, versions, version = machine.says(python)
    assert [one.path for one in found.target.search] == [path for path in paths if Path(path).is_dir()]
    assert found.bitsandbytes is None or Path(found.bitsandbytes.path) == Path(origin).parent
    assert (found.bitsandbytes is None) == (origin is None)
    for name, one in versions.items():
        package = found.package(name)
        assert (package.version if package else None) == one
    assert found.target.version == version


@pytest.mark.parametrize("kind", ["own", "open", "base"])
@pytest.mark.parametrize(
    "changes", [{}, {"PYTHONNOUSERSITE": "1"}, {"PYTHONUSERBASE": "elsewhere"}, {"PYTHONPATH": "1"}]
)
def test_the_search_path_is_that_of_the_interpreter(
    machine: Machine, venvs: dict[str, Path], kind: str, changes: dict[str, str]
) -> None:
    python = base_python() if kind == "base" else venvs[kind] / "bin" / "python"
    if not python.exists():
        pytest.skip(f"there is no {python}")
    minor = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    user = machine.home / ".local" / "lib" / minor / "site-packages"
    if "PYTHONUSERBASE" in changes:
        changes = {"PYTHONUSERBASE": str(machine.root / "elsewhere")}
        user = machine.root / "elsewhere" / "lib" / minor / "site-packages"
    install(user, "bitsandbytes", "0.42.0")
    (machine.root / "extra" / "deep").mkdir(parents=True)
    (user / "z.pth").write_text(f"# a comment\n\n{machine.root}/extra\nimport os\nnot-there\n{machine.root}/extra\n")
    if "PYTHONPATH" in changes:
        install(machine.root / "path", "numpy", "1.26.4")
        changes = {
            "PYTHONPATH": os.pathsep.join([str(machine.root / "path"), "", "not-there", str(machine.root / "path")])
        }
        (machine.root / "path" / "a.pth").write_text(str(machine.root / "extra" / "deep"))
    machine.environ.update(changes)

    found = machine.examine(python)

    agrees(machine, python, found)
    used = kind != "own" and "PYTHONNOUSERSITE" not in changes
    assert (found.bitsandbytes is not None) == used
    assert ("user-site" in found.conditions) == used
    assert ("user-site-unused" in found.conditions) != used
    assert [one.where for one in found.target.search if one.path == str(user)] == (["user"] if used else [])
    below = {one.where for one in found.target.search if one.path.startswith(f"{sys.base_prefix}{os.sep}")}
    assert below == {"own": set(), "open": {"base"}, "base": {"environment"}}[kind]
    assert not machine.started  # files tell all of it


def test_the_users_packages_stand_behind_a_venvs_own_and_before_those_of_the_base(
    machine: Machine, venvs: dict[str, Path], tmp_path: Path
) -> None:
    prefix = tmp_path / "copy"
    shutil.copytree(venvs["open"], prefix, symlinks=True)
    minor = site_of(prefix).parent.name
    install(site_of(prefix), "numpy", "2.2.0")
    user = machine.home / ".local" / "lib" / minor / "site-packages"
    install(user, "numpy", "1.26.4")
    install(user, "bitsandbytes", "0.42.0")

    found = machine.examine(prefix)

    agrees(machine, prefix / "bin" / "python", found)
    assert [(one.version, one.where, one.effective) for one in found.packages if one.name == "numpy"][:2] == [
        ("2.2.0", "environment", True),
        ("1.26.4", "user", False),
    ]
    assert found.bitsandbytes is not None and found.bitsandbytes.version == "0.42.0"


def test_metadata_of_a_copy_that_is_not_imported_says_nothing(machine: Machine, venvs: dict[str, Path]) -> None:
    prefix = machine.root / "copy"
    shutil.copytree(venvs["own"], prefix, symlinks=True)
    install(site_of(prefix), "bitsandbytes", "0.50.2")
    checkout = install(machine.root / "checkout", "bitsandbytes", "0.41.0")
    shutil.rmtree(checkout)
    machine.environ["PYTHONPATH"] = str(machine.root / "checkout")
    found = machine.examine(prefix)
    agrees(machine, prefix / "bin" / "python", found)
    assert found.bitsandbytes is not None
    assert (found.bitsandbytes.version, found.bitsandbytes.own_version) == (None, "0.41.0")


def test_an_editable_install_is_found_behind_its_finder(
    machine: Machine, venvs: dict[str, Path], tmp_path: Path
) -> None:
    prefix, tree = tmp_path / "copy", tmp_path / "source"
    shutil.copytree(venvs["own"], prefix, symlinks=True)
    install(tree, "bitsandbytes", "0.51.0.dev0")
    shutil.rmtree(tree / "bitsandbytes-0.51.0.dev0.dist-info")
    site = site_of(prefix)
    direct = json.dumps({"url": tree.as_uri(), "dir_info": {"editable": True}})
    install(site, "bitsandbytes", "0.51.0.dev0", module=False, more={"direct_url.json": direct})
    finder = "__editable___bitsandbytes_0_51_0_dev0_finder"
    (site / "__editable__.bitsandbytes-0.51.0.dev0.pth").write_text(f"import {finder}; {finder}.install()")
    mapping = {"bitsandbytes": str(tree / "bitsandbytes")}
    (site / f"{finder}.py").write_text(f"""\
import importlib.util, sys
MAPPING: dict[str, str] = {mapping!r}
class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in MAPPING:
            return importlib.util.spec_from_file_location(name, MAPPING[name] + "/__init__.py")
def install():
    sys.meta_path.append(Finder)
""")

    found = machine.examine(prefix)

    agrees(machine, prefix / "bin" / "python", found)
    package = found.package("bitsandbytes")
    assert package is not None and package.editable
    assert found.bitsandbytes is not None and found.bitsandbytes.path == str(tree / "bitsandbytes")
    assert not found.leftovers


@pytest.mark.skipif(not Path("/usr/lib/python3/dist-packages").is_dir(), reason="this is not Debian's Python")
@pytest.mark.parametrize("folder", ["/usr/bin", "/bin"])
def test_debians_python_keeps_packages_where_it_says(machine: Machine, folder: str, tmp_path: Path) -> None:
    python = Path(folder) / "python3"
    if not python.exists():
        pytest.skip(f"there is no {python}")
    found = machine.examine(python)
    agrees(machine, python, found)
    assert (found.target.kind, found.target.prefix) == ("system", "/usr")

    made = [python, "-m", "venv", "--without-pip", "--system-site-packages", tmp_path / "env"]
    if subprocess.run(made, capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("this Python makes no venv")
    agrees(machine, tmp_path / "env" / "bin" / "python", machine.examine(tmp_path / "env"))


def test_conda_lets_the_users_packages_in(machine: Machine, tmp_path: Path) -> None:
    prefix = tmp_path / "conda"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "python").symlink_to("python3.11")
    (prefix / "bin" / "python3.11").write_text("")
    install(prefix / "lib" / "python3.11" / "site-packages", "bitsandbytes", "0.50.2")
    (prefix / "conda-meta").mkdir()
    (prefix / "conda-meta" / "python-3.11.9-h955ad1f_0.json").write_text("{}")
    user = machine.home / ".local" / "lib" / "python3.11" / "site-packages"
    install(user, "bitsandbytes", "0.41.1")
    machine.environ["CONDA_PREFIX"] = str(prefix)

    found = machine.examine()

    assert (found.target.kind, found.target.version, found.target.prefix) == ("conda", "3.11.9", str(prefix))
    assert [one.where for one in found.target.search] == ["user", "environment"]
    assert found.bitsandbytes is not None and found.bitsandbytes.path == str(user / "bitsandbytes")
    assert [(one.version, one.effective) for one in found.packages] == [("0.41.1", True), ("0.50.2", False)]


def test_what_is_activated_is_examined_unless_only_another_has_packages(
    machine: Machine, venvs: dict[str, Path], tmp_path: Path
) -> None:
    machine.environ["VIRTUAL_ENV"] = str(venvs["own"])
    assert machine.examine().target.prefix == str(venvs["own"])

    full = tmp_path / "full"
    shutil.copytree(venvs["own"], full, symlinks=True)
    install(site_of(full), "bitsandbytes", "0.50.2")
    machine.environ["PATH"] = os.pathsep.join([str(tmp_path / "nothing"), str(full / "bin")])
    found = machine.examine()
    assert found.target.prefix == str(full)
    assert "another-activated" in found.conditions

    install(site_of(full).parent / "moved", "bitsandbytes", "0.49.0")
    machine.environ["VIRTUAL_ENV"] = str(tmp_path / "gone")
    found = machine.examine()
    assert [one.fact for one in found.unknown if "VIRTUAL_ENV" in one.fact] == ["target VIRTUAL_ENV"]


def test_without_any_python_there_is_none(machine: Machine) -> None:
    found = machine.examine()
    assert (found.target.kind, found.packages, found.torch, found.bitsandbytes) == ("none", (), None, None)


def test_the_projects_environment_comes_first_and_is_known_by_its_name(
    machine: Machine, venvs: dict[str, Path]
) -> None:
    project = Project(machine.cwd, machine.cwd / "bnbenv.toml")
    generation = project.generations("bnb") / "2"
    generation.parent.mkdir(parents=True)
    shutil.copytree(venvs["own"], generation, symlinks=True)
    project.link("bnb").symlink_to(generation)
    machine.environ["VIRTUAL_ENV"] = str(venvs["open"])
    found = machine.examine(project=project)
    assert (found.target.kind, found.target.env, found.target.prefix) == ("bnbenv", "bnb", str(generation))
    # Its link is the same one.
    assert machine.examine(".venv-bnb").target.env == "bnb"
    # The user's own project is for those who have activated nothing.
    own = Project(machine.cwd, machine.cwd / "bnbenv.toml", user=True)
    install(site_of(venvs["open"]), "bitsandbytes", "0.50.2")
    assert machine.examine(project=own).target.prefix == str(venvs["open"])
    with pytest.raises(UsageError, match="the environment other cannot be examined"):
        machine.examine(project=project, env="other")


def test_behind_a_shim_is_the_version_that_it_would_start(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "pyenv"
    for version in ("3.11.7", "3.11.12", "3.12.1"):
        minor = ".".join(version.split(".")[:2])
        binary = root / "versions" / version / "bin" / f"python{minor}"
        binary.parent.mkdir(parents=True)
        binary.write_text("")
        (binary.parent / "python").symlink_to(binary.name)
        install(root / "versions" / version / "lib" / f"python{minor}" / "site-packages", "bitsandbytes", "0.50.2")
        (root / "versions" / version / "lib" / f"python{minor}" / "os.py").write_text("")
    (root / "shims").mkdir()
    (root / "shims" / "python").write_text("#!/bin/sh\nexit 1\n")
    (root / "version").write_text("3.12.1\n")
    machine.environ["PATH"] = str(root / "shims")
    assert machine.examine().target.prefix == str(root / "versions" / "3.12.1")
    (machine.cwd / ".python-version").write_text("3.11\n")
    assert machine.examine().target.prefix == str(root / "versions" / "3.11.12")
    machine.environ["PYENV_VERSION"] = "3.11.7"
    assert machine.examine().target.prefix == str(root / "versions" / "3.11.7")
    assert not machine.started


def test_an_interpreter_of_an_unusual_layout_is_asked(machine: Machine, venvs: dict[str, Path], tmp_path: Path) -> None:
    script = tmp_path / "tools" / "py"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {venvs["open"]}/bin/python "$@"\n')
    script.chmod(0o755)
    found = machine.examine(script)
    assert found.target.prefix == str(venvs["open"])
    assert len(machine.started) == 1

    script.write_text("#!/bin/sh\necho no Python\n")
    with pytest.raises(UsageError, match="no Python environment and no interpreter"):
        machine.examine(script)
    for word in ("", "not-there", "a\0b", "x" * 5000, str(machine.home)):
        with pytest.raises(UsageError):
            machine.examine(word)


def test_a_venv_whose_python_is_gone_or_became_another_is_told(
    machine: Machine, venvs: dict[str, Path], tmp_path: Path
) -> None:
    prefix = tmp_path / "old"
    shutil.copytree(venvs["own"], prefix, symlinks=True)
    config = prefix / "pyvenv.cfg"
    config.write_text(config.read_text().replace(f"{sys.version_info[0]}.{sys.version_info[1]}.", "3.6."))
    found = machine.examine(prefix)
    assert "python-changed" in found.conditions
    assert found.target.version != "3.6"
    for name in (prefix / "bin").glob("python*"):
        name.unlink()
    (prefix / "bin" / "python").symlink_to(tmp_path / "uninstalled" / "bin" / "python3.11")
    assert "python-gone" in machine.examine(prefix).conditions


def test_a_module_in_the_current_folder_shadows_a_package(machine: Machine, venvs: dict[str, Path]) -> None:
    prefix = machine.root / "copy"
    shutil.copytree(venvs["own"], prefix, symlinks=True)
    (machine.cwd / "torch.py").write_text("")
    assert "shadowed-here" not in machine.examine(prefix).conditions  # there is no other torch
    install(site_of(prefix), "torch", "2.9.1")
    assert str(machine.cwd / "torch.py") in machine.examine(prefix).conditions["shadowed-here"]
    (machine.cwd / "torch.py").unlink()
    # A checkout that is installed as editable is what is meant.
    install(machine.cwd, "bitsandbytes", "0.51.0")
    (site_of(prefix) / "checkout.pth").write_text(str(machine.cwd))
    assert "shadowed-here" not in machine.examine(prefix).conditions
    (site_of(prefix) / "checkout.pth").unlink()
    install(site_of(prefix), "bitsandbytes", "0.50.2")
    assert str(machine.cwd / "bitsandbytes") in machine.examine(prefix).conditions["shadowed-here"]


@pytest.mark.skipif(os.name != "posix", reason="Windows decodes .pth files in its own way")
def test_a_pth_file_that_ends_python(machine: Machine, venvs: dict[str, Path]) -> None:
    prefix = machine.root / "copy"
    shutil.copytree(venvs["own"], prefix, symlinks=True)
    (site_of(prefix) / "fine.pth").write_text("/nowhere/größer\n", encoding="utf-8")
    assert "pth-garbled" not in machine.examine(prefix).conditions
    (site_of(prefix) / "broken.pth").write_bytes(b"\x9f\x00\xff")
    assert str(site_of(prefix) / "broken.pth") in machine.examine(prefix).conditions["pth-garbled"]
    (site_of(prefix) / "broken.pth").unlink()
    prefix.chmod(0)
    if not os.access(prefix, os.R_OK):  # root may look everywhere
        with pytest.raises(UsageError, match="may not look"):
            machine.examine(prefix)
    prefix.chmod(0o755)


def test_a_folder_that_cannot_be_read_is_unknown(machine: Machine, venvs: dict[str, Path]) -> None:
    machine.environ["PYTHONPATH"] = "x" * 300  # longer than a file system takes
    found = machine.examine(venvs["own"])
    (reason,) = [one.reason for one in found.unknown if one.fact.endswith("xxx")]
    assert reason.endswith("xxx cannot be read (File name too long)")


def test_windows_layouts_are_read(machine: Machine, tmp_path: Path) -> None:
    prefix = tmp_path / "env"
    (prefix / "Scripts").mkdir(parents=True)
    (prefix / "Scripts" / "python.exe").write_text("")
    (prefix / "pyvenv.cfg").write_text("home = C:\\Python311\nversion = 3.11.9\ninclude-system-site-packages = false\n")
    install(prefix / "Lib" / "site-packages", "bitsandbytes", "0.50.2")
    for name in (prefix, prefix / "Scripts" / "python.exe"):
        found = machine.examine(name)
        assert (found.target.kind, found.target.version) == ("venv", "3.11.9")
        assert [one.path for one in found.target.search] == [str(prefix / "Lib" / "site-packages")]
        assert found.package("bitsandbytes") is not None
