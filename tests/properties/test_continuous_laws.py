from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_sim.simulator.continuous.engine import simulate_service
from llmpq_sim.simulator.continuous.recurrence import compute_service
from llmpq_sim.simulator.continuous.service_times import can_be_served, service_result
from llmpq_sim.simulator.continuous.watch import Watch
from tests.oracles.continuous import serve_plainly
from tests.serving import (
    Case,
    StageStep,
    cases,
    even_pipeline,
    limits,
    outcome,
    scaled,
    steps_of,
    trace,
)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_model_recurrence_and_oracle_are_equal_in_every_bit(case: Case) -> None:
    simulated = outcome(simulate_service(*case))
    assert simulated == outcome(compute_service(*case))
    assert simulated == outcome(serve_plainly(*case))


@given(cases())
def test_the_model_tells_of_the_same_steps_as_the_oracle_when_they_end(case: Case) -> None:
    told, plainly = steps_of(case), list[StageStep]()
    serve_plainly(*case, lambda *step: plainly.append(step))
    assert sorted(told) == sorted(plainly)
    ends = [ended_s for _, _, _, ended_s in told]
    assert ends == sorted(ends)


@given(cases())
def test_whoever_watches_changes_nothing(case: Case) -> None:
    watch = Watch(lambda *step: None, lambda *batch: None)
    assert outcome(simulate_service(*case, watch)) == outcome(simulate_service(*case))


@given(cases(), st.integers(1, 60))
def test_a_simulation_that_ends_early_has_the_instants_until_then(case: Case, most: int) -> None:
    steps: list[StageStep] = []
    early = simulate_service(*case, Watch(lambda *step: steps.append(step), most_steps=most))
    whole = simulate_service(*case)
    assert len(steps) >= min(most, whole.batches * len(case[0].stages))
    assert steps == steps_of(case)[: len(steps)]
    for reached_s, all_s in ((early.first_s, whole.first_s), (early.last_s, whole.last_s)):
        reached = ~np.isnan(reached_s)
        assert np.array_equal(reached_s[reached], all_s[reached])
        assert (reached_s[reached] <= steps[-1][3]).all() if steps else not reached.any()


@given(cases())
def test_all_that_can_be_served_is_and_nothing_else(case: Case) -> None:
    pipeline, workload, limit = case
    times = compute_service(*case)
    served = can_be_served(workload, limit, pipeline.block_capacity, pipeline.bounded_blocks)
    assert np.array_equal(~np.isnan(times.last_s), served)
    result = service_result(times, workload, pipeline, None)
    assert result.finished + result.refused == result.requests == workload.requests
    assert result.output_tokens == workload.output_tokens[served].sum()
    assert times.gaps.total() == result.output_tokens - result.finished


@given(cases())
def test_instants_are_in_order(case: Case) -> None:
    times, workload = compute_service(*case), case[1]
    served = ~np.isnan(times.first_s)
    assert (times.first_s[served] > times.arrival_s[served]).all()
    if workload.concurrency is None:
        assert np.array_equal(times.arrival_s, workload.arrival_s)
    several = workload.output_tokens[served] > 1
    assert ((times.last_s > times.first_s)[served] == several).all()


@given(cases())
def test_no_stage_works_all_the_time_and_no_block_is_used_twice(case: Case) -> None:
    pipeline, workload, _ = case
    times = compute_service(*case)
    result = service_result(times, workload, pipeline, None)
    assert all(fraction <= 1 + 1e-12 for fraction in result.stage_busy_fraction)
    assert 0 <= times.peak_blocks <= pipeline.block_capacity
    assert all(fraction <= 1 for fraction in result.kv_peak_fraction)


@given(cases())
def test_a_stage_serves_one_batch_at_a_time_and_as_many_are_under_way_as_may_be(
    case: Case,
) -> None:
    steps, stages = steps_of(case), len(case[0].stages)
    most = case[2].batches_in_flight or stages
    for number in range(stages):
        own = sorted(
            (step, began_s, ended_s) for at, step, began_s, ended_s in steps if at == number
        )
        assert all(before[2] <= after[1] for before, after in pairwise(own))
    first = {step: began_s for at, step, began_s, _ in steps if at == 0}
    last = {step: ended_s for at, step, _, ended_s in steps if at == stages - 1}
    assert all(first[step] >= last[step - most] for step in first if step >= most)


@given(cases(admission="no-evict"))
def test_nobody_is_evicted_whose_whole_output_had_to_fit(case: Case) -> None:
    assert compute_service(*case).preemptions == 0


@given(cases())
def test_with_blocks_for_all_it_matters_not_how_requests_are_admitted(case: Case) -> None:
    pipeline, workload, limit = case
    plenty = replace(pipeline, blocks=(10**6,) * len(pipeline.stages))
    evicting, careful = (
        compute_service(plenty, workload, replace(limit, admission=admission))
        for admission in ("evict", "no-evict")
    )
    assert outcome(evicting) == outcome(careful)


@given(cases(cut=True))
def test_a_batch_holds_so_many_prompt_tokens_of_each_request_at_most(case: Case) -> None:
    pipeline, workload, limit = case
    alone = replace(limit, sequence_limit=1)
    told: list[int] = []
    simulate_service(
        pipeline, workload, alone, Watch(on_batch=lambda _, __, prompts, *___: told.append(prompts))
    )
    assert all(prompts <= alone.most_chunk_tokens for prompts in told)
    wide = replace(limit, chunk_tokens=limit.token_budget)
    as_before = replace(limit, chunk_tokens=None)
    assert outcome(compute_service(pipeline, workload, wide)) == outcome(
        compute_service(pipeline, workload, as_before)
    )


@given(cases())
def test_twice_as_slow_takes_twice_as_long(case: Case) -> None:
    pipeline, workload, limit = case
    slow = replace(workload, arrival_s=2 * workload.arrival_s)
    once, twice = compute_service(*case), compute_service(scaled(pipeline, 2.0), slow, limit)
    assert np.array_equal(2 * once.first_s, twice.first_s, equal_nan=True)
    assert np.array_equal(2 * once.last_s, twice.last_s, equal_nan=True)
    assert twice.busy_s == tuple(2 * busy_s for busy_s in once.busy_s)


@given(cases(shared=False, cut=False))
def test_whole_prompts_are_answered_in_order_of_arrival(case: Case) -> None:
    times = compute_service(*case)
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
    times = compute_service(pipeline, trace(arrival_s, [1] * requests, [1] * requests), limit)
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
    times = compute_service(even_pipeline(limit, batch_s=1.0), workload, limit)
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
            compute_service(
                even_pipeline(limit, stages=stages, token_s=0.1, context_s=0.001, blocks=blocks),
                workload,
                limit,
            ).last_s
        )
        for blocks in (16, 32, 64, 128, 512)
    ]
    assert all(after <= before * 1.01 for before, after in pairwise(ends_s))
