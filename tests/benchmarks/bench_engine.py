"""Benchmark of the static engines: steps of stages simulated a second."""

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from llmpq_sim.simulator.static.engine import run_wave_plainly
from llmpq_sim.simulator.static.recurrence import run_wave
from llmpq_sim.simulator.static.step_graph import Wave, WaveTimes
from tests.rings import ring_wave


def offline_batch(stages: int, groups: int) -> Wave:
    """One prefill micro-batch per group, then 99 rounds: LLM-PQ's 100 tokens per prompt."""
    return ring_wave(
        stages=stages,
        rows=groups,
        prefill=1,
        decode=1,
        rounds=[99] * groups,
        service_s=lambda stage, visit: (1.0 if visit < groups else 0.1) + stage / 64 + visit / 9999,
        transfer_s=lambda hop, visit: 0.05 if visit < groups else 0.001,
    )


@pytest.mark.parametrize("run", [run_wave, run_wave_plainly])
@pytest.mark.parametrize(("stages", "groups"), [(4, 4), (8, 32)])
def test_stage_visits_per_second(
    benchmark: BenchmarkFixture, stages: int, groups: int, run: Callable[[Wave], WaveTimes]
) -> None:
    wave = offline_batch(stages, groups)
    benchmark(run, wave)
    stage_visits = stages * wave.visits
    benchmark.extra_info["stage_visits"] = stage_visits
    if benchmark.stats is not None:
        benchmark.extra_info["stage_visits_per_s"] = stage_visits / benchmark.stats.stats.median
