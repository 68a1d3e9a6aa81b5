"""Heartbeats of stages: progress is told, and no stage outlives its launcher."""

import os
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

from runtimes.torch_pipeline.processes.heartbeat import (
    INTERVAL_S,
    Heartbeat,
    HeartbeatRecord,
    heartbeat_path,
    parent_path,
    read_heartbeat,
)
from runtimes.torch_pipeline.processes.launching import is_alive

ROOT = Path(__file__).resolve().parents[2]

BEATING = """
import sys
from pathlib import Path
from time import sleep
from runtimes.torch_pipeline.processes.heartbeat import Heartbeat
Heartbeat(Path(sys.argv[1]), 0).start()
sleep(60)
"""


def started(folder: Path) -> Heartbeat:
    """Return the heart of this process, whose parent is as it should be."""
    parent_path(folder).write_text(str(os.getppid()), encoding="ascii")
    heartbeat = Heartbeat(folder, 3)
    heartbeat.start()
    return heartbeat


def after_a_beat(folder: Path, last: HeartbeatRecord | None) -> HeartbeatRecord:
    """Return the first record that differs from the last one."""
    while (record := read_heartbeat(folder, 3)) == last or record is None:
        sleep(0.01)
    return record


def test_nothing_is_known_of_a_stage_that_has_not_started(tmp_path: Path) -> None:
    assert read_heartbeat(tmp_path, 3) is None
    heartbeat_path(tmp_path, 3).write_bytes(b"half")
    assert read_heartbeat(tmp_path, 3) is None


def test_a_record_says_what_the_stage_said_last(tmp_path: Path) -> None:
    heartbeat = started(tmp_path)
    first = read_heartbeat(tmp_path, 3)
    assert first is not None
    assert first.process == os.getpid()
    assert first.beat_s <= monotonic()
    heartbeat.record.visits, heartbeat.record.busy_s = 2**40, 1.25
    second = after_a_beat(tmp_path, first)
    assert (second.visits, second.busy_s) == (2**40, 1.25)
    assert second.beat_s - first.beat_s >= INTERVAL_S
    heartbeat.record.phase = 3
    heartbeat.stop()
    last = read_heartbeat(tmp_path, 3)
    assert last is not None
    assert last.phase == 3


def test_a_stopped_heart_beats_no_more(tmp_path: Path) -> None:
    heartbeat = started(tmp_path)
    heartbeat.stop()
    last = read_heartbeat(tmp_path, 3)
    sleep(2 * INTERVAL_S)
    assert read_heartbeat(tmp_path, 3) == last


def beating_under(folder: Path, parent_code: str) -> int:
    """Start a process with a heart under another one, and return it once it beats or is gone."""
    (folder / "beating.py").write_text(BEATING, encoding="utf-8")
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_code, str(folder / "beating.py"), str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.stdout.close()
    parent.wait()
    return child


def gone(process: int) -> bool:
    """Return whether a process ends soon."""
    end_s = monotonic() + 20
    while is_alive(process) and monotonic() < end_s:
        sleep(0.02)
    return not is_alive(process)


WAITS = """
import os, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[2])
(folder / "parent").write_text(str(os.getpid()))
child = subprocess.Popen([sys.executable, *sys.argv[1:]])
while not (folder / "stage-0.heartbeat").exists():
    time.sleep(0.01)
print(child.pid, flush=True)
os._exit(0)
"""

LEAVES_AT_ONCE = """
import os, subprocess, sys
from pathlib import Path
(Path(sys.argv[2]) / "parent").write_text(str(os.getpid()))
print(subprocess.Popen([sys.executable, *sys.argv[1:]]).pid, flush=True)
os._exit(0)
"""


def test_a_stage_ends_when_its_parent_does(tmp_path: Path) -> None:
    assert gone(beating_under(tmp_path, WAITS))


def test_a_stage_whose_parent_ended_before_its_first_beat_ends_too(tmp_path: Path) -> None:
    assert gone(beating_under(tmp_path, LEAVES_AT_ONCE))
