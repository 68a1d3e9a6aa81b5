"""The stage that began it is blamed, in words that help; one that is only slow is waited for."""

import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.core.errors import ExecutionError, LlmpqError
from runtimes.base import RuntimeOptions
from runtimes.torch_pipeline.processes import monitor
from runtimes.torch_pipeline.processes.failures import StageFailure, write_failure
from runtimes.torch_pipeline.processes.heartbeat import PHASES, HeartbeatRecord, heartbeat_path
from runtimes.torch_pipeline.processes.launching import Launcher, StageProcess
from runtimes.torch_pipeline.processes.monitor import START_TIMEOUT_S, Watch
from runtimes.torch_pipeline.processes.vitals import Vitals

NOW_S = 10_000.0
OPTIONS = RuntimeOptions(hang_timeout_s=5.0, step_timeout_s=120.0)
LOST = StageFailure("peer", "serving", "Connection closed by peer [127.0.0.1]:4000")


class SeenVitals(Vitals):
    """Vital signs as a test has them."""

    def __init__(self, idle_s: float, is_stopped: bool) -> None:
        self.is_stopped = is_stopped
        self.idle = idle_s

    def look(self) -> None:
        pass

    def idle_s(self) -> float:
        return self.idle


@dataclass
class SeenProcess:
    """A process that runs, or has ended somehow."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        return self.returncode


def stage(
    folder: Path,
    number: int,
    *,
    exit_code: int | None = None,
    idle_s: float = 0.0,
    is_stopped: bool = False,
    silent_s: float | None = None,
    phase: str = "loading",
) -> StageProcess:
    """Return a stage that was last heard of some time ago, None for never."""
    if silent_s is not None:
        record = HeartbeatRecord(phase=PHASES.index(phase), beat_s=NOW_S - silent_s)
        heartbeat_path(folder, number).write_bytes(record.packed())
    process: Any = SeenProcess(700 + number, exit_code)
    vitals = SeenVitals(idle_s, is_stopped)
    return StageProcess(process, folder / f"stage-{number}.log", vitals)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time pass between two looks."""
    monkeypatch.setattr(monitor, "sleep", lambda _: None)
    monkeypatch.setattr(monitor, "monotonic", lambda: NOW_S)
    monkeypatch.setattr(monitor, "SETTLE_S", 0.0)


def fault(folder: Path, *stages: StageProcess, looks: int = 1000) -> str:
    """Return what is said of stages; nothing if all is well for so many looks."""
    launcher = Launcher(folder, dict(enumerate(stages)))
    ended: list[bool] = []

    def on_progress(_: object) -> None:
        ended.append(True)
        if len(ended) == looks:
            raise InterruptedError

    names = [f"cpu-{number}" for number in range(len(stages))]
    watch = Watch(launcher, names, [f"at {name}" for name in names], 1, OPTIONS)
    try:
        watch.until_done(lambda _: None, on_progress)
    except InterruptedError:
        return ""
    except LlmpqError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"idle_s": 1.0}, ""),
        ({"idle_s": START_TIMEOUT_S - 1}, ""),
        ({"idle_s": START_TIMEOUT_S + 1}, "did not start within 120 s"),
        ({"idle_s": 4.0, "is_stopped": True}, ""),
        (
            {"idle_s": 6.0, "is_stopped": True},
            "process 700 has not responded for 6 s and is stopped",
        ),
        ({"silent_s": 1.0, "idle_s": 600.0}, ""),
        ({"silent_s": 60.0, "idle_s": 0.1}, ""),
        ({"silent_s": 300.0, "idle_s": 0.1}, "process 700 has not responded for 300 s"),
        ({"silent_s": 60.0, "idle_s": 60.0}, "process 700 has not responded for 60 s"),
        ({"silent_s": 600.0, "idle_s": 600.0, "phase": "done"}, ""),
    ],
)
def test_a_slow_stage_is_waited_for_and_a_silent_one_is_named(
    tmp_path: Path, seen: dict[str, Any], said: str
) -> None:
    found = fault(tmp_path, stage(tmp_path, 0, **seen), stage(tmp_path, 1, silent_s=0.0))
    assert found == (said and f"stage 0 on cpu-0: {said}")


