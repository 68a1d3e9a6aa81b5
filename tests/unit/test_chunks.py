"""Prompts cut into chunks: what a chunk takes, and how chunks follow each other."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_sim.core.cluster import Link
from llmpq_sim.core.layers import Attention
from llmpq_sim.core.memory import batch_temporaries_bytes, plan_memory
from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.core.schedule import PrefillStep, prefill_steps
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.simulator.continuous.compilation import ServingCosts, compile_pipeline
from llmpq_sim.simulator.continuous.mixed_costs import BatchLoad
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from llmpq_sim.simulator.static.engine import simulate_steps
from llmpq_sim.simulator.static.simulate import HIDDEN_BYTES, StageCosts, simulate_static
from tests.builders import plan_at, tiny_device, tiny_model, tiny_scenario, tiny_task

HOP = Link(1e-6, 1e9)
PROMPT = 96
WHOLE = MicroBatching(2, 2, 2)


def plan_and_costs(
    batching: MicroBatching,
    *,
    stages: int = 3,
    output_tokens: tuple[int, ...] = (4, 6, 5),
    prompt_tokens: int = PROMPT,
) -> tuple[Plan, LayerCosts]:
    """Return a plan with two int8 layers a stage, on devices that are all alike."""
    devices = [tiny_device("kind")] * stages
    scenario = tiny_scenario(
        devices,
        [HOP] * (stages * (stages - 1) // 2),
        model=tiny_model(2 * stages),
        output_tokens=output_tokens,
        prompt_tokens=prompt_tokens,
    )
    placement = tuple((number, 2) for number in range(stages))
    plan = plan_at(scenario, placement, ["int8"] * 2 * stages, batching)
    return plan, tiny_task(scenario).costs


@given(st.integers(1, 3), st.integers(1, PROMPT))
def test_the_attention_of_all_chunks_is_that_of_the_prompt(rows: int, chunk_tokens: int) -> None:
    _, costs = plan_and_costs(WHOLE)
    steps = prefill_steps(rows, MicroBatching(rows, 1, 1, chunk_tokens), PROMPT)

    def products_s(tokens: int) -> float:
        alone = PrefillStep(1, 0, tokens, is_last=True)
        attention_s = costs.profiles["kind"].prefill_attention_s(1, tokens, 4, 4, 64)
        return costs.prefill_step_s("kind", "int8", alone, 0) - float(attention_s)

    model = costs.scenario.model
    assert model.only_kind.attention == Attention(4, 4, 64, 64)
    chunks_s = sum(costs.prefill_step_s("kind", "int8", step, 0) for step in steps)
    whole_s = costs.prefill_layer_s("kind", "int8", rows, 0) - products_s(rows * PROMPT)
    products = sum(products_s(step.step_tokens) for step in steps)
    assert chunks_s - products == pytest.approx(whole_s, rel=1e-6, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(PROMPT, 2 * PROMPT))
def test_one_chunk_is_the_whole_prompt_to_the_last_bit(
    stages: int, prefill: int, chunk_tokens: int
) -> None:
    whole, costs = plan_and_costs(MicroBatching(prefill, 2, 2), stages=stages)
    cut = replace(whole, micro_batching=MicroBatching(prefill, 2, 2, chunk_tokens))
    assert simulate_static(cut, costs) == simulate_static(whole, costs)
    assert plan_memory(cut, costs.scenario) == plan_memory(whole, costs.scenario)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(5, PROMPT))
def test_the_recurrence_equals_the_simpy_model(
    stages: int, prefill: int, groups: int, chunk_tokens: int
) -> None:
    plan, costs = plan_and_costs(MicroBatching(prefill, 2, groups, chunk_tokens), stages=stages)
    found = simulate_static(plan, costs)
    assert found == simulate_static(plan, costs, simulate_steps)
    screen = Screen(tiny_task(costs.scenario))
    assert found.makespan_s >= screen.makespan_s(plan) * (1 - 1e-9)


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("chunk_tokens", [24, 32, 96])
def test_chunks_fill_the_pipeline_once_and_then_take_turns(stages: int, chunk_tokens: int) -> None:
    """Stages are alike and later chunks take longer, so no chunk waits behind the first stage."""
    batching = MicroBatching(1, 1, 1, chunk_tokens)
    plan, costs = plan_and_costs(batching, stages=stages, output_tokens=(1,))
    parts = [StageCosts(costs, plan, number) for number in range(stages)]
    steps = prefill_steps(1, batching, PROMPT)
    first_s = sum(parts[0].prefill_step_s(step) for step in steps)
    rest_s = sum(part.prefill_step_s(steps[-1]) for part in parts[1:])
    hop_s = HOP.transfer_s(chunk_tokens * HIDDEN_BYTES * costs.scenario.model.hidden_size)
    expected_s = first_s + rest_s + (stages - 1) * hop_s
    assert simulate_static(plan, costs).ttft_s.mean == pytest.approx(expected_s)


def test_a_prompt_in_chunks_is_prefilled_sooner_by_many_stages() -> None:
    whole, costs = plan_and_costs(
        MicroBatching(1, 1, 1), stages=4, output_tokens=(1,), prompt_tokens=4096
    )
    cut = replace(whole, micro_batching=MicroBatching(1, 1, 1, 512))
    faster = simulate_static(whole, costs).makespan_s / simulate_static(cut, costs).makespan_s
    assert 1.5 < faster < 4.0


def test_only_the_last_chunk_has_the_head() -> None:
    plan, costs = plan_and_costs(MicroBatching(2, 2, 2, 48), stages=1)
    (stage,) = [StageCosts(costs, plan, 0)]
    first, last = prefill_steps(2, plan.micro_batching, PROMPT)
    layers_s = [2 * costs.prefill_step_s("kind", "int8", step, 0) for step in (first, last)]
    embedding_s, head_s = costs.embedding_s("kind", 96), costs.head_s("kind", 2)
    assert stage.prefill_step_s(first) == pytest.approx(layers_s[0] + embedding_s)
    assert stage.prefill_step_s(last) == pytest.approx(layers_s[1] + embedding_s + head_s)


def test_temporaries_are_those_of_the_largest_chunk() -> None:
    plan, costs = plan_and_costs(MicroBatching(2, 3, 1, 25))
    model = costs.scenario.model
    memory = plan_memory(plan, costs.scenario)
    assert memory[0].temporaries_bytes == batch_temporaries_bytes(model, 2 * 24)  # 96 = 4 x 24
    few = replace(plan, micro_batching=MicroBatching(1, 3, 1, 1))
    assert plan_memory(few, costs.scenario)[0].temporaries_bytes == batch_temporaries_bytes(
        model, 3
    )


def test_a_chunk_takes_as_long_as_in_continuous_batching() -> None:
    plan, costs = plan_and_costs(MicroBatching(1, 1, 1, 32), stages=2)
    scenario = costs.scenario
    serving = ServingCosts(scenario.model, scenario.cluster, costs.profiles)
    limits = ContinuousSettings(
        token_budget=PROMPT, sequence_limit=4, longest_context_tokens=PROMPT
    )
    pipeline = compile_pipeline(plan, serving, limits)
    for step in prefill_steps(1, plan.micro_batching, PROMPT):
        chunk = ((step.before_tokens, step.tokens),)
        load = BatchLoad(rows=0, context_sum=0, chunks=chunk, samples=int(step.is_last))
        for number in range(2):
            stage = StageCosts(costs, plan, number)
            assert stage.prefill_step_s(step) == pytest.approx(pipeline.service_s(number, load))
