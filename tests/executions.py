"""Executions for tests: measurements made up from what is predicted."""

from dataclasses import replace

import numpy as np

from llmpq_sim.api.prediction import Prediction, predict_requests
from llmpq_sim.core.execution import Execution, RequestTiming, StageStep
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.result import SimulationResult, Summary
from llmpq_sim.io.executions import Policy, SavedExecution, saved_execution
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.io.tasks import QualityTarget
from llmpq_sim.search.bound.bound import Certificate
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from tests.reports import GOOD, small_task

LIMITS = ContinuousSettings(token_budget=64, sequence_limit=8, longest_context_tokens=256)


def saved_plan(
    output_tokens: tuple[int, ...] = (10,) * 8,
    plan: Plan = GOOD,
    error_fraction: float | None = None,
) -> SavedPlan:
    """Return a plan file's content: batches as long as ``output_tokens``, prompts of 32 tokens.

    Every profile states ``error_fraction`` where it is given.
    """
    task = small_task(output_tokens=output_tokens)
    if error_fraction is not None:
        task = stating(task, error_fraction)
    return SavedPlan(plan, task, QualityTarget("int3", None, None), Certificate({}), seed=0)


def stating(task: PlanningTask, error_fraction: float) -> PlanningTask:
    """Return a task whose profiles all state one error."""
    costs = small_task().costs
    profiles = {
        kind: replace(profile, error_fraction=error_fraction)
        for kind, profile in costs.profiles.items()
    }
    return replace(task, costs=type(costs)(task.costs.scenario, profiles))


def served(
    prompt: int, output: int, arrival_s: float = 0.0, name: str = "request"
) -> RequestTiming:
    """Return a request whose own instants nothing depends on."""
    return RequestTiming(name, prompt, output, arrival_s, arrival_s, arrival_s)


def poisson(requests: int, rate_per_s: float = 200.0) -> list[RequestTiming]:
    """Return requests of many lengths that arrive at random, the first at 0."""
    rng = np.random.default_rng(5)
    arrival_s = np.cumsum(rng.exponential(1 / rate_per_s, requests))
    lengths = rng.integers([[1, 1]], [[80, 30]], (requests, 2)).tolist()
    return [
        served(prompt, output, float(instant), f"r{number}")
        for number, ((prompt, output), instant) in enumerate(
            zip(lengths, arrival_s - arrival_s[0], strict=True)
        )
    ]


def measured(prediction: Prediction, times: float = 1.0) -> Execution:
    """Return the execution that takes so many times as long as is predicted."""
    result = prediction.result
    return Execution(
        result=scaled_result(result, times),
        requests=tuple(
            replace(
                each,
                arrival_s=each.arrival_s * times,
                first_s=each.first_s * times,
                last_s=each.last_s * times,
            )
            for each in prediction.requests
        ),
        steps=tuple(
            replace(step, began_s=step.began_s * times, ended_s=step.ended_s * times)
            for step in prediction.steps
        ),
        stage_peak_bytes=prediction.stage_bytes,
        loading_s=3.25,
        dtype="fp32",
    )


def scaled_result(result: SimulationResult, times: float) -> SimulationResult:
    """Return a result in which everything takes so many times as long."""
    return replace(
        result,
        makespan_s=result.makespan_s * times,
        ttft_s=scaled(result.ttft_s, times),
        tpot_s=scaled(result.tpot_s, times),
        latency_s=scaled(result.latency_s, times),
        itl_s=scaled(result.itl_s, times),
        stage_busy_s=tuple(busy_s * times for busy_s in result.stage_busy_s),
    )


def scaled(summary: Summary, times: float) -> Summary:
    """Return a summary of values that are so many times as large."""
    parts = (summary.mean, summary.p50, summary.p90, summary.p95, summary.p99)
    return Summary(*(part * times for part in parts))


def executed(
    saved: SavedPlan,
    requests: list[RequestTiming],
    times: float = 1.0,
    settings: ContinuousSettings | None = None,
) -> SavedExecution:
    """Return what a run would have measured that takes so many times as long as predicted."""
    policy: Policy = "static" if settings is None else "continuous"
    prediction = predict_requests(saved, requests, policy, settings)
    return saved_execution(measured(prediction, times), saved, policy, settings, seed=4)


def with_visits(loaded: SavedExecution, steps: tuple[StageStep, ...]) -> SavedExecution:
    """Return a run with other steps."""
    return replace(loaded, execution=replace(loaded.execution, steps=steps))
