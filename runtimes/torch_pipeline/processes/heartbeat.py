"""Heartbeat of a stage: that it is alive, and how far it is.

Each stage keeps a small record in a file of the run's folder. A thread renews it; whoever launched
the stages reads it. A stage that was stopped does not renew it, and one that hangs in a step shows
since when it has been in it.
"""

import os
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

INTERVAL_S = 0.25
RECORD = struct.Struct("<qqqqqddd")
PHASES = ("starting", "loading", "serving", "done")


@dataclass
class HeartbeatRecord:
    """What a stage says of itself.

    Attributes:
        process: its process id.
        phase: index into PHASES.
        steps: steps computed.
        output_tokens: generated, as the first stage knows.
        finished: requests, as the first stage knows.
        busy_s: time spent computing.
        step_since_s: monotonic instant at which the step under way began; 0 between steps.
        beat_s: monotonic instant of the record.
    """

    process: int = 0
    phase: int = 0
    steps: int = 0
    output_tokens: int = 0
    finished: int = 0
    busy_s: float = 0.0
    step_since_s: float = 0.0
    beat_s: float = 0.0

    def packed(self) -> bytes:
        """Return the record as bytes."""
        return RECORD.pack(
            self.process,
            self.phase,
            self.steps,
            self.output_tokens,
            self.finished,
            self.busy_s,
            self.step_since_s,
            self.beat_s,
        )


def heartbeat_path(folder: Path, stage: int) -> Path:
    """Return where a stage keeps its record."""
    return folder / f"stage-{stage}.heartbeat"


def read_heartbeat(folder: Path, stage: int) -> HeartbeatRecord | None:
    """Return what a stage last said, or None where it has said nothing yet."""
    try:
        content = heartbeat_path(folder, stage).read_bytes()
    except FileNotFoundError:
        return None
    return HeartbeatRecord(*RECORD.unpack(content)) if len(content) == RECORD.size else None


class Heartbeat:
    """Renews a stage's record.

    Attributes:
        record: what is said; the stage changes it as it goes on.
    """

    def __init__(self, folder: Path, stage: int) -> None:
        self.record = HeartbeatRecord(process=os.getpid())
        self._path = heartbeat_path(folder, stage)
        self._file: int | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._file = os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600)
        self._write()
        self._thread.start()

    def stop(self) -> None:
        """Write the last record and beat no more."""
        self._stopped.set()
        self._thread.join()
        self._write()

    def _beat(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            self._write()

    def _write(self) -> None:
        self.record.beat_s = monotonic()
        if self._file is not None:
            os.pwrite(self._file, self.record.packed(), 0)
