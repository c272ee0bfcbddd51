"""A checkpoint that is made appears whole or not at all, and what is interrupted goes on where it stopped.

The script that quantizes is a stand-in here, which is quick and fails in the ways that it is told to.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bnbenv.errors import BnbenvError, Busy, UsageError
from bnbenv.models.environment import Environment
from bnbenv.models.local import read_local
from bnbenv.models.prequantize.make import Made, Ports, prequantize
from bnbenv.models.prequantize.note import read_note
from bnbenv.models.prequantize.order import Job, Order, difference
from bnbenv.models.prequantize.target import no_space
from bnbenv.process import Command, Finished, SystemRunner

STAND_IN = Path(__file__).with_name("prequantize_stand_in.py")
DRIVER = Path(__file__).with_name("prequantize_driver.py")
PACKAGES = {
    **{"torch": "2.13.0", "transformers": "5.23.0", "bitsandbytes": "0.50.2"},
    **{"accelerate": "1.15.0", "safetensors": "0.8.0"},
}
SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]


@dataclass
class Heard:
    """Keeps what is told."""

    lines: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def detail(self, line: str) -> None: ...

    def at(self, text: str) -> None: ...


@dataclass(frozen=True)
class After:
    """Runs the command, then does something."""

    then: Callable[[], object]

    def run(self, command: Command) -> Finished:
        done = SystemRunner().run(command)
        assert command.watch is not None
        command.watch(0, done.stdout, "")
        self.then()
        return done


@dataclass
class Bench:
    """``bench("die 2")`` makes the checkpoint with a stand-in that ends so; ``made`` are the files that it wrote."""

    folder: Path
    model: Path
    heard: Heard = field(default_factory=Heard)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def __call__(self, how: str = "", runner: Any = None, free: int | None = None, **order: Any) -> Made:
        (self.model.parent / "log").unlink(missing_ok=True)
        changes = {"STAND_IN": how, "STAND_IN_LOG": str(self.model.parent / "log")}
        ports = Ports(runner or SystemRunner(), self.heard, os.environ, changes, free, STAND_IN)
        wanted = msgspec.structs.replace(Order(str(self.model), self.model, self.out), **order)
        python = Environment(Path(sys.executable), "this Python", PACKAGES)
        return prequantize(wanted, read_local(self.model), python, 20_000, ports)

    def fails(self, how: str = "", **more: Any) -> BnbenvError:
        with pytest.raises(BnbenvError) as failed:
            self(how, **more)
        return failed.value

    @property
    def made(self) -> list[str]:
        log = self.model.parent / "log"
        return log.read_text().split() if log.exists() else []

    def there(self) -> list[str]:
        """What lies where the result belongs."""
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    model = tmp_path / "models" / "tiny"
    model.mkdir(parents=True)
    header = json.dumps({"a.weight": {"dtype": "BF16", "shape": [8, 8], "data_offsets": [0, 128]}}).encode()
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(128))
    (model / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    (tmp_path / "results").mkdir()
    return Bench(tmp_path / "results", model)


def test_it_is_killed_before_each_of_its_steps(bench: Bench) -> None:
    words = [sys.executable, str(DRIVER), str(bench.model), str(bench.out), "each", "0"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert min(json.loads(done.stdout)) > 30  # steps: in an empty place, and where it replaces an earlier result


def test_what_was_finished_before_a_kill_is_kept(bench: Bench) -> None:
    error = bench.fails("die 2")
    assert error.code == "out-of-memory" and "killed" in error.message and "goes on where it stopped" in error.next_step
    assert bench.there() == [".out.bnbenv-part"]
    made = bench()
    assert (made.kept, bench.made, bench.there()) == (2, SHARDS[2:], ["out"])
    again = bench()
    assert (again.there, bench.made) == (True, [])


def test_a_finished_file_that_is_damaged_is_made_again(bench: Bench) -> None:
    bench.fails("die 2")
    damaged = bench.folder / ".out.bnbenv-part" / "out" / SHARDS[0]
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    assert (bench().kept, bench.made) == (1, [SHARDS[0], SHARDS[2]])


@pytest.mark.parametrize("what", ["options", "checkpoint", "packages", "journal"])
def test_another_job_begins_anew_and_says_why(what: str, bench: Bench) -> None:
    bench.fails("die 2")
    if what == "checkpoint":
        os.utime(bench.model / "model.safetensors", (1, 1))
    if what == "journal":
        (bench.folder / ".out.bnbenv-part" / "journal.json").write_text('{"job":')
    made = bench("packages" if what == "packages" else "", quant="fp4" if what == "options" else "nf4")
    assert (made.kept, bench.made[-3:]) == (0 if what != "packages" else 2, SHARDS)
    because = {"options": "other options (quant)", "checkpoint": "another checkpoint (model.safetensors)"}
    because |= {"packages": "other packages", "journal": "cannot be read"}
    assert any("begun anew" in line and because[what] in line for line in bench.heard.lines), bench.heard.lines


@pytest.mark.parametrize("how", ["error not-finite 2", "die 0", "largest 5000", "room 9000000000000000", "lie"])
def test_what_cannot_go_on_leaves_nothing(how: str, bench: Bench) -> None:
    error = bench.fails(how, free=4000)
    code = {"largest": "out-of-memory", "room": "no-space", "die": "out-of-memory", "lie": "not-as-written"}
    assert error.code == code.get(how.split()[0], "not-finite"), error.message
    if how == "largest 5000":
        assert "0.0 MB" in error.message and "tensor" in error.message
    assert bench.there() == ([] if how != "lie" else [".out.bnbenv-part"])


def test_a_folder_of_somebody_else_is_not_written_into(bench: Bench) -> None:
    folder = bench.folder / ".out.bnbenv-part"
    folder.symlink_to(bench.model)
    assert bench.fails().code == "in-the-way"
    folder.unlink()
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
        assert "another user" in bench.fails().message


def test_too_little_space_is_said_before_anything_is_written(bench: Bench) -> None:
    order = Order(str(bench.model), bench.model, bench.out)
    ports = Ports(SystemRunner(), bench.heard, os.environ, script=STAND_IN)
    python = Environment(Path(sys.executable), "this Python", PACKAGES)
    with pytest.raises(BnbenvError, match=r"it takes 9000000\.0 GB and 67\.1 MB to spare, and .* are free") as refused:
        prequantize(order, read_local(bench.model), python, 9 * 10**15, ports)
    assert (refused.value.code, bench.there()) == ("no-space", []) and "df -i" not in refused.value.message
    assert "df -i" in no_space(bench.out, 1000, 0).message  # a disk that is full, it says, and is not


def test_a_checkpoint_that_changes_meanwhile(bench: Bench) -> None:
    error = bench.fails(runner=After(lambda: os.utime(bench.model / "model.safetensors", (1, 1))))
    assert (error.code, bench.there()) == ("changed", [])


def test_a_time_limit(bench: Bench) -> None:
    error = bench.fails("hang 1", limit=1.0)
    assert error.code == "time-limit" and "--limit" in error.next_step
    assert bench().kept == 1


def test_two_at_once_and_ctrl_c(bench: Bench) -> None:
    words = [sys.executable, str(DRIVER), str(bench.model), str(bench.out), "run", "0"]
    log = bench.model.parent / "log"
    environ = {**os.environ, "STAND_IN": "hang 1", "STAND_IN_LOG": str(log)}
    with subprocess.Popen(words, env=environ, stderr=subprocess.PIPE) as first:
        end = time.monotonic() + 60
        while not log.exists() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.5)  # until the parent has noted it
        error = bench.fails()
        assert isinstance(error, Busy) and str(bench.out) in error.message
        first.send_signal(signal.SIGINT)
        assert first.wait(30) != 0
    assert bench().kept == 1
    assert bench.there() == ["out"]


def test_a_disk_that_becomes_full(bench: Bench, tmp_path: Path, mounted: Callable[[Path, str], None]) -> None:
    mounted(bench.folder, "size=80m")
    filler = bench.folder / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as stream:
            size = 1 << 20
            while size >= 512:
                try:
                    stream.write(bytes(size))
                except OSError as error:
                    assert error.errno == errno.ENOSPC
                    size //= 2

    error = bench.fails(runner=After(fill))
    assert error.code == "no-space" and "0.0 MB are free" in error.message and "goes on" in error.next_step
    assert bench.there() == [".out.bnbenv-part", "filler"]
    filler.unlink()
    assert bench().kept == 3


def test_a_file_system_that_cannot_be_written(bench: Bench, mounted: Callable[[Path, str], None]) -> None:
    mounted(bench.folder, "size=1m,ro")
    assert bench.fails().code == "no-permission"


@pytest.fixture
def mounted() -> Iterator[Callable[[Path, str], None]]:
    """Mounts a small file system on a folder for a test."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small file system cannot be mounted: that takes root")
    places: list[Path] = []

    def mount(place: Path, options: str) -> None:
        words = ["mount", "-t", "tmpfs", "-o", options, "bnbenv-test", str(place)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
        places.append(place)

    yield mount
    for place in places:
        subprocess.run(["umount", "-l", place], check=False)


def test_where_it_may_not_go(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(bench.folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    for out, code in {
        tmp_path / "file": "in-the-way",
        tmp_path / "link": "in-the-way",
        tmp_path / "full": "in-the-way",
        tmp_path / "nowhere" / "out": "no-folder",
        bench.model: "inside-model",
        bench.model / "out": "inside-model",
        bench.model.parent: "around-model",
        Path("/"): "no-folder",
    }.items():
        for force in (False, True):
            error = bench.fails(out=out, force=force)
            assert (type(error), error.code) == (UsageError, code), out
    assert not list(tmp_path.glob("**/*.bnbenv-part"))
    (tmp_path / "empty").mkdir()
    assert not bench(out=tmp_path / "empty").there


@pytest.mark.parametrize("force", [False, True])
def test_what_came_there_meanwhile_is_not_replaced(force: bool, bench: Bench) -> None:
    def fill() -> None:
        bench.out.mkdir(exist_ok=True)
        (bench.out / "trained.bin").write_text("for a week")

    error = bench.fails(runner=After(fill), force=force)
    assert (type(error), error.code) == (UsageError, "in-the-way")
    assert [path.name for path in bench.out.iterdir()] == ["trained.bin"]
    (bench.out / "trained.bin").unlink()
    assert bench(force=force).kept == 3  # nothing is made twice


def test_pipes_in_the_place_of_its_files_are_not_opened(bench: Bench) -> None:
    part = bench.folder / ".out.bnbenv-part"
    part.mkdir()
    os.mkfifo(part / "journal.json")
    bench.out.mkdir()
    os.mkfifo(bench.out / "bnbenv-prequantize.json")
    assert bench.fails().code == "in-the-way"
    (bench.out / "bnbenv-prequantize.json").unlink()
    assert not bench().there


def test_names_that_are_no_text(bench: Bench) -> None:
    (bench.model / "notes\udcff.md").touch()
    made = bench()
    assert [note for note in made.notes if "udcff" in note and "not copied" in note]
    assert bench.fails(out=bench.folder / "\udcff").code == "bad-name"
    shutil.move(bench.model, bench.model.with_name("\udcff"))
    bench.model = bench.model.with_name("\udcff")
    assert bench.fails(out=bench.folder / "other").code == "bad-name"
    assert bench.made == [] and bench.there() == ["out"]


def test_another_result_is_replaced_only_when_that_is_asked_for(bench: Bench) -> None:
    bench()
    error = bench.fails(quant="fp4")
    assert error.code == "exists" and "other options (quant)" in error.message and "--force" in error.next_step
    (bench.out / "adapter.bin").write_text("trained for a week")
    assert "adapter.bin" in bench.fails(quant="fp4", force=True).message
    (bench.out / "adapter.bin").unlink()
    assert not bench(quant="fp4", force=True).there
    note = read_note(bench.out)
    assert note is not None and note.quantization == "fp4-double"
    assert bench.there() == ["out"]


def test_what_is_copied_beside_the_weights(tmp_path: Path, bench: Bench) -> None:
    """The model is a snapshot in the hub's cache: links to files of that repository."""
    home = tmp_path / "hub" / "models--me--tiny"
    (home / "blobs").mkdir(parents=True)
    shutil.copytree(bench.model, home / "snapshots" / "abc")
    snapshot = home / "snapshots" / "abc"
    contents = {"tokenizer.json": "{}", "LICENSE": "free", "chat_template.jinja": "x", "generation_config.json": "{}"}
    others = {"modeling_own.py": "import os", "pytorch_model.bin": "x", "consolidated.safetensors": "x", "run.sh": "x"}
    for number, (name, text) in enumerate({**contents, **others}.items()):
        (home / "blobs" / str(number)).write_text(text)
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    (tmp_path / "secret.json").write_text("private")
    (snapshot / "passwords.json").symlink_to(tmp_path / "secret.json")
    (snapshot / "additional_chat_templates").mkdir()
    (snapshot / "additional_chat_templates" / "tools.jinja").write_text("y")
    made = bench(model=snapshot, source="me/tiny", out=bench.folder / "a\nb c")
    assert sorted(made.copied) == sorted([*contents, "additional_chat_templates/tools.jinja"])
    out = bench.folder / "a\nb c"
    for name in made.copied:
        assert (out / name).read_bytes() == (snapshot / name).read_bytes() and not (out / name).is_symlink()
    assert [note for note in made.notes if "passwords.json" in note and "link" in note]
    assert (made.note.revision, made.note.source) == ("abc", "me/tiny")
    assert bench(model=snapshot, source="me/tiny", out=out).there
    (out / "additional_chat_templates" / "mine.jinja").touch()
    assert "additional_chat_templates/mine.jinja" in bench.fails(model=snapshot, out=out, force=True).message
    with_code = bench(model=snapshot, out=bench.folder / "code", trust_remote_code=True)
    assert "modeling_own.py" in with_code.copied


def test_what_makes_another_job() -> None:
    """Whatever changes the bytes of the result; the number of the GPU and where it is written to do not."""
    order = Order("m", Path("m"), Path("out"))

    def job(script: int = 1, **changes: Any) -> Job:
        return Job(msgspec.structs.replace(order, **changes).options(), {}, {}, script)

    changed = {"dtype": "float16", "skip": ("lm_head",), "compute_dtype": "float32", "shard_bytes": 1, "quant": "fp4"}
    for name, value in {**changed, "double_quant": False, "trust_remote_code": True, "device": "cuda:0"}.items():
        assert difference(job(), job(**{name: value})) == f"other options ({name})"
    assert difference(job(), job(script=2)) == "another bnbenv"
    assert difference(job(device="cuda:0"), job(device="cuda:1", out=Path("else"), limit=5.0, force=True)) is None


def test_a_header_that_changed_in_place_is_another_checkpoint(bench: Bench) -> None:
    """Of the same size and time: a tool that puts times back."""
    bench.fails("die 2")
    file = bench.model / "model.safetensors"
    stat = file.stat()
    file.write_bytes(file.read_bytes().replace(b"a.weight", b"b.weight"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert bench().kept == 0


def test_a_result_that_was_cut_off_later_is_not_called_whole(bench: Bench) -> None:
    bench()
    file = bench.out / SHARDS[0]
    os.truncate(file, file.stat().st_size - 1)
    assert "missing or changed" in bench.fails().message
    assert not bench(force=True).there
