"""When a command is started again, and when not: with a clock that passes by itself and commands that are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from bnbenv.doctor.running.attempts import Judged, Limits, pause
from bnbenv.doctor.running.job import Job, Ports, Report, run_job
from bnbenv.doctor.running.peak import Peak, Peaks
from bnbenv.doctor.running.sizes import read_size, show_seconds, show_size
from bnbenv.doctor.running.waiting import Ask, Request
from bnbenv.errors import Failed
from bnbenv.facts.memory import Holder, Place, Sample, read_sample, visible
from bnbenv.process.passing import Passed
from bnbenv.process.tail import Tail
from bnbenv.progress import Quiet

GIB = 1 << 30


@dataclass
class Clock:
    """Time passes where somebody sleeps."""

    slept: list[float] = field(default_factory=list)
    luck: float = 1.0

    def now(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def chance(self) -> float:
        return self.luck


@dataclass
class Commands:
    """Ends as it is told, one time after the other: return code, what was written, seconds, interrupted."""

    ends: list[tuple[int, bytes, float, bool]]
    ran: list[tuple[tuple[str, ...], Mapping[str, str]]] = field(default_factory=list)

    def run(self, argv: tuple[str, ...], env: Mapping[str, str], started: Callable[[int], None]) -> Passed:
        self.ran.append((argv, env))
        code, tail, seconds, interrupted = self.ends[min(len(self.ran), len(self.ends)) - 1]
        return Passed(code, seconds, tail, interrupted)


def judged(tail: bytes) -> Judged | None:
    cause = tail.decode()
    fix = {"summary": "", "command": None, "automatic": False, "steps": []}
    memory = "memory" in cause
    return Judged("other", cause, cause, "", (), fix, "", "busy" in cause, memory) if cause else None


BUSY = (1, b"busy", 2.0, False)
FULL = (1, b"memory", 2.0, False)
DONE = (0, b"", 2.0, False)


def go(
    *ends: tuple[int, bytes, float, bool],
    limits: Limits = Limits(),  # noqa: B008 - a frozen value
    on_oom: tuple[str, ...] | None = None,
    rewind: bool = True,
    kills: tuple[int, ...] = (0,),
    clock: Clock | None = None,
    commands: Commands | None = None,
    memory: Request | None = None,
    ask: Ask = lambda take: pytest.fail("memory was not asked for"),
) -> tuple[Report, Commands, list[float]]:
    commands, clock, left = commands or Commands(list(ends)), clock or Clock(), list(kills)
    ports = Ports(
        passer=commands,
        clock=clock,
        rewind=lambda: rewind,
        judge=judged,
        judge_kill=lambda: judged(b"memory of the host") or pytest.fail("nothing"),
        kills=lambda: left.pop(0) if len(left) > 1 else left[0],
        watch=None,
        ask=ask,
        progress=Quiet(),
    )
    return run_job(Job(("train",), {"A": "b"}, limits, memory, on_oom), ports), commands, clock.slept


def test_what_passes_is_tried_again_with_growing_pauses() -> None:
    report, commands, slept = go(BUSY, BUSY, DONE)
    assert (report.last.returncode, len(commands.ran), slept, report.note) == (0, 3, [5.0, 10.0], "")
    report, commands, slept = go(BUSY)
    assert (report.last.returncode, len(commands.ran), slept) == (1, 4, [5.0, 10.0, 20.0])
    assert report.note == "it was tried again 3 times (--retries)"
    assert go(BUSY, clock=Clock(luck=0.0))[2] == [2.5, 5.0, 10.0]


def test_pauses_have_limits() -> None:
    assert [pause(Limits(), retry, 1.0) for retry in (1, 4, 5, 10**6)] == [5.0, 40.0, 60.0, 60.0]
    report, _, slept = go(BUSY, limits=Limits(retries=10**6))
    assert sum(slept) == 600 and "10 min were waited already" in report.note


@pytest.mark.parametrize(
    ("end", "more", "note"),
    [
        ((0, b"busy", 2.0, False), {}, ""),
        ((1, b"another cause", 2.0, False), {}, ""),
        ((1, b"", 2.0, False), {}, ""),
        ((-15, b"busy", 2.0, True), {}, ""),
        ((130, b"busy", 2.0, True), {}, ""),
        (BUSY, {"limits": Limits(retries=0)}, ""),
        (BUSY, {"rewind": False}, "not tried again: its standard input cannot be given twice"),
        ((1, b"busy", 300.1, False), {}, "not tried again: it ran for 5 min and may have done work"),
    ],
)
def test_nothing_else_is(end: tuple[int, bytes, float, bool], more: dict[str, object], note: str) -> None:
    report, commands, slept = go(end, **more)  # type: ignore[arg-type]
    assert (len(commands.ran), slept) == (1, [])
    assert report.note.startswith(note) and bool(report.note) == bool(note)


def test_a_command_that_ran_just_short_enough_is_tried_again() -> None:
    assert len(go((1, b"busy", 300.0, False), DONE)[1].ran) == 2


def test_memory_is_got_round_once() -> None:
    report, commands, _ = go(FULL, on_oom=("cpu",))
    assert [argv for argv, _ in commands.ran] == [("train",), ("train",)]
    assert commands.ran[1][1] == {"A": "b", "CUDA_VISIBLE_DEVICES": ""}
    assert report.fallback is not None and report.last is report.fallback
    report, commands, _ = go(FULL, (7, b"", 1.0, False), on_oom=("small", "1"))
    assert (commands.ran[1], report.last.returncode) == ((("small", "1"), {"A": "b"}), 7)
    for end in (DONE, (1, b"else", 1.0, False), (-2, b"memory", 1.0, True)):
        assert len(go(end, on_oom=("cpu",))[1].ran) == 1
    report, commands, _ = go(FULL, on_oom=("cpu",), rewind=False)
    assert len(commands.ran) == 1 and "cannot be given twice" in report.note


def test_what_is_to_get_round_it_cannot_be_run() -> None:
    """The command's own end counts."""

    class Missing(Commands):
        def run(self, argv: tuple[str, ...], env: Mapping[str, str], started: Callable[[int], None]) -> Passed:
            if argv == ("missing",):
                raise FileNotFoundError(2, "No such file or directory")
            return super().run(argv, env, started)

    report, _, _ = go(commands=Missing([FULL]), on_oom=("missing",))
    assert (report.last.returncode, report.fallback) == (1, None)
    assert report.note == "--on-oom could not be run: missing: no such file or directory"


