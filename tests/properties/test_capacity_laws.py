"""Laws of capacity: what is said to fit is served, and one more is not."""

from dataclasses import replace
from itertools import accumulate
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.caches import KvRoom, StageCaches, kv_room
from llmpq_sim.core.capacity import (
    COUNTS_SHOWN,
    BatchRoom,
    BlockRoom,
    StageRoom,
    batch_capacity,
)
from llmpq_sim.core.memory import plan_memory
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.scenario import BatchWorkload, Scenario
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.simulator.continuous.capacity import block_room, service_capacity, trace_capacity
from llmpq_sim.simulator.continuous.compilation import compile_pipeline
from llmpq_sim.simulator.continuous.recurrence import compute_service
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from tests.builders import tiny_model
from tests.reports import GOOD, small_task
from tests.services import made_service, serving_costs
from tests.serving import even_pipeline, trace
from tests.strategies import tasks_and_plans

contexts = st.integers(2, 400)


def batch_fits(plan: Plan, scenario: Scenario, sequences: int, context_tokens: int) -> bool:
    """Return whether a batch fits that many rows of so many tokens, all of them in flight."""
    output = min(scenario.workload.longest_output_tokens, context_tokens - 1)
    workload = BatchWorkload(context_tokens - output, (output,) * sequences)
    cuts = plan.micro_batching.within(sequences)
    cuts = replace(cuts, groups_in_flight=ceil(sequences / cuts.decode))
    needs = plan_memory(replace(plan, micro_batching=cuts), replace(scenario, workload=workload))
    return all(stage.fits for stage in needs)


@given(tasks_and_plans(), contexts)
def test_so_many_sequences_fit_a_batch_and_one_more_does_not(
    case: tuple[PlanningTask, Plan], context_tokens: int
) -> None:
    task, plan = case
    scenario = task.costs.scenario
    most = BatchRoom(plan, scenario).sequences(context_tokens)
    assert most == 0 or batch_fits(plan, scenario, most, context_tokens)
    assert not batch_fits(plan, scenario, most + 1, context_tokens)


@given(tasks_and_plans(), st.integers(1, 40), st.none() | st.integers(1, 200))
def test_the_longest_context_of_a_batch_fits_and_no_longer_one_does(
    case: tuple[PlanningTask, Plan], sequences: int, chunk_tokens: int | None
) -> None:
    task, plan = case
    plan = replace(plan, micro_batching=replace(plan.micro_batching, chunk_tokens=chunk_tokens))
    scenario = task.costs.scenario
    longest = BatchRoom(plan, scenario).longest_context_tokens(sequences)
    assert longest == 0 or batch_fits(plan, scenario, sequences, longest)
    beyond = range(max(longest + 1, 2), scenario.model.max_positions + 1)
    assert not any(
        batch_fits(plan, scenario, sequences, tokens) for tokens in (*beyond[:3], *beyond[3::97])
    )


@given(tasks_and_plans())
def test_a_stage_holds_its_tokens_beside_all_else_and_not_one_more(
    case: tuple[PlanningTask, Plan],
) -> None:
    task, plan = case
    scenario = task.costs.scenario
    for stage, need, planned in zip(
        batch_capacity(plan, scenario).stages,
        plan_memory(plan, scenario),
        plan.stages,
        strict=True,
    ):
        token_bytes = len(planned.formats) * scenario.model.only_kind.cache_bytes(1, 1)
        left_bytes = need.limit_bytes - need.total_bytes + need.kv_bytes
        assert stage.kv_bytes == max(left_bytes, 0)
        assert stage.kv_tokens * token_bytes <= stage.kv_bytes < (stage.kv_tokens + 1) * token_bytes
        assert need.fits == (left_bytes >= need.kv_bytes)


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=4),
    st.sampled_from([1, 4, 16]),
    st.integers(2, 200),
    st.integers(1, 20),
    st.lists(st.integers(0, 4), max_size=4),
)
def test_shared_blocks_are_those_of_a_common_table(
    blocks: list[int], block_tokens: int, longest: int, count: int, taken: list[int]
) -> None:
    stages = tuple(
        StageRoom(f"d{number}", 0, own * block_tokens) for number, own in enumerate(blocks)
    )
    room = BlockRoom(stages, block_tokens, longest, KvRoom(tuple(blocks), tuple(accumulate(taken))))
    shared = room.longest_context_tokens(count)
    assert shared == 0 or room.sequences(shared) >= count
    if shared < longest:
        assert room.sequences(max(shared + 1, 2)) < count
    assert room.sequences(longest + 1) == 0


