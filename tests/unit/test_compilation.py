from dataclasses import replace

import numpy as np
import pytest

from llmpq_sim.core.cluster import RUNTIME_BYTES
from llmpq_sim.core.plan import MicroBatching, Plan, Stage
from llmpq_sim.core.units import MIB
from llmpq_sim.latency.spec import spec_profile
from llmpq_sim.simulator.continuous.compilation import (
    CONTEXT_SEGMENTS,
    ServingCosts,
    compile_pipeline,
    knot_tokens,
    row_knots,
    stage_fixed_bytes,
    token_knots,
)
from llmpq_sim.simulator.continuous.mixed_costs import BatchLoad, Pipeline
from llmpq_sim.simulator.continuous.recurrence import simulate_continuous
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from tests.builders import tiny_cluster, tiny_costs, tiny_device, tiny_model, tiny_scenario
from tests.serving import trace

LIMITS = ContinuousSettings(token_budget=512, sequence_limit=16, longest_context_tokens=1024)


def tiny_serving() -> ServingCosts:
    """Return the tiny model's costs on a fast and a slow device."""
    cluster = tiny_cluster([tiny_device(), tiny_device("slow", bytes_per_s=1e9)])
    kinds = {member.device.name: member.device for member in cluster.devices}
    profiles = {name: spec_profile(device) for name, device in kinds.items()}
    return ServingCosts(tiny_model(), cluster, profiles)


def plan_of(*stages: tuple[str, tuple[str, ...]]) -> Plan:
    return Plan(tuple(Stage(*stage) for stage in stages), MicroBatching(1, 1, 1))


TWO_STAGES = plan_of(("fast-0", ("int4", "int4", "fp16")), ("slow-1", ("int8",)))


def compiled(plan: Plan = TWO_STAGES, limits: ContinuousSettings = LIMITS) -> Pipeline:
    return compile_pipeline(plan, tiny_serving(), limits)


@pytest.mark.parametrize("rows", [1, 5, 16])
def test_decodes_of_one_context_take_what_static_batching_says(rows: int) -> None:
    costs = tiny_costs(tiny_scenario(prompt_tokens=299, output_tokens=(3,) * 16))
    load = BatchLoad(rows, 300 * rows, (), rows)
    expected_s = costs.embedding_s("fast", rows) + sum(
        layers * costs.decode_layer_s("fast", name, rows, 0)[0]
        for name, layers in (("int4", 2), ("fp16", 1))
    )
    assert compiled().service_s(0, load) == pytest.approx(expected_s, rel=1e-9)


def test_a_whole_prompt_takes_what_static_batching_says() -> None:
    costs = tiny_costs(tiny_scenario(prompt_tokens=200, output_tokens=(1,)))
    load = BatchLoad(0, 0, ((0, 200),), 1)
    expected_s = costs.prefill_layer_s("slow", "int8", 1, 0) + costs.head_s("slow", 1)
    assert compiled().service_s(1, load) == pytest.approx(expected_s, rel=1e-9)


def test_chunks_of_a_prompt_together_attend_as_much_as_the_whole() -> None:
    pipeline = compiled()
    products_s = pipeline.stages[0].tokens_s
    cut = [BatchLoad(0, 0, ((start, 64),), 0) for start in range(0, 256, 64)]
    attention_s = sum(pipeline.service_s(0, load) - products_s[64] for load in cut)
    assert attention_s == pytest.approx(pipeline.stages[0].prompt_s[256], rel=1e-9)


def test_a_chunk_never_takes_less_than_no_attention() -> None:
    pipeline = compiled()
    prompt_s = list(pipeline.stages[0].prompt_s)
    prompt_s[100] = prompt_s[90] / 2  # a kernel that is faster where its tiles are full
    stage = replace(pipeline.stages[0], prompt_s=prompt_s)
    uneven = replace(pipeline, stages=(stage, pipeline.stages[1]))
    assert uneven.service_s(0, BatchLoad(0, 0, ((90, 10),), 0)) == stage.tokens_s[10]


def test_links_carry_activations_forth_and_tokens_back() -> None:
    pipeline, load = compiled(), BatchLoad(3, 30, ((0, 7),), 4)
    assert pipeline.transfer_s(0, load) == 1e-5 + 10 * 256 * 2 / 1e9
    assert pipeline.transfer_s(1, load) == 1e-5 + 4 * 8 / 1e9


def test_one_device_needs_no_link() -> None:
    alone = compiled(plan_of(("fast-0", ("int4",) * 4)))
    assert alone.transfer_s(0, BatchLoad(1, 8, (), 1)) == 0.0


def test_blocks_are_what_is_left_beside_weights_and_the_largest_batch() -> None:
    first, second = compiled().blocks
    weights = 2 * (786432 // 2 + 786432 // 128 * 4) + 2 * 786432
    activations = 2 * (512 * (5 * 256 + 2048) + 1024 * 256)
    left = 64 * MIB - weights - 2 * 1024 * 256 - activations
    assert first == left // (3 * 16 * 2 * 256 * 2)
    assert second > first


def test_a_stage_without_room_for_its_weights_has_no_blocks() -> None:
    costs = tiny_serving()
    cluster = tiny_cluster([tiny_device(room_mib=1.0), costs.cluster.devices[1].device])
    assert cluster.devices[0].device.memory_bytes == RUNTIME_BYTES + MIB
    small = ServingCosts(costs.model, cluster, costs.profiles)
    pipeline = compile_pipeline(TWO_STAGES, small, LIMITS)
    assert (pipeline.blocks[0], pipeline.block_capacity) == (0, 0)


def test_knots_hold_every_small_count_both_sides_of_each_tile_and_the_most() -> None:
    assert token_knots(3).tolist() == [1, 2, 3]
    assert token_knots(400).tolist()[255:] == [256, 257, 320, 321, 384, 385, 448]
    assert row_knots(4).tolist() == [1, 2, 3, 4]
    assert set(range(1, 33)) | {256} <= set(row_knots(256).tolist())


@pytest.mark.parametrize("longest", [2, 100, 1024, 131072])
def test_contexts_are_cut_into_segments_of_a_power_of_two(longest: int) -> None:
    step = knot_tokens(longest)
    assert step & (step - 1) == 0
    assert step * CONTEXT_SEGMENTS >= longest


def test_a_plan_serves_a_trace() -> None:
    rng = np.random.default_rng(0)
    workload = trace(
        np.concatenate([[0.0], np.cumsum(rng.exponential(0.05, 39))]),
        rng.integers(1, 300, 40),
        rng.integers(1, 60, 40),
    )
    result = simulate_continuous(TWO_STAGES, tiny_serving(), workload, LIMITS)
    assert (result.finished, result.refused) == (40, 0)
    assert result.output_tokens == workload.total_output_tokens
    assert all(0 < fraction <= 1 for fraction in result.stage_busy_fraction)
    assert result.itl_s.p50 <= result.itl_s.p99


def test_a_lighter_runtime_leaves_more_blocks() -> None:
    costs = tiny_serving()
    fast = costs.cluster.devices[0].device
    light = replace(fast, runtime_bytes=RUNTIME_BYTES - MIB)
    cluster = tiny_cluster([light, costs.cluster.devices[1].device])
    usual = stage_fixed_bytes(TWO_STAGES, costs.model, costs.cluster, LIMITS)
    lighter = stage_fixed_bytes(TWO_STAGES, costs.model, cluster, LIMITS)
    assert [before - after for before, after in zip(usual, lighter, strict=True)] == [MIB, 0]