def test_memory_is_waited_for_before_each_attempt() -> None:
    """That it does not come free before the second one does not hide how the first one ended."""

    class Asked:
        def __init__(self, *samples: Sample) -> None:
            self.left = list(samples)

        def __call__(self, take: Callable[[Sample], None]) -> Asked:
            take(self.left.pop(0))
            return self

        def stop(self) -> None: ...

    memory = Request(20 * GIB, 60.0, None)
    asked = Asked(Sample((place("GPU-a", 0),)), Sample((place("GPU-a", 70 * GIB), place("GPU-b", 0, 1))))
    report, commands, _ = go(BUSY, DONE, memory=memory, ask=asked)
    assert [env for _, env in commands.ran] == [{"A": "b"}, {"A": "b", "CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a"}]
    asked = Asked(Sample((place("GPU-a", 0),)), Sample(failure="GPU is lost"))
    report, commands, _ = go(BUSY, memory=memory, ask=asked)
    assert (len(commands.ran), report.last.returncode) == (1, 1)
    assert report.note == "not tried again: no GPU memory can be waited for: GPU is lost"
    with pytest.raises(Failed, match="GPU is lost"):
        go(DONE, memory=memory, ask=Asked(Sample(failure="GPU is lost")))


def test_memory_that_others_hold_is_first_waited_for_then_got_round() -> None:
    report, commands, slept = go((1, b"busy memory", 1.0, False), limits=Limits(retries=2), on_oom=("cpu",))
    assert (len(commands.ran), len(report.attempts), slept) == (4, 3, [5.0, 10.0])


