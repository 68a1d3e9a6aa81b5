"""Records of a run by each stage, and what follows from all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llmpq_sim.core.execution import Execution, RequestTiming, StageStep
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.result import SimulationResult, Summary
from llmpq_sim.io.files import parse_json, read_text, write_json
from runtimes.base import TokenRequest
from runtimes.torch_pipeline.engine.step import Step
from runtimes.torch_pipeline.processes.worker_files import LARGEST_BYTES


@dataclass
class StageRecord:
    """Instants of a stage's steps, and the memory it took.

    Attributes:
        began_s, ended_s: of each step in order.
        peak_bytes: most memory it took while serving.
    """

    began_s: list[float] = field(default_factory=list)
    ended_s: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def numbers(self) -> list[float]:
        """Return the record as numbers of a known count: 2 per step and one more."""
        return [*self.began_s, *self.ended_s, float(self.peak_bytes)]

    @classmethod
    def of(cls, numbers: Sequence[float], clock_ahead_s: float) -> "StageRecord":
        """Return the record that ``numbers`` wrote, by the clock of the first stage."""
        steps = (len(numbers) - 1) // 2
        instants = [number - clock_ahead_s for number in numbers[: 2 * steps]]
        return cls(instants[:steps], instants[steps:], int(numbers[-1]))


@dataclass
class RunRecord:
    """What the first stage knows of a run.

    Attributes:
        start_s: instant from which everything counts.
        loading_s: how long it took until every stage was ready.
        steps: number of decodes, prompt tokens, and requests sampled, for each step.
        entered_s: of a closed loop, when each request was let in, in order, from the start; nothing
            where each arrives at an instant of its own.
    """

    start_s: float
    loading_s: float
    steps: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)
    entered_s: list[float] = field(default_factory=list)

    def let_in(self, requests: int, at_s: float) -> None:
        """Write down that the next so many requests of a closed loop enter."""
        self.entered_s += [at_s - self.start_s] * requests

    def take_back(self, served: int, at_s: float) -> None:
        """Write down that so many requests are finished: in a closed loop as many enter."""
        if self.entered_s:
            self.let_in(served, at_s)

    def note(self, step: Step) -> None:
        """Write down a step that enters."""
        sampled = tuple(part.request for part in step.sampled)
        self.steps.append((len(step.decodes), step.prompt_tokens, sampled))

    def execution(
        self, requests: Sequence[TokenRequest], stages: Sequence[StageRecord], dtype: str
    ) -> Execution:
        """Return what was measured, in instants from the start."""
        served = self._served(requests, stages[-1])
        steps = [
            StageStep(
                number, step, decodes, prompt_tokens, began_s - self.start_s, ended_s - self.start_s
            )
            for number, stage in enumerate(stages)
            for step, ((decodes, prompt_tokens, _), began_s, ended_s) in enumerate(
                zip(self.steps, stage.began_s, stage.ended_s, strict=True)
            )
        ]
        busy_s = tuple(
            sum(v.ended_s - v.began_s for v in steps if v.stage == number)
            for number in range(len(stages))
        )
        return Execution(
            result=_result(len(requests), served, self._gaps_s(stages[-1]), busy_s, len(steps)),
            requests=tuple(served),
            steps=tuple(sorted(steps, key=lambda step: (step.ended_s, step.stage))),
            stage_peak_bytes=tuple(stage.peak_bytes for stage in stages),
            loading_s=self.loading_s,
            dtype=dtype,
        )

    def _instants_s(self, last: StageRecord) -> dict[int, list[float]]:
        """Return the instants of each request's tokens."""
        instants: dict[int, list[float]] = {}
        for (_, _, sampled), ended_s in zip(self.steps, last.ended_s, strict=True):
            for request in sampled:
                instants.setdefault(request, []).append(ended_s - self.start_s)
        return instants

    def _gaps_s(self, last: StageRecord) -> list[float]:
        return [
            gap
            for instants in self._instants_s(last).values()
            for gap in np.diff(instants).tolist()
        ]

    def _served(self, requests: Sequence[TokenRequest], last: StageRecord) -> list[RequestTiming]:
        return [
            RequestTiming(
                name=requests[number].name,
                prompt_tokens=len(requests[number].prompt),
                output_tokens=len(instants),
                arrival_s=self.entered_s[number] if self.entered_s else requests[number].arrival_s,
                first_s=instants[0],
                last_s=instants[-1],
            )
            for number, instants in sorted(self._instants_s(last).items())
        ]


def write_records(path: Path, run: RunRecord, stages: Sequence[StageRecord]) -> None:
    """Write down what all stages measured."""
    content = {
        "start_s": run.start_s,
        "loading_s": run.loading_s,
        "entered_s": run.entered_s,
        "steps": [[decodes, tokens, *sampled] for decodes, tokens, sampled in run.steps],
        "stages": [stage.numbers() for stage in stages],
    }
    write_json(path, content)


def read_records(path: Path) -> tuple[RunRecord, list[StageRecord]]:
    """Return what ``write_records`` wrote.

    Raises:
        InputError: it cannot be read.
    """
    with Fields(parse_json(read_text(path, LARGEST_BYTES), path.name), path.name) as fields:
        run = RunRecord(
            fields.number("start_s", positive=False), fields.number("loading_s", positive=False)
        )
        run.entered_s = list(fields.numbers("entered_s"))
        run.steps = [(step[0], step[1], tuple(step[2:])) for step in fields.items("steps")]
        stages = [StageRecord.of(numbers, 0.0) for numbers in fields.items("stages")]
    return run, stages


def _result(
    requests: int,
    served: list[RequestTiming],
    gaps_s: list[float],
    busy_s: tuple[float, ...],
    steps: int,
) -> SimulationResult:
    several = [one for one in served if one.output_tokens > 1]
    return SimulationResult(
        requests=requests,
        finished=len(served),
        output_tokens=sum(one.output_tokens for one in served),
        makespan_s=max(one.last_s for one in served),
        ttft_s=Summary.of([one.first_s - one.arrival_s for one in served]),
        tpot_s=Summary.of([(o.last_s - o.first_s) / (o.output_tokens - 1) for o in several]),
        latency_s=Summary.of([one.last_s - one.arrival_s for one in served]),
        stage_busy_s=busy_s,
        stage_steps=steps,
        itl_s=Summary.of(gaps_s),
    )
