"""Benchmark of the static engines: steps of stages simulated a second."""

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from llmpq_sim.simulator.static.engine import simulate_steps
from llmpq_sim.simulator.static.recurrence import compute_steps
from llmpq_sim.simulator.static.step_graph import StepGraph, StepTimes
from tests.rings import ring_graph


def offline_batch(stages: int, groups: int) -> StepGraph:
    """One prefill micro-batch per group, then 99 rounds: LLM-PQ's 100 tokens per prompt."""
    return ring_graph(
        stages=stages,
        rows=groups,
        prefill=1,
        decode=1,
        rounds=[99] * groups,
        service_s=lambda stage, step: (1.0 if step < groups else 0.1) + stage / 64 + step / 9999,
        transfer_s=lambda hop, step: 0.05 if step < groups else 0.001,
    )


@pytest.mark.parametrize("run", [compute_steps, simulate_steps])
@pytest.mark.parametrize(("stages", "groups"), [(4, 4), (8, 32)])
def test_stage_visits_per_second(
    benchmark: BenchmarkFixture, stages: int, groups: int, run: Callable[[StepGraph], StepTimes]
) -> None:
    graph = offline_batch(stages, groups)
    benchmark(run, graph)
    stage_visits = stages * graph.steps
    benchmark.extra_info["stage_visits"] = stage_visits
    if benchmark.stats is not None:
        benchmark.extra_info["stage_visits_per_s"] = stage_visits / benchmark.stats.stats.median
