"""``bnbenv jupyter``: a real kernel runs the generation in use, and is removed without a trace."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

pytestmark = pytest.mark.real


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "jupyter"


@pytest.fixture
def notebook(copies: Any) -> Iterator[Any]:
    """A project whose environment holds ipykernel."""
    with copies() as project:
        project.replace(
            "bnbenv.toml", lambda text: text.replace(b"# requirements = [", b'requirements = ["ipykernel"] # [', 1)
        )
        project.done("sync", "--no-verify")
        yield project


def asked(data: Path, kernel: str, code: str) -> str:
    """What a kernel prints for a line of code."""
    manager = KernelManager(kernel_name=kernel)
    manager.kernel_spec_manager = KernelSpecManager(kernel_dirs=[str(data / "kernels")], ensure_native_kernel=False)
    foreign = ("PYTHON", "VIRTUAL_ENV", "BNB")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    manager.start_kernel(env={**environ, "IPYTHONDIR": str(data / "ipython")})
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        printed: list[str] = []
        reply = client.execute_interactive(
            code, timeout=60, output_hook=lambda message: printed.append(str(message["content"].get("text", "")))
        )
        assert reply["content"]["status"] == "ok", reply
        return "".join(printed).strip().splitlines()[-1]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_kernel_follows_the_link_and_goes_without_a_trace(notebook: Any, data: Path) -> None:
    where = {"JUPYTER_DATA_DIR": str(data)}
    document = notebook.done("jupyter", **where)
    assert document["changed"]
    assert not notebook.done("jupyter", **where)["changed"]
    first = asked(data, document["kernel"], "import os, sys, torch; print(os.path.realpath(sys.prefix))")
    assert first == str((notebook.root / ".venv-bnb").resolve())
    notebook.done("sync", "--fresh", "--no-verify")
    second = asked(data, document["kernel"], "import os, sys; print(os.path.realpath(sys.prefix))")
    assert second == str((notebook.root / ".venv-bnb").resolve())
    assert second != first
    assert notebook.done("jupyter", "--uninstall", **where)["changed"]
    assert list((data / "kernels").iterdir()) == []
    assert not notebook.done("jupyter", "--uninstall", **where)["changed"]


def test_a_kernel_of_that_name_that_is_not_ours_stays(synced: Any, copies: Any, data: Path) -> None:
    where = {"JUPYTER_DATA_DIR": str(data)}
    with copies() as project:
        ended = project("jupyter", **where)
        assert ended.code == 1
        assert 'Add "ipykernel" to requirements' in ended.stderr
        (site,) = (project.root / ".venv-bnb").resolve().glob("lib/python*/site-packages")
        (site / "ipykernel_launcher.py").write_text("")
        taken = data / "kernels" / f"bnbenv-{project.root.name}-bnb"
        taken.mkdir(parents=True)
        (taken / "kernel.json").write_text('{"argv": ["theirs"]}')
        document = project.done("jupyter", **where)
        assert document["kernel"] == f"{taken.name}-2"
        assert json.loads((Path(document["path"]) / "kernel.json").read_text())["argv"][0] == document["python"]
        (Path(document["path"]) / "logo-64x64.png").write_text("theirs")
        project.done("jupyter", "--uninstall", **where)
        assert (taken / "kernel.json").read_text() == '{"argv": ["theirs"]}'
        assert [path.name for path in Path(document["path"]).iterdir()] == ["logo-64x64.png"]
