"""Benchmark of the static policy: steps of stages a second, by recurrence and by SimPy model."""

import timeit
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
def test_stage_steps_per_second(
    benchmark: BenchmarkFixture, stages: int, groups: int, run: Callable[[StepGraph], StepTimes]
) -> None:
    graph = offline_batch(stages, groups)
    benchmark(run, graph)
    stage_steps = stages * graph.steps
    benchmark.extra_info["stage_steps"] = stage_steps
    if benchmark.stats is not None:
        rate = stage_steps / benchmark.stats.stats.median
        benchmark.extra_info["stage_steps_per_s"] = rate
        print(f" {rate / 1e6:.3f} million stage steps/s")  # noqa: T201


def test_the_recurrence_is_worth_having_beside_the_model(benchmark: BenchmarkFixture) -> None:
    """It stands in for the model in a search only as long as it is much faster, on any machine."""
    graph = offline_batch(4, 16)
    model_s = min(timeit.repeat(lambda: simulate_steps(graph), number=1, repeat=3))
    benchmark(compute_steps, graph)
    if benchmark.stats is not None:
        ratio = model_s / benchmark.stats.stats.median
        benchmark.extra_info["times_faster"] = ratio
        assert ratio > 10
