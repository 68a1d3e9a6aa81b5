"""A stage's record says how far it is."""

import os
from pathlib import Path
from time import monotonic, sleep

from runtimes.torch_pipeline.processes.heartbeat import (
    INTERVAL_S,
    Heartbeat,
    HeartbeatRecord,
    heartbeat_path,
    read_heartbeat,
)


def started(folder: Path) -> Heartbeat:
    """Return the heartbeat of this process."""
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
    heartbeat.record.steps, heartbeat.record.busy_s = 2**40, 1.25
    second = after_a_beat(tmp_path, first)
    assert (second.steps, second.busy_s) == (2**40, 1.25)
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
