"""Benchmark of continuous batching: requests simulated a second.

Requests arrive as often and are as long as in Azure's conversations of 2023, and pass four stages.
Fast stages make many small batches, slow ones few large ones; a tenth of the blocks makes
sequences lose theirs.
"""

import timeit

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from llmpq_sim.simulator.continuous.engine import simulate_service
from llmpq_sim.simulator.continuous.recurrence import compute_service
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from tests.serving import Case, even_pipeline, trace

PROMPT_TOKENS = (
    (0, 2), (0.0174, 89.5), (0.0357, 180.5), (0.0574, 181.5), (0.0713, 199.5), (0.1075, 209.5),
    (0.1177, 218.5), (0.1452, 369.5), (0.2134, 390.5), (0.3393, 410.5), (0.3852, 440.5),
    (0.4083, 847.5), (0.4323, 954.5), (0.479, 1008.5), (0.6621, 1103.5), (0.7242, 1151.5),
    (0.7596, 1212.5), (0.7797, 1310.5), (0.8094, 1320.5), (0.819, 1359.5), (0.9016, 2766.5),
    (0.917, 4069.5), (0.9785, 4095.5), (0.99, 4142), (0.9924, 4165.5), (1, 14050),
)  # fmt: skip
OUTPUT_TOKENS = (
    (0, 7), (0.0218, 26.5), (0.0714, 47.5), (0.144, 65.5), (0.2011, 77.5), (0.2538, 85.5),
    (0.3917, 101.5), (0.4402, 110.5), (0.5882, 167.5), (0.6401, 216.5), (0.6544, 217.5),
    (0.6712, 372.5), (0.7284, 392.5), (0.7926, 398.5), (0.9241, 429.5), (0.9503, 451.5),
    (0.99, 601), (0.9938, 626.5), (1, 1000),
)  # fmt: skip

LIMITS = ContinuousSettings(token_budget=2048, sequence_limit=256, longest_context_tokens=16384)


def lengths(
    table: tuple[tuple[float, float], ...], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return token counts from (cumulative probability, tokens), tokens interpolated as logs."""
    probability, tokens = np.array(table).T
    logs = np.interp(rng.random(count), probability, np.log(tokens))
    drawn: NDArray[np.int64] = np.maximum(np.exp(logs).round(), 1).astype(np.int64)
    return drawn


def conversations(requests: int, blocks: int, slowness: float) -> Case:
    """Return four stages that serve so many requests."""
    rng = np.random.default_rng(0)
    gaps_s = rng.gamma(0.9, 1 / 0.9 / 6.45, requests)
    gaps_s[0] = 0.0
    workload = trace(
        np.cumsum(gaps_s),
        lengths(PROMPT_TOKENS, requests, rng),
        lengths(OUTPUT_TOKENS, requests, rng),
    )
    pipeline = even_pipeline(
        LIMITS,
        stages=4,
        batch_s=8e-3 * slowness,
        token_s=3e-5 * slowness,
        context_s=1e-7 * slowness,
        transfer_s=1e-5,
        blocks=blocks,
    )
    return pipeline, workload, LIMITS


@pytest.mark.parametrize("slowness", [0.25, 1.0, 4.0])
@pytest.mark.parametrize(("requests", "blocks"), [(1000, 25_000), (1000, 2500), (20_000, 25_000)])
def test_requests_per_second(
    benchmark: BenchmarkFixture, slowness: float, requests: int, blocks: int
) -> None:
    times = benchmark(compute_service, *conversations(requests, blocks, slowness))
    benchmark.extra_info["batches"] = times.batches
    benchmark.extra_info["preemptions"] = times.preemptions
    if benchmark.stats is not None:
        rate = requests / benchmark.stats.stats.median
        benchmark.extra_info["requests_per_s"] = rate
        print(f" {rate:,.0f} requests/s, {times.batches:,} batches")  # noqa: T201


@pytest.mark.parametrize("blocks", [25_000, 2500])
def test_the_recurrence_is_worth_having_beside_the_model(
    benchmark: BenchmarkFixture, blocks: int
) -> None:
    """It stands in for the model in a search only as long as it is much faster, on any machine."""
    case = conversations(1000, blocks, 1.0)
    model_s = timeit.timeit(lambda: simulate_service(*case), number=1)
    benchmark(compute_service, *case)
    if benchmark.stats is not None:
        ratio = model_s / benchmark.stats.stats.median
        benchmark.extra_info["times_faster"] = ratio
        print(f" {ratio:.0f} times faster, model {1000 / model_s:,.0f} requests/s")  # noqa: T201
        assert ratio > 8
