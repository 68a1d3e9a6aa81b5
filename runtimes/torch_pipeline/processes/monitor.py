"""Monitor of stages: progress, finished requests, and messages on failure."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

from llmpq_sim.core.errors import ExecutionError, InputError, LlmpqError
from runtimes.base import Completion, Progress, RuntimeOptions
from runtimes.torch_pipeline.processes.failures import StageFailure, read_failure
from runtimes.torch_pipeline.processes.heartbeat import PHASES, HeartbeatRecord, read_heartbeat
from runtimes.torch_pipeline.processes.launching import Launcher, is_alive
from runtimes.torch_pipeline.processes.worker_files import FINISHED_FILE

POLL_S = 0.2
START_TIMEOUT_S = 120.0
"""A stage that has not said anything by then never started."""

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
    _began_s: float = field(default_factory=monotonic)
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
            self._check(records)
            sleep(POLL_S)
        if self.launcher.process.returncode != 0:
            raise self._failure(None)

    def _records(self) -> dict[int, HeartbeatRecord]:
        folder = self.launcher.folder
        records = {stage: read_heartbeat(folder, stage) for stage in self.launcher.stages}
        return {stage: record for stage, record in records.items() if record is not None}

    def _check(self, records: dict[int, HeartbeatRecord]) -> None:
        """Raise if a stage is gone, or has been silent or in one step for too long."""
        now_s = monotonic()
        for stage in self.launcher.stages:
            record = records.get(stage)
            if record is not None:
                self._check_stage(stage, record, now_s)
            elif now_s - self._began_s > START_TIMEOUT_S:
                raise self._named(stage, f"did not start within {START_TIMEOUT_S:.0f} s")

    def _check_stage(self, stage: int, record: HeartbeatRecord, now_s: float) -> None:
        options = self.options
        if self._has_finished(stage):
            return
        if not is_alive(record.process) and not self._has_finished(stage):
            self._settle()
            raise self._failure(stage)
        if now_s - record.beat_s > options.hang_timeout_s:
            text = f"process {record.process} has not responded for {now_s - record.beat_s:.0f} s"
            raise self._named(stage, text)
        if record.step_since_s and now_s - record.step_since_s > options.step_timeout_s:
            spent_s = now_s - record.step_since_s
            raise self._named(stage, f"has been in one step for {spent_s:.0f} s")

    def _has_finished(self, stage: int) -> bool:
        """Return whether the last a stage said is that it is done; it may just have said so."""
        record = read_heartbeat(self.launcher.folder, stage)
        return record is not None and record.phase == PHASES.index("done")

    def _settle(self) -> None:
        """Wait a moment for the other stages to say what happened to them."""
        end_s = monotonic() + SETTLE_S
        while monotonic() < end_s and self.launcher.stage_processes():
            sleep(0.05)

    def _failure(self, gone: int | None) -> LlmpqError:
        """Return what to say when torchrun or a stage has ended badly."""
        folder = self.launcher.folder
        said = {stage: read_failure(folder, stage) for stage in self.launcher.stages}
        for kind in ("input", "memory", "fault"):
            for stage, failure in said.items():
                if failure is not None and failure.kind == kind:
                    return self._told(stage, failure)
        records = self._records()
        for stage, failure in said.items():
            record = records.get(stage)
            is_gone = record is not None and not is_alive(record.process)
            if record and is_gone and failure is None and record.phase != PHASES.index("done"):
                return self._named(stage, f"process {record.process} was killed")
        if gone is not None:
            return self._named(gone, "ended without saying why")
        return ExecutionError(
            f"the stages of this machine ended early: another machine's are gone, or torchrun "
            f"failed: {self.launcher.log_tail()}"
        )

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
        first = records.get(self.launcher.stages[0], HeartbeatRecord())
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
