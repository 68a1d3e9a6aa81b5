"""Benchmark of searches for a service: against a full grid of settings, and random search.

``python -m tests.benchmarks.bench_service_search`` prints the table. A scenario is some requests
of a bundled preset on a bundled cluster. The grid, every power of two as token budget from 8 to
8,192 and as sequence limit from 4 to 1,024, is tried over the plan found and over every baseline's
partition; random search simulates as many services, half of them partitions of baselines or of the
plan for a batch with random settings, half random pipelines with random settings.
"""

import sys
from dataclasses import dataclass
from itertools import chain, repeat
from math import exp, log
from typing import Any

import numpy as np
import pytest

from llmpq_sim.api import ServingOptions, TraceOptions
from llmpq_sim.api.tasks import TaskOptions, trace_task
from llmpq_sim.core.plan import Stage
from llmpq_sim.io.models import load_model
from llmpq_sim.io.tasks import quality_target
from llmpq_sim.paper.evolution import random_plans
from llmpq_sim.search.genetic.evolution import stream
from llmpq_sim.search.genetic.operators import Operators
from llmpq_sim.search.online.evaluation import ServiceEvaluator
from llmpq_sim.search.online.evolution import individuals, judge
from llmpq_sim.search.online.operators import (
    ONE_AT_A_TIME,
    ServingPlan,
    longest_room,
    serving_plan,
)
from llmpq_sim.search.online.planner import OnlineOutcome, search_online
from llmpq_sim.search.online.settings_genes import bounded, grid, other_admission
from llmpq_sim.search.online.task import OnlineTask
from llmpq_sim.search.planner import SearchSettings
from llmpq_sim.simulator.continuous.settings import ContinuousSettings

Benchmark = Any

HEADER = (
    "| model | cluster | requests | goodput/s | limit | grid, same plan | best baseline | "
    "least share of its grid | random search | ahead by |"
)


@dataclass(frozen=True)
class Scenario:
    """What is served on what: requests of a preset at a rate, and what a good one meets."""

    model: str
    cluster: str
    preset: str
    requests: int
    rate_per_s: float
    ttft_ms: float
    tpot_ms: float

    def task(self) -> OnlineTask:
        """Return the task, with plans that lose no more than int4 everywhere."""
        trace = TraceOptions(self.preset, requests=self.requests, rate_per_s=self.rate_per_s)
        slo = ServingOptions(ttft_ms=self.ttft_ms, tpot_ms=self.tpot_ms)
        options = TaskOptions(self.cluster, None, None, (), quality_target("int4"))
        return trace_task(load_model(self.model), trace, slo, "goodput", options)[0]


SCENARIOS = (
    Scenario("llama-3.1-70b", "a100-l40s", "azure-conv", 80, 1.5, 3000, 150),
    Scenario("llama-3.1-70b", "h200-l40s", "azure-code", 80, 3.0, 2000, 100),
    Scenario("llama-2-13b", "l4-a10g", "azure-conv", 80, 1.5, 5000, 200),
    Scenario("qwen2.5-32b", "rtx-3090-4090", "burstgpt", 80, 1.0, 2000, 80),
    Scenario("opt-30b", "t4-v100-a100", "burstgpt", 80, 3.0, 1500, 80),
    Scenario("qwen2.5-14b", "l4-a10g", "azure-code", 80, 1.0, 3000, 100),
)


@dataclass(frozen=True)
class Comparison:
    """A search beside other ways, in good requests/s.

    Attributes:
        outcome: of the search.
        own_grid: the best of the grid over the plan found.
        baseline: the best baseline.
        least_share: over the baselines' partitions, the least of what was found for one over the
            best of the grid on it.
        drawn: the best of random search.
    """

    outcome: OnlineOutcome
    own_grid: float
    baseline: float
    least_share: float
    drawn: float

    @property
    def goodput(self) -> float:
        """Of the plan found."""
        return self.outcome.best.result.goodput_per_s or 0.0


