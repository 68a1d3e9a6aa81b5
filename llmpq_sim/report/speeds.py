"""Speeds of prefill and decode apart, and of one user: on screens and in JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llmpq_sim.core.execution import StageStep
from llmpq_sim.core.result import SimulationResult
from llmpq_sim.core.schedule import BatchSchedule, batch_schedules
from llmpq_sim.report.formatting import rate_text, seconds_text
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.scoring import PlanScore
from llmpq_sim.simulator.phases import PassedStep, Phases, phases_of
from llmpq_sim.simulator.static.recurrence import compute_steps
from llmpq_sim.simulator.static.simulate import batch_times
from llmpq_sim.simulator.static.step_graph import StepGraph, StepTimes

if TYPE_CHECKING:
    from llmpq_sim.simulator.continuous.service import Service


@dataclass(frozen=True)
class Speeds:
    """Speeds of a pipeline; None where there was nothing of the kind to do.

    Attributes:
        prefill_tokens_per_s: prompt tokens computed over the time in which prompts are prefilled.
        decode_tokens_per_s: tokens decoded, of all requests, over the time in which any decodes.
        tokens_per_s_per_user: tokens that one request receives a second once it has its first:
            1 over the mean TPOT.
    """

    prefill_tokens_per_s: float | None
    decode_tokens_per_s: float | None
    tokens_per_s_per_user: float | None

    def content(self) -> dict[str, Any]:
        """Return them as plain data."""
        return asdict(self)


def speeds_of(phases: Phases, result: SimulationResult) -> Speeds:
    """Return the speeds of what was simulated or measured."""
    tpot_s = result.tpot_s.mean
    return Speeds(
        _per_s(phases.prefill_tokens, phases.prefill_s),
        _per_s(phases.decode_tokens, phases.decode_s),
        _per_s(1, tpot_s),
    )


def _per_s(tokens: int, time_s: float) -> float | None:
    return tokens / time_s if tokens and time_s else None


def service_speeds(service: Service) -> Speeds:
    """Return the speeds of a plan that serves a trace."""
    return speeds_of(service.times.phases, service.result)


def batch_speeds(score: PlanScore, task: PlanningTask) -> Speeds | None:
    """Return the speeds of a scored plan with its batch, or None where it was not simulated."""
    if score.result is None:
        return None
    passed: list[PassedStep] = []
    workload, batching = task.costs.scenario.workload, score.plan.micro_batching
    schedules = iter(batch_schedules(workload, batching))

    def run(graph: StepGraph, start_s: float) -> StepTimes:
        times = compute_steps(graph, start_s)
        passed.extend(_passed(next(schedules), times))
        return times

    batch_times(score.plan, task.costs, run, score.policy)
    return speeds_of(phases_of(passed), score.result)


def _passed(schedule: BatchSchedule, times: StepTimes) -> list[PassedStep]:
    """Return the steps of a wave in the order in which they entered the pipeline."""
    loads = [(0, step.step_tokens) for step in schedule.prefill_steps]
    loads += [(schedule.decode_rows[group][turn], 0) for group, turn in schedule.decode_order]
    steps = zip(times.began_s, times.sampled_s, loads, strict=True)
    passed = [PassedStep(began_s, ended_s, *load) for began_s, ended_s, load in steps]
    return sorted(passed, key=lambda step: (step.began_s, step.ended_s))


def steps_speeds(steps: Iterable[StageStep], stages: int, result: SimulationResult) -> Speeds:
    """Return the speeds of steps that were simulated or measured at every stage of a pipeline."""
    began: dict[int, StageStep] = {}
    ended_s: dict[int, float] = {}
    for step in steps:
        if step.stage == 0:
            began[step.step] = step
        if step.stage == stages - 1:
            ended_s[step.step] = step.ended_s
    passed = [
        PassedStep(first.began_s, ended_s[number], first.decodes, first.prompt_tokens)
        for number, first in began.items()
        if number in ended_s
    ]
    return speeds_of(phases_of(sorted(passed)), result)


def speeds_row(
    speeds: Speeds | None, result: SimulationResult | None
) -> list[tuple[str, list[str]]]:
    """Return the labelled line of a screen, or none where there are no speeds."""
    if speeds is None or result is None or not result.finished:
        return []
    named: Sequence[tuple[str, float | None]] = (
        ("prefill", speeds.prefill_tokens_per_s),
        ("decode", speeds.decode_tokens_per_s),
        ("per user", speeds.tokens_per_s_per_user),
    )
    parts = [f"{name} {rate_text(per_s)}" for name, per_s in named if per_s is not None]
    parts.append(f"TTFT {seconds_text(result.ttft_s.mean)}")
    if speeds.tokens_per_s_per_user is not None:
        parts.append(f"TPOT {seconds_text(result.tpot_s.mean)}")
    return [("tokens/s", parts)]
