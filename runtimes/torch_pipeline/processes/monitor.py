"""Monitor of stages: progress, finished requests, and messages on failure."""

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

from llmpq_sim.core.errors import ExecutionError, InputError, LlmpqError
from llmpq_sim.io.termination import Termination
from runtimes.base import Completion, Progress, RuntimeOptions
from runtimes.torch_pipeline.processes.failures import StageFailure, read_failure
from runtimes.torch_pipeline.processes.heartbeat import PHASES, HeartbeatRecord, read_heartbeat
from runtimes.torch_pipeline.processes.launching import Launcher, StageProcess
from runtimes.torch_pipeline.processes.worker_files import FINISHED_FILE

POLL_S = 0.2
START_TIMEOUT_S = 120.0
"""How long a stage may do nothing at all before its first heartbeat. On a busy machine modules may
take longer to load, but then the process is seen at work, or waiting for its turn."""

SETTLE_S = 1.0
"""When a stage is gone, others fail in turn: how long to wait for what they say."""


@dataclass
class Watch:
    """What is looked at while stages run.

    Attributes:
        launcher: of the stages of this machine.
        devices: name of each stage's device.
        claims: what the plan says each stage needs, in words.
        requests: in all.
        options: how long a stage may stay silent.
    """

    launcher: Launcher
    devices: Sequence[str]
    claims: Sequence[str]
    requests: int
    options: RuntimeOptions
    _read_bytes: int = 0
    _looks: dict[int, tuple[float, int]] = field(default_factory=dict)
    _serving_since_s: float | None = None

    def until_done(
        self, on_completion: Callable[[Completion], None], on_progress: Callable[[Progress], None]
    ) -> None:
        """Return when all stages have ended well, telling of what is finished meanwhile.

        Raises:
            ExecutionError: a stage died, hangs or has no memory.
            InputError: a stage found that what it was given cannot be.
        """
        while True:
            ended = self.launcher.has_ended()
            for served in self._finished():
                on_completion(served)
            records = self._records()
            on_progress(self._progress(records))
            if ended:
                break
            self._check()
            sleep(POLL_S)
        if not all(map(self._has_finished, self.launcher.processes)):
            raise self._failure()

    def _records(self) -> dict[int, HeartbeatRecord]:
        folder = self.launcher.folder
        records = {stage: read_heartbeat(folder, stage) for stage in self.launcher.processes}
        return {stage: record for stage, record in records.items() if record is not None}

    def _check(self) -> None:
        """Raise if a stage is gone, or has been silent or in one step for too long."""
        for stage, process in self.launcher.processes.items():
            process.vitals.look()
            if self._has_finished(stage):
                continue
            if process.exit_code() is not None and not self._has_finished(stage):
                self._settle()
                raise self._failure()
            self._check_stage(stage, process)

    def _check_stage(self, stage: int, process: StageProcess) -> None:
        options, idle_s = self.options, process.vitals.idle_s()
        now_s = monotonic()  # before the record is read: who is slow here must not seem slow there
        record = read_heartbeat(self.launcher.folder, stage)
        if record is None:
            if process.vitals.is_stopped and idle_s > options.hang_timeout_s:
                raise self._silent(stage, process, idle_s)
            if idle_s > START_TIMEOUT_S:
                raise self._named(stage, f"did not start within {START_TIMEOUT_S:.0f} s")
            return
        silent_s = min(now_s - record.beat_s, self._heard(stage, record) * POLL_S)
        is_at_work = idle_s < options.hang_timeout_s and silent_s < options.step_timeout_s
        if silent_s > options.hang_timeout_s and not is_at_work:
            raise self._silent(stage, process, now_s - record.beat_s)
        if record.step_since_s and now_s - record.step_since_s > options.step_timeout_s:
            spent_s = now_s - record.step_since_s
            raise self._named(stage, f"has been in one step for {spent_s:.0f} s")

    def _heard(self, stage: int, record: HeartbeatRecord) -> int:
        """Return how often this process has looked since a stage's last heartbeat.

        It tells a silent stage from a machine that was asleep, or all of whose processes were.
        """
        last_s, looks = self._looks.get(stage, (0.0, 0))
        looks = looks + 1 if record.beat_s == last_s else 0
        self._looks[stage] = record.beat_s, looks
        return looks

    def _silent(self, stage: int, process: StageProcess, silent_s: float) -> ExecutionError:
        how = " and is stopped" if process.vitals.is_stopped else ""
        text = f"process {process.number} has not responded for {silent_s:.0f} s{how}"
        return self._named(stage, text)

    def _has_finished(self, stage: int) -> bool:
        """Return whether the last a stage said is that it is done; it may just have said so."""
        record = read_heartbeat(self.launcher.folder, stage)
        return record is not None and record.phase == PHASES.index("done")

    def _settle(self) -> None:
        """Wait a moment for the other stages to say what happened to them."""
        end_s = monotonic() + SETTLE_S
        while monotonic() < end_s and not self.launcher.has_ended():
            sleep(0.05)

    def _failure(self) -> LlmpqError:
        """Return what to say when a stage has ended badly: of the one that began, not of others."""
        folder, processes = self.launcher.folder, self.launcher.processes
        said = {stage: read_failure(folder, stage) for stage in processes}
        for kind in ("input", "memory", "fault"):
            for stage, failure in said.items():
                if failure is not None and failure.kind == kind:
                    return self._told(stage, failure)
        silent = {
            stage: process.exit_code() or 0
            for stage, process in processes.items()
            if said[stage] is None and not self._has_finished(stage)
        }
        for stage in sorted(silent, key=lambda one: _rank(silent[one])):
            if processes[stage].exit_code() is not None:
                return self._named(stage, _end_text(processes[stage], silent[stage]))
        for stage, failure in said.items():
            if failure is not None:  # its peers here are well: it lost one on another machine
                return self._named(stage, f"lost a stage of another machine: {failure.message}")
        return ExecutionError("the stages ended early and did not say why")

    def _told(self, stage: int, failure: StageFailure) -> LlmpqError:
        if failure.kind == "input":
            return InputError(failure.message)
        if failure.kind == "memory":
            text = f"is out of memory while {failure.phase}: {failure.message}"
            return self._named(stage, f"{text}; the plan has it {self.claims[stage]}")
        return self._named(stage, f"failed while {failure.phase}: {failure.message}")

    def _named(self, stage: int, text: str) -> ExecutionError:
        return ExecutionError(f"stage {stage} on {self.devices[stage]}: {text}")

    def _finished(self) -> Iterator[Completion]:
        """Yield requests that were finished since the last call."""
        path: Path = self.launcher.folder / FINISHED_FILE
        if not path.exists():
            return
        with path.open("rb") as stream:
            stream.seek(self._read_bytes)
            content = stream.read()
        whole, _, _ = content.rpartition(b"\n")
        if not whole:
            return
        self._read_bytes += len(whole) + 1
        for line in whole.splitlines():
            told = json.loads(line)
            yield Completion(told["request"], tuple(told["tokens"]), told["ended_by"])

    def _progress(self, records: dict[int, HeartbeatRecord]) -> Progress:
        first = records.get(next(iter(self.launcher.processes)), HeartbeatRecord())
        is_serving = first.phase >= PHASES.index("serving")
        if is_serving and self._serving_since_s is None:
            self._serving_since_s = monotonic()
        elapsed_s = monotonic() - self._serving_since_s if self._serving_since_s else 0.0
        return Progress(
            phase="serving" if is_serving else "loading",
            finished=first.finished,
            requests=self.requests,
            output_tokens=first.output_tokens,
            elapsed_s=elapsed_s,
            busy_fraction=tuple(
                min(1.0, record.busy_s / elapsed_s) if elapsed_s else 0.0
                for record in records.values()
            ),
        )


def _rank(exit_code: int) -> int:
    """Return how likely a process that ended so is not the one with which it began.

    Those that lose a peer may abort, and what fails at the start exits.
    """
    return (exit_code >= 0) + 2 * (exit_code == -signal.SIGABRT)


def _end_text(process: StageProcess, exit_code: int) -> str:
    """Return how a process ended that did not say why."""
    if exit_code == -signal.SIGKILL:
        return f"process {process.number} was killed"
    number = signal.SIGTERM if exit_code == Termination.exit_code else -exit_code
    if number > 0:
        return f"process {process.number} was ended by {signal.Signals(number).name}"
    words = process.last_words() or "it did not say why"
    return f"process {process.number} ended with exit code {exit_code}: {words}"
