"""Monitor of stages: progress, finished requests, and messages on failure."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

from llmpq_sim.core.errors import ExecutionError, InputError, LlmpqError
from runtimes.base import Progress, RuntimeOptions, Served
from runtimes.torch_pipeline.processes.failures import StageFailure, read_failure
from runtimes.torch_pipeline.processes.heartbeat import PHASES, Pulse, read_pulse
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
        self, on_served: Callable[[Served], None], on_progress: Callable[[Progress], None]
    ) -> None:
        """Return when all stages have ended well, telling of what is finished meanwhile.

        Raises:
            ExecutionError: a stage died, hangs or has no memory.
            InputError: a stage found that what it was given cannot be.
        """
        while True:
            ended = self.launcher.has_ended()
            for served in self._finished():
                on_served(served)
            pulses = self._pulses()
            on_progress(self._progress(pulses))
            if ended:
                break
            self._check(pulses)
            sleep(POLL_S)
        if self.launcher.process.returncode != 0:
            raise self._failure(None)

    def _pulses(self) -> dict[int, Pulse]:
        folder = self.launcher.folder
        pulses = {stage: read_pulse(folder, stage) for stage in self.launcher.stages}
        return {stage: pulse for stage, pulse in pulses.items() if pulse is not None}

    def _check(self, pulses: dict[int, Pulse]) -> None:
        """Raise if a stage is gone, or has been silent or in one step for too long."""
        now_s = monotonic()
        for stage in self.launcher.stages:
            pulse = pulses.get(stage)
            if pulse is not None:
                self._check_stage(stage, pulse, now_s)
            elif now_s - self._began_s > START_TIMEOUT_S:
                raise self._named(stage, f"did not start within {START_TIMEOUT_S:.0f} s")

    def _check_stage(self, stage: int, pulse: Pulse, now_s: float) -> None:
        options = self.options
        if self._has_finished(stage):
            return
        if not is_alive(pulse.process) and not self._has_finished(stage):
            self._settle()
            raise self._failure(stage)
        if now_s - pulse.beat_s > options.hang_timeout_s:
            text = f"process {pulse.process} has not responded for {now_s - pulse.beat_s:.0f} s"
            raise self._named(stage, text)
        if pulse.step_since_s and now_s - pulse.step_since_s > options.step_timeout_s:
            spent_s = now_s - pulse.step_since_s
            raise self._named(stage, f"has been in one step for {spent_s:.0f} s")

    def _has_finished(self, stage: int) -> bool:
        """Return whether the last a stage said is that it is done; it may just have said so."""
        pulse = read_pulse(self.launcher.folder, stage)
        return pulse is not None and pulse.phase == PHASES.index("done")

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
        pulses = self._pulses()
        for stage, failure in said.items():
            pulse = pulses.get(stage)
            is_gone = pulse is not None and not is_alive(pulse.process)
            if pulse and is_gone and failure is None and pulse.phase != PHASES.index("done"):
                return self._named(stage, f"process {pulse.process} was killed")
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

    def _finished(self) -> Iterator[Served]:
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
            yield Served(told["request"], tuple(told["tokens"]), told["ended_by"])

    def _progress(self, pulses: dict[int, Pulse]) -> Progress:
        first = pulses.get(self.launcher.stages[0], Pulse())
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
                min(1.0, pulse.busy_s / elapsed_s) if elapsed_s else 0.0
                for pulse in pulses.values()
            ),
        )