@given(st.integers(2, 60), st.integers(1, 6), st.integers(1, 20))
def test_a_service_holds_so_many_at_once_without_taking_blocks_away(
    blocks: int, sequences: int, spare: int
) -> None:
    limit = ContinuousSettings(10_000, 64, 10_000, block_tokens=4)
    room = BlockRoom((StageRoom("d", 0, 4 * blocks),), 4, 10_000, KvRoom((blocks,)))
    context_tokens = room.longest_context_tokens(sequences)
    pipeline = even_pipeline(replace(limit, longest_context_tokens=400), blocks=blocks)
    if context_tokens < 2 * spare:
        return

    def are_served_at_once(count: int) -> bool:
        prompts, outputs = [context_tokens - spare] * count, [spare] * count
        times = compute_service(pipeline, trace([0.0] * count, prompts, outputs), limit)
        return not times.preemptions and len(set(times.first_s)) == 1

    most = room.sequences(context_tokens)
    assert most >= sequences
    assert are_served_at_once(most)
    assert not are_served_at_once(most + 1)


@pytest.mark.parametrize("longest", [2048, 700, 90])
def test_a_service_serves_its_longest_context_and_refuses_one_token_more(longest: int) -> None:
    costs = serving_costs()
    settings = ContinuousSettings(512, 64, longest)
    pipeline = compile_pipeline(GOOD, costs, settings)
    room = block_room(GOOD, costs.model, costs.cluster, settings)
    assert [stage.kv_tokens for stage in room.stages] == [16 * count for count in pipeline.blocks]
    tokens = room.longest_context_tokens(1)
    times = compute_service(pipeline, trace([0.0] * 2, [tokens - 5, tokens - 4], [5, 5]), settings)
    assert np.isnan(times.last_s).tolist() == [False, True]


def test_users_are_those_that_fit_and_are_admitted() -> None:
    service = made_service(requests=30, lengths=(10, 400))
    found = service_capacity(service)
    lengths = service.workload.context_tokens
    assert found.context_tokens == lengths.max()
    assert found.mean_context_tokens == ceil(lengths.mean())
    assert found.kv_tokens == 16 * service.pipeline.block_capacity
    assert found.users == min(found.sequences, 64) == 64
    costs = service.costs
    room = block_room(service.plan, costs.model, costs.cluster, service.settings)
    asked = trace_capacity(room, service.workload, service.settings, 128, 7)
    assert (asked.context_tokens, asked.sequences) == (128, room.sequences(128))
    assert [count for count, _ in asked.longest_contexts] == [1, 7]


def test_contexts_are_told_for_powers_of_two_as_long_as_one_fits() -> None:
    task = small_task()
    found = batch_capacity(GOOD, task.costs.scenario)
    assert tuple(count for count, _ in found.longest_contexts) == COUNTS_SHOWN
    tokens = [tokens for _, tokens in found.longest_contexts]
    assert tokens == sorted(tokens, reverse=True)
    assert found.longest_context_tokens == tokens[0] == task.costs.scenario.model.max_positions
    assert (found.context_tokens, found.mean_context_tokens) == (42, 42)
    assert found.users == found.sequences


def test_bytes_that_are_short_hold_no_block() -> None:
    model = tiny_model()
    caches = StageCaches(((model.only_kind, 2),), model.max_positions)
    assert kv_room([caches], [-5], 16) == KvRoom((0,))
    assert kv_room([caches], [2 * model.only_kind.cache_bytes(1, 16)], 16) == KvRoom((1,))