def test_the_kernel_killed_it_for_memory() -> None:
    killed = (-9, b"", 1.0, False)
    assert go(killed, kills=(3, 4))[0].last.judged == judged(b"memory of the host")
    assert go(killed, kills=(3, 3))[0].last.judged is None
    assert go((-11, b"", 1.0, False), kills=(3, 4))[0].last.judged is None


def place(uuid: str, used: int, gpu: int = 0, ours: int | None = None) -> Place:
    return Place(gpu, uuid, "NVIDIA H200", 80 * GIB, 80 * GIB - used, used, (), ours)


def test_peaks() -> None:
    peaks = Peaks(None)
    for ours in (None, 2 * GIB, 5 * GIB, 3 * GIB):
        peaks.add(Sample((place("GPU-a", 9 * GIB, 0, ours), place("GPU-b", 7 * GIB, 1))))
    assert peaks.result() == (Peak(0, "GPU-a", 5 * GIB, "command"),)

    peaks = Peaks("GPU-a,GPU-c")  # NVML names no process of ours: what rose on a GPU that it sees
    for used in (1 * GIB, 6 * GIB, 2 * GIB):
        peaks.add(Sample((place("GPU-a", used), place("GPU-b", used, 1), place("GPU-c", 4 * GIB, 2))))
    assert peaks.result() == (Peak(0, "GPU-a", 6 * GIB, "device"),)
    assert Peaks(None).result() == ()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "abcd"),
        ("", ""),
        ("-1", ""),
        ("1", "b"),
        ("1,0", "ba"),
        ("0,9,1", "a"),
        ("2", "cd"),
        ("mig-d", "d"),
        (" GPU-b , 0 ", "ba"),
        ("NoDevFiles", ""),
    ],
)
def test_what_cuda_visible_devices_shows(value: str | None, shown: str) -> None:
    places = (place("GPU-a", 0), place("GPU-b", 0, 1), place("MIG-c", 0, 2), place("MIG-d", 0, 2))
    assert "".join(one.uuid[-1] for one in visible(places, value)) == shown


def test_a_line_of_the_probe() -> None:
    line = (
        '{"failure": null, "places": [{"gpu": 0, "uuid": "GPU-a", "name": "X", "total": 3, "free": 1, "used": 2,'
        ' "holders": [{"pid": 7, "bytes": null, "program": "python"}], "ours": null}]}'
    )
    assert read_sample(line) == Sample((Place(0, "GPU-a", "X", 3, 1, 2, (Holder(7, None, "python"),)),))
    for broken in ("", "[]", "{}", '{"places": [{}]}', line[:-9], "null"):
        assert read_sample(broken).failure


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20GiB", 20 * GIB),
        ("20G", 20 * GIB),
        ("20gb", 20 * 10**9),
        ("512MiB", 512 << 20),
        ("1.5 TiB", 1536 * GIB),
        ("1B", 1),
        ("0.5k", 512),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1G", "0", "0G", "20", "1e9", "20 XB", "20iB", "nan", "\u0662GiB", "9" * 99]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        read_size(text)


def test_how_amounts_are_shown() -> None:
    assert [show_size(size) for size in (512 << 20, GIB, 20 * GIB + GIB // 2)] == ["512 MiB", "1.0 GiB", "20.5 GiB"]
    assert [show_seconds(seconds) for seconds in (5, 90, 600, 7200, 9000)] == ["5 s", "90 s", "10 min", "2 h", "2.5 h"]


def test_the_last_output_is_kept_of_both_streams() -> None:
    """A flood on one does not push out what the other said, and the order is kept."""
    tail = Tail(limit=1000)
    tail.add(1, b"Traceback\n")
    for number in range(5000):
        tail.add(0, b"%04d\n" % number)
    tail.add(1, b"Error\n")
    kept = tail.bytes()
    assert kept.startswith(b"Traceback\n") and kept.endswith(b"4999\nError\n")
    assert 1000 < len(kept) < 1000 + 4096 + 100
    tail.add(0, b"x" * 10**6)
    assert tail.bytes() == b"Traceback\nError\n" + b"x" * 1000