def compared(scenario: Scenario) -> Comparison:
    """Return how a search fares beside the grid, its baselines and random search."""
    task = scenario.task()
    outcome = search_online(task, SearchSettings())
    evaluator = ServiceEvaluator(task, 1)
    served = [each.served for each in outcome.baselines if each.served is not None]
    found = {each.serving.plan.stages: each.result.goodput_per_s or 0.0 for each in served}
    best_of_grid = {stages: _of_grid(evaluator, stages) for stages in found}
    shares = [found[each] / best for each, best in best_of_grid.items() if best > 0.0]
    own = outcome.best.serving.plan.stages
    return Comparison(
        outcome=outcome,
        own_grid=best_of_grid.get(own) or _of_grid(evaluator, own),
        baseline=max(found.values()),
        least_share=min(shares, default=1.0),
        drawn=_drawn(evaluator, list(found), outcome.evaluations),
    )


def _of_grid(evaluator: ServiceEvaluator, stages: tuple[Stage, ...]) -> float:
    settings = grid(evaluator.task.defaults, evaluator.task.workload.requests)
    return _best(evaluator, [serving_plan(stages, each) for each in settings])


def _best(evaluator: ServiceEvaluator, services: list[ServingPlan]) -> float:
    """Return the goodput of the best of some services on the whole trace."""
    able = individuals(evaluator, services)
    judge(evaluator, able, len(evaluator.windows) - 1)
    return max((each.result.goodput_per_s or 0.0 for each in able), default=0.0)


def _drawn(evaluator: ServiceEvaluator, known: list[tuple[Stage, ...]], count: int) -> float:
    """Return the best of so many random services, half of them of known partitions."""
    rng = stream(0, b"random services")
    room = longest_room(evaluator.task)
    operators = Operators(room, [ONE_AT_A_TIME])
    plans = chain.from_iterable(random_plans(operators, rng) for _ in repeat(None))
    drawn = [
        known[int(rng.integers(len(known)))] if number % 2 else next(plans).stages
        for number in range(count)
    ]
    settings = [_random_settings(evaluator.task.defaults, rng) for _ in drawn]
    return _best(evaluator, list(map(serving_plan, drawn, settings)))


def _random_settings(draft: ContinuousSettings, rng: np.random.Generator) -> ContinuousSettings:
    budget, limit = (
        round(exp(rng.uniform(log(low), log(high)))) for low, high in ((8, 8192), (4, 1024))
    )
    admission = other_admission(draft) if rng.random() < 0.5 else draft.admission
    return bounded(draft, token_budget=budget, sequence_limit=limit, admission=admission)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.cluster)
def test_a_search_beats_grids_and_random_search(benchmark: Benchmark, scenario: Scenario) -> None:
    found = benchmark.pedantic(lambda: compared(scenario), rounds=1)
    assert found.goodput >= max(found.own_grid, found.baseline)
    assert found.least_share >= 1.0
    assert found.goodput > found.drawn
    benchmark.extra_info["ahead_of_random"] = found.goodput / found.drawn - 1


def row(scenario: Scenario) -> str:
    """Return the line of one scenario."""
    found = compared(scenario)
    rate = found.outcome.task.rate
    limit = rate.requests_per_s if rate else float("inf")
    return (
        f"| {scenario.model} | {scenario.cluster} | {scenario.requests} of {scenario.preset}, "
        f"{scenario.rate_per_s:g}/s, {scenario.ttft_ms:g} / {scenario.tpot_ms:g} ms | "
        f"{found.goodput:.3f} | {limit:.2f} | {found.own_grid:.3f} | "
        f"{found.baseline:.3f} | {found.least_share:.3f} | {found.drawn:.3f} | "
        f"{found.goodput / found.drawn - 1 if found.drawn else float('inf'):.1%} |"
    )


def main() -> None:
    """Print the table."""
    sys.stdout.write(f"{HEADER}\n|{'---|' * (HEADER.count('|') - 1)}\n")
    for scenario in SCENARIOS:
        sys.stdout.write(f"{row(scenario)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
