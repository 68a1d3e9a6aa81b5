"""Comparison of an execution with its prediction: the error of every figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llmpq_sim.api.prediction import Prediction, predict
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.execution import StageStep
from llmpq_sim.core.result import SimulationResult, Summary
from llmpq_sim.io.executions import SavedExecution, plan_sha256
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.report.speeds import steps_speeds
from llmpq_sim.report.summary import error_fraction, used_profiles
from llmpq_sim.report.timeline import phase_of

Kind = Literal["rate", "time", "bytes", "share"]

PHASES = ("prefill", "decode", "mixed")

SHOWN_CHARS = 12
"""Characters of a hash that tell it from others."""


@dataclass(frozen=True)
class Figure:
    """One quantity, predicted and measured.

    Attributes:
        name: in JSON, with its unit.
        kind: what it is: how it is written, and what its error means.
        predicted, measured: in SI units.
        stated_fraction: largest error that the profiles state; None where they state none.
    """

    name: str
    kind: Kind
    predicted: float
    measured: float
    stated_fraction: float | None = None

    @property
    def error(self) -> float | None:
        """(predicted - measured) / measured; for a share the plain difference.

        None where nothing was measured that a prediction could be compared with.
        """
        difference = self.predicted - self.measured
        if self.kind == "share":
            return difference
        return difference / self.measured if self.measured else None

    @property
    def is_within(self) -> bool | None:
        """Whether the error is at most what the profiles state; None where there is no answer."""
        if self.error is None or self.stated_fraction is None:
            return None
        return abs(self.error) <= self.stated_fraction


@dataclass(frozen=True)
class PhaseComparison:
    """The steps of one phase to one stage.

    Attributes:
        phase: ``prefill``, ``decode`` or ``mixed``.
        predicted_steps, measured_steps: how many there are.
        step: their mean time; 0 where there are none.
    """

    phase: str
    predicted_steps: int
    measured_steps: int
    step: Figure

    @property
    def lost_s(self) -> float:
        """How much the prediction of all measured steps is off, in seconds of either sign."""
        return self.measured_steps * (self.step.predicted - self.step.measured)


@dataclass(frozen=True)
class StageComparison:
    """One stage, predicted and measured.

    Attributes:
        number: its place in the pipeline.
        device: the device of the plan.
        memory: most bytes it takes.
        busy: share of the makespan that it computes.
        phases: its steps, by phase; phases without steps are left out.
    """

    number: int
    device: str
    memory: Figure
    busy: Figure
    phases: tuple[PhaseComparison, ...]


@dataclass(frozen=True)
class Comparison:
    """An execution beside what was predicted of it.

    Attributes:
        saved: the plan.
        loaded: the execution.
        prediction: of exactly its requests.
        figures: of the whole pipeline, throughput first.
        stages: of each stage.
    """

    saved: SavedPlan
    loaded: SavedExecution
    prediction: Prediction
    figures: tuple[Figure, ...]
    stages: tuple[StageComparison, ...]

    @property
    def stated_fraction(self) -> float:
        """The largest error that the profile of any stage states."""
        return error_fraction(used_profiles(self.saved.plan, self.saved.task))


def compare(saved: SavedPlan, loaded: SavedExecution) -> Comparison:
    """Return an execution beside what is predicted of its requests.

    Args:
        saved: the plan that was carried out, with the profiles to predict with.
        loaded: what was measured.

    Raises:
        InputError: the execution is of another plan, or finished no request.
        InfeasibleError: a stage has no room for any KV cache, by what is predicted.
    """
    check_same_plan(saved, loaded)
    prediction = predict(saved, execution=loaded)
    stated = error_fraction(used_profiles(saved.plan, saved.task))
    figures = (
        *_figures(prediction.result, loaded.execution.result, stated),
        *_speeds(saved, loaded, prediction, stated),
    )
    return Comparison(saved, loaded, prediction, figures, _stages(saved, loaded, prediction))


def check_same_plan(saved: SavedPlan, loaded: SavedExecution) -> None:
    """Raise InputError unless an execution is of this plan."""
    expected, found = plan_sha256(saved), loaded.plan_sha256
    if expected == found:
        return
    model = saved.task.costs.scenario.model.name
    raise InputError(
        f"the result is of another plan: it was measured with {loaded.model} and plan "
        f"{found[:SHOWN_CHARS]}, --plan has {model} and {expected[:SHOWN_CHARS]}; give the plan "
        "file that was deployed, or deploy this one"
    )


def _figures(
    predicted: SimulationResult, measured: SimulationResult, stated: float
) -> tuple[Figure, ...]:
    figures = [
        Figure("tokens_per_s", "rate", predicted.tokens_per_s, measured.tokens_per_s, stated),
        Figure("requests_per_s", "rate", predicted.requests_per_s, measured.requests_per_s, stated),
        Figure("makespan_s", "time", predicted.makespan_s, measured.makespan_s, stated),
        *_summary("ttft_s", predicted.ttft_s, measured.ttft_s, stated),
        *_summary("tpot_s", predicted.tpot_s, measured.tpot_s, stated),
    ]
    return tuple(figure for figure in figures if figure.predicted or figure.measured)


def _speeds(
    saved: SavedPlan, loaded: SavedExecution, prediction: Prediction, stated: float
) -> list[Figure]:
    """Return the speeds that both have."""
    stages, execution = len(saved.plan.stages), loaded.execution
    predicted = steps_speeds(prediction.steps, stages, prediction.result).content()
    measured = steps_speeds(execution.steps, stages, execution.result).content()
    return [
        Figure(name, "rate", predicted[name], measured[name], stated)
        for name in predicted
        if predicted[name] is not None and measured[name] is not None
    ]


def _summary(name: str, predicted: Summary, measured: Summary, stated: float) -> list[Figure]:
    return [
        Figure(f"{name}.{part}", "time", getattr(predicted, part), getattr(measured, part), stated)
        for part in ("mean", "p50", "p99")
    ]


def _stages(
    saved: SavedPlan, loaded: SavedExecution, prediction: Prediction
) -> tuple[StageComparison, ...]:
    execution = loaded.execution
    rows = zip(
        saved.plan.stages,
        prediction.stage_bytes,
        execution.stage_peak_bytes,
        prediction.result.stage_busy_fraction,
        execution.result.stage_busy_fraction,
        _phases(saved, prediction.steps, execution.steps),
        strict=True,
    )
    return tuple(
        StageComparison(
            number=number,
            device=stage.device,
            memory=Figure("memory_bytes", "bytes", predicted_bytes, measured_bytes),
            busy=Figure("busy_fraction", "share", predicted_busy, measured_busy),
            phases=phases,
        )
        for number, (
            stage,
            predicted_bytes,
            measured_bytes,
            predicted_busy,
            measured_busy,
            phases,
        ) in enumerate(rows)
    )


def _phases(
    saved: SavedPlan, predicted: Sequence[StageStep], measured: Sequence[StageStep]
) -> list[tuple[PhaseComparison, ...]]:
    profiles, cluster = saved.task.costs.profiles, saved.task.costs.scenario.cluster
    foreseen, seen = _steps_s(predicted), _steps_s(measured)
    stages = []
    for number, stage in enumerate(saved.plan.stages):
        kind = cluster.devices[cluster.index(stage.device, "plan")].device.name
        stated, phases = profiles[kind].error_fraction, []
        for phase in PHASES:
            before, after = foreseen.get((number, phase), []), seen.get((number, phase), [])
            if before or after:
                mean = Figure("visit_s", "time", _mean(before), _mean(after), stated)
                phases.append(PhaseComparison(phase, len(before), len(after), mean))
        stages.append(tuple(phases))
    return stages


def _steps_s(steps: Sequence[StageStep]) -> dict[tuple[int, str], list[float]]:
    """Return the seconds of the steps to each stage in each phase."""
    seconds: dict[tuple[int, str], list[float]] = {}
    for step in steps:
        phase = phase_of(step.decodes, step.prompt_tokens)
        seconds.setdefault((step.stage, phase), []).append(step.ended_s - step.began_s)
    return seconds


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