def test_a_machine_that_was_asleep_is_no_silent_stage(tmp_path: Path) -> None:
    asleep = stage(tmp_path, 0, silent_s=1000.0, idle_s=1000.0)
    assert fault(tmp_path, asleep, looks=5) == ""
    assert fault(tmp_path, asleep, looks=50).startswith("stage 0 on cpu-0: process 700 has not")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (-signal.SIGKILL, "process 701 was killed"),
        (-signal.SIGSEGV, "process 701 was ended by SIGSEGV"),
        (-signal.SIGTERM, "process 701 was ended by SIGTERM"),
        (143, "process 701 was ended by SIGTERM"),
        (1, "process 701 ended with exit code 1: ImportError: no room"),
        (0, "process 701 ended with exit code 0: ImportError: no room"),
    ],
)
def test_how_a_process_ended_is_said(tmp_path: Path, code: int, said: str) -> None:
    (tmp_path / "stage-1.log").write_text("Traceback\n\nImportError: no room\n\n", encoding="utf-8")
    write_failure(tmp_path, 0, LOST)  # in turn
    first = stage(tmp_path, 0, exit_code=1, silent_s=0.0)
    for silent_s in (None, 0.0):
        second = stage(tmp_path, 1, exit_code=code, silent_s=silent_s)
        assert fault(tmp_path, first, second) == f"stage 1 on cpu-1: {said}"


def test_one_that_aborts_over_a_lost_peer_is_not_blamed(tmp_path: Path) -> None:
    aborted = stage(tmp_path, 0, exit_code=-signal.SIGABRT, silent_s=0.0)
    killed = stage(tmp_path, 1, exit_code=-signal.SIGKILL, silent_s=0.0)
    assert fault(tmp_path, aborted, killed) == "stage 1 on cpu-1: process 701 was killed"


def test_what_a_stage_said_goes_before_how_others_ended(tmp_path: Path) -> None:
    write_failure(tmp_path, 1, StageFailure("fault", "serving", "ValueError: odd"))
    aborted = stage(tmp_path, 0, exit_code=-signal.SIGABRT, silent_s=0.0)
    failed = stage(tmp_path, 1, exit_code=1, silent_s=0.0)
    expected = "stage 1 on cpu-1: failed while serving: ValueError: odd"
    assert fault(tmp_path, aborted, failed) == expected


def test_a_stage_that_lost_another_machine_says_so(tmp_path: Path) -> None:
    write_failure(tmp_path, 0, LOST)
    lost = stage(tmp_path, 0, exit_code=1, silent_s=0.0)
    expected = f"stage 0 on cpu-0: lost a stage of another machine: {LOST.message}"
    assert fault(tmp_path, lost) == expected


def test_stages_that_are_done_end_well(tmp_path: Path) -> None:
    stages = [stage(tmp_path, i, exit_code=0, silent_s=0.0, phase="done") for i in (0, 1)]
    assert fault(tmp_path, *stages) == ""


def test_the_last_words_are_one_line_and_short(tmp_path: Path) -> None:
    log = tmp_path / "stage-0.log"
    words = StageProcess(subprocess.Popen(["true"]), log, SeenVitals(0.0, False))
    words.process.wait()
    assert words.last_words() == ""
    log.write_bytes(b"one\n" + b"x" * 10_000 + b"\xff\n \n")
    assert words.last_words() == "x" * 400


def test_a_fault_is_an_execution_error(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, {0: stage(tmp_path, 0, exit_code=-signal.SIGKILL)})
    with pytest.raises(ExecutionError):
        Watch(launcher, ["cpu-0"], [""], 1, OPTIONS).until_done(lambda _: None, lambda _: None)
