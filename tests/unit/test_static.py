from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_sim.core.cluster import Link
from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.simulator.static.simulate import (
    HIDDEN_BYTES,
    TOKEN_BYTES,
    StageCosts,
    pipeline_links,
    simulate_static,
)
from tests.builders import plan_at, tiny_costs, tiny_device, tiny_model, tiny_scenario
from tests.oracles.closed_form import pipeline_makespan_s

HOP = Link(1e-3, 1e7)


def plan_and_costs(
    batching: MicroBatching, output_tokens: tuple[int, ...], *, stages: int = 2
) -> tuple[Plan, LayerCosts]:
    """Return a plan with two int8 layers a stage, on devices of which each is slower."""
    devices = [tiny_device(f"kind{number}", bytes_per_s=2e9 / (1 + number)) for number in range(3)]
    scenario = tiny_scenario(
        devices, [HOP] * 3, model=tiny_model(2 * stages), output_tokens=output_tokens
    )
    placement = tuple((number, 2) for number in range(stages))
    return plan_at(scenario, placement, ["int8"] * 2 * stages, batching), tiny_costs(scenario)


def stage_costs(plan: Plan, costs: LayerCosts) -> list[StageCosts]:
    return [StageCosts(costs, plan, number) for number in range(len(plan.stages))]


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_one_request_takes_the_sum_of_its_parts(stages: int) -> None:
    plan, costs = plan_and_costs(MicroBatching(1, 1, 1), (4,), stages=stages)
    parts = stage_costs(plan, costs)
    hidden = HIDDEN_BYTES * 256
    between, back_s = stages - 1, HOP.transfer_s(TOKEN_BYTES) * (stages > 1)
    prefill_s = sum(stage.prefill_s(1) for stage in parts)
    decode_s = sum(float(stage.decode_s(1).sum()) for stage in parts)
    hops_s = between * (HOP.transfer_s(16 * hidden) + 3 * HOP.transfer_s(hidden)) + 3 * back_s
    result = simulate_static(plan, costs)
    assert result.makespan_s == pytest.approx(prefill_s + decode_s + hops_s)
    assert result.stage_steps == 4 * stages
    assert result.ttft_s.p50 == pytest.approx(prefill_s + between * HOP.transfer_s(16 * hidden))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 8), st.integers(1, 3))
def test_single_tokens_take_what_the_formula_says(requests: int, stages: int) -> None:
    plan, costs = plan_and_costs(MicroBatching(1, 1, 1), (1,) * requests, stages=stages)
    plan = replace(plan, micro_batching=MicroBatching(1, requests, 1))
    servers_s = [stage.prefill_s(1) for stage in stage_costs(plan, costs)]
    servers_s += [HOP.transfer_s(16 * HIDDEN_BYTES * 256)] * (stages - 1)
    result = simulate_static(plan, costs)
    assert result.makespan_s == pytest.approx(pipeline_makespan_s(servers_s, requests))
    assert result.tpot_s.p50 == 0.0


def test_the_next_wave_starts_when_the_last_token_of_the_one_before_is_sampled() -> None:
    alone, costs_alone = plan_and_costs(MicroBatching(2, 2, 1), (3, 5))
    plan, costs = plan_and_costs(MicroBatching(2, 2, 1), (3, 5) * 3)
    one_wave = simulate_static(alone, costs_alone)
    waves = simulate_static(plan, costs)
    assert waves.makespan_s == pytest.approx(3 * one_wave.makespan_s)
    assert waves.stage_steps == 3 * one_wave.stage_steps
    assert waves.stage_busy_fraction == pytest.approx(one_wave.stage_busy_fraction)


def test_requests_of_a_group_leave_when_they_have_their_tokens() -> None:
    plan, costs = plan_and_costs(MicroBatching(4, 4, 1), (1, 2, 3, 9), stages=1)
    result = simulate_static(plan, costs)
    assert result.output_tokens == 15
    assert result.ttft_s.p50 == result.ttft_s.p99
    assert result.latency_s.p50 < result.makespan_s
    assert result.stage_steps == 1 + 8


def test_one_device_has_no_link() -> None:
    plan, costs = plan_and_costs(MicroBatching(1, 1, 1), (2,), stages=1)
    assert pipeline_links(plan, costs) == [None]
    assert simulate_static(plan, costs).stage_busy_fraction == pytest.approx((1.0,))


def test_a_ring_of_three_has_three_links() -> None:
    plan, costs = plan_and_costs(MicroBatching(1, 1, 1), (2,), stages=3)
    assert pipeline_links(plan, costs) == [HOP, HOP, HOP]


def test_embedding_and_head_are_work_of_the_first_and_the_last_stage() -> None:
    plan, costs = plan_and_costs(MicroBatching(1, 1, 1), (2,), stages=3)
    first, middle, last = stage_costs(plan, costs)
    assert first.prefill_s(2) == pytest.approx(
        costs.embedding_s("kind0", 32) + 2 * costs.prefill_layer_s("kind0", "int8", 2, 0)
    )
    assert middle.prefill_s(2) == 2 * costs.prefill_layer_s("kind1", "int8", 2, 0)
    assert last.prefill_s(2) == pytest.approx(
        costs.head_s("kind2", 2) + 2 * costs.prefill_layer_s("kind2", "int8", 2, 0)
    )
