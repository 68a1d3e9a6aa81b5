from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_sim.simulator.continuous.recurrence import run_service
from llmpq_sim.simulator.continuous.service_times import can_be_served, service_result
from tests.oracles.continuous import serve_plainly
from tests.serving import (
    Case,
    cases,
    even_pipeline,
    limits,
    outcome,
    scaled,
    trace,
    visits_of,
)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_the_engine_equals_the_reference_in_every_bit(case: Case) -> None:
    assert outcome(run_service(*case)) == outcome(serve_plainly(*case))


@given(cases())
def test_both_tell_of_the_same_visits_when_they_end(case: Case) -> None:
    told, plainly = visits_of(case), visits_of(case, serve_plainly)
    assert sorted(told) == sorted(plainly)
    ends = [ended_s for _, _, _, ended_s in told]
    assert ends == sorted(ends)


@given(cases())
def test_whoever_watches_changes_nothing(case: Case) -> None:
    watched = run_service(*case, lambda *visit: None)
    assert outcome(watched) == outcome(run_service(*case))


@given(cases())
def test_all_that_can_be_served_is_and_nothing_else(case: Case) -> None:
    pipeline, workload, limit = case
    times = run_service(*case)
    served = can_be_served(workload, limit, pipeline.block_capacity)
    assert np.array_equal(~np.isnan(times.last_s), served)
    result = service_result(times, workload, pipeline, None)
    assert result.finished + result.refused == result.requests == workload.requests
    assert result.output_tokens == workload.output_tokens[served].sum()
    assert times.gaps.total() == result.output_tokens - result.finished


@given(cases())
def test_instants_are_in_order(case: Case) -> None:
    times, workload = run_service(*case), case[1]
    served = ~np.isnan(times.first_s)
    assert (times.first_s[served] > workload.arrival_s[served]).all()
    several = workload.output_tokens[served] > 1
    assert ((times.last_s > times.first_s)[served] == several).all()


@given(cases())
def test_no_stage_works_all_the_time_and_no_block_is_used_twice(case: Case) -> None:
    pipeline, workload, _ = case
    times = run_service(*case)
    result = service_result(times, workload, pipeline, None)
    assert all(fraction <= 1 + 1e-12 for fraction in result.stage_busy_fraction)
    assert 0 <= times.peak_blocks <= pipeline.block_capacity
    assert all(fraction <= 1 for fraction in result.kv_peak_fraction)


@given(cases())
def test_a_stage_serves_one_batch_at_a_time_and_as_many_are_under_way_as_stages(
    case: Case,
) -> None:
    visits, stages = visits_of(case), len(case[0].stages)
    for number in range(stages):
        own = sorted(
            (visit, began_s, ended_s) for at, visit, began_s, ended_s in visits if at == number
        )
        assert all(before[2] <= after[1] for before, after in pairwise(own))
    first = {visit: began_s for at, visit, began_s, _ in visits if at == 0}
    last = {visit: ended_s for at, visit, _, ended_s in visits if at == stages - 1}
    assert all(first[visit] >= last[visit - stages] for visit in first if visit >= stages)


@given(cases())
def test_twice_as_slow_takes_twice_as_long(case: Case) -> None:
    pipeline, workload, limit = case
    slow = trace(
        2 * workload.arrival_s,
        workload.prompt_tokens,
        workload.output_tokens,
        workload.prefix_blocks,
        workload.block_tokens,
    )
    once, twice = run_service(*case), run_service(scaled(pipeline, 2.0), slow, limit)
    assert np.array_equal(2 * once.first_s, twice.first_s, equal_nan=True)
    assert np.array_equal(2 * once.last_s, twice.last_s, equal_nan=True)
    assert twice.busy_s == tuple(2 * busy_s for busy_s in once.busy_s)


@given(cases(shared=False, cut=False))
def test_whole_prompts_are_answered_in_order_of_arrival(case: Case) -> None:
    times = run_service(*case)
    first_s = times.first_s[~np.isnan(times.first_s)]
    if not times.preemptions:
        assert (np.diff(first_s) >= 0).all()


@given(st.lists(st.floats(0, 3), max_size=30), st.floats(0.1, 2), st.booleans())
def test_one_stage_with_fixed_service_obeys_the_lindley_recursion(
    gaps_s: list[float], service_s: float, ahead: bool
) -> None:
    limit = limits(token_budget=1, sequence_limit=1, schedules_ahead=ahead)
    arrival_s = np.cumsum([0.0, *gaps_s])
    requests = len(arrival_s)
    pipeline = even_pipeline(limit, batch_s=service_s)
    times = run_service(pipeline, trace(arrival_s, [1] * requests, [1] * requests), limit)
    free_s = 0.0
    for arrived_s, first_s in zip(arrival_s.tolist(), times.first_s.tolist(), strict=True):
        free_s = max(arrived_s, free_s) + service_s
        assert first_s == free_s


def test_poisson_arrivals_wait_as_long_as_the_formula_of_m_d_1_says() -> None:
    rng, requests, load = np.random.default_rng(0), 200_000, 0.7
    limit = limits(token_budget=1, sequence_limit=1)
    gaps_s = rng.exponential(1 / load, requests)
    gaps_s[0] = 0.0
    workload = trace(np.cumsum(gaps_s), [1] * requests, [1] * requests)
    times = run_service(even_pipeline(limit, batch_s=1.0), workload, limit)
    waited_s = times.first_s - workload.arrival_s - 1.0
    assert waited_s.mean() == pytest.approx(load / (2 * (1 - load)), rel=0.05)


@given(st.integers(1, 3), st.integers(0, 50))
def test_more_memory_costs_at_most_a_hundredth_of_the_throughput(stages: int, seed: int) -> None:
    """Noise: more sequences at once are other batches, which may fill the pipeline less well."""
    rng, requests = np.random.default_rng(seed), 60
    limit = limits(token_budget=32, sequence_limit=32)
    workload = trace([0.0] * requests, rng.integers(1, 40, requests), rng.integers(1, 24, requests))
    ends_s = [
        np.nanmax(
            run_service(
                even_pipeline(limit, stages=stages, token_s=0.1, context_s=0.001, blocks=blocks),
                workload,
                limit,
            ).last_s
        )
        for blocks in (16, 32, 64, 128, 512)
    ]
    assert all(after <= before * 1.01 for before, after in pairwise(ends_s))
