"""Predictions of what was run: by the same rules as a simulation of the plan's own batch."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_sim.api.prediction import Prediction, predict, predict_requests
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.execution import RequestTiming
from llmpq_sim.core.memory import plan_memory
from llmpq_sim.core.plan import MicroBatching, check_plan
from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.io.executions import saved_execution
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.simulator.continuous.service import serve
from llmpq_sim.simulator.static.simulate import simulate_static
from llmpq_sim.workloads.shaping import closed_loop
from tests.executions import LIMITS, measured, poisson, saved_plan, served
from tests.reports import GOOD
from tests.services import serving_costs
from tests.serving import trace


def static(saved: SavedPlan, requests: list[RequestTiming]) -> Prediction:
    return predict_requests(saved, requests, "static", None)


def costs_of(saved: SavedPlan, prompt: int, outputs: tuple[int, ...]) -> LayerCosts:
    scenario = replace(saved.task.costs.scenario, workload=BatchWorkload(prompt, outputs))
    return LayerCosts(scenario, saved.task.costs.profiles)


def busy_s(prediction: Prediction) -> list[float]:
    busy = [0.0] * len(prediction.stage_bytes)
    for step in prediction.steps:
        busy[step.stage] += step.ended_s - step.began_s
    return busy


def test_the_plans_own_batch_is_predicted_as_it_is_simulated() -> None:
    saved = saved_plan((10, 3, 5, 1, 7, 7, 2, 9))
    requests = [served(32, tokens) for tokens in saved.task.costs.scenario.workload.output_tokens]
    prediction = static(saved, requests)
    assert prediction.result == simulate_static(saved.plan, saved.task.costs)
    memory = plan_memory(saved.plan, saved.task.costs.scenario)
    assert prediction.stage_bytes == tuple(stage.total_bytes for stage in memory)
    assert prediction.notes == ()


def test_an_execution_is_predicted_from_lengths_alone() -> None:
    saved = saved_plan()
    requests = [served(20 + number, 4 + number % 3) for number in range(11)]
    prediction = static(saved, requests)
    execution = saved_execution(measured(prediction, 3.0), saved, "static", None, seed=0)
    assert predict(saved, execution=execution) == prediction


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 12)), min_size=1, max_size=20),
    st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 2)),
)
def test_visits_hold_every_token_and_requests_follow_from_them(
    lengths: list[tuple[int, int]], batching: tuple[int, int, int]
) -> None:
    saved = saved_plan(plan=replace(GOOD, micro_batching=MicroBatching(*batching)))
    requests = [served(prompt, output) for prompt, output in lengths]
    prediction = static(saved, requests)
    result = prediction.result
    first_stage = [step for step in prediction.steps if step.stage == 0]
    assert sum(step.decodes for step in first_stage) == sum(out - 1 for _, out in lengths)
    batches = [lengths[start : start + 8] for start in range(0, len(lengths), 8)]
    means = [-(-sum(prompt for prompt, _ in batch) // len(batch)) for batch in batches]
    expected = sum(mean * len(batch) for mean, batch in zip(means, batches, strict=True))
    assert sum(step.prompt_tokens for step in first_stage) == expected
    assert len(prediction.steps) == result.stage_steps
    assert busy_s(prediction) == pytest.approx(result.stage_busy_s)
    ended = [step.ended_s for step in prediction.steps]
    assert ended == sorted(ended)
    sampled = {step.ended_s for step in prediction.steps if step.stage == 1}
    assert {request.first_s for request in prediction.requests} <= sampled
    assert max(request.last_s for request in prediction.requests) == result.makespan_s == ended[-1]
    entered = sorted(first_stage, key=lambda step: step.began_s)
    assert [step.step for step in entered] == list(range(len(first_stage)))


def test_batches_run_one_after_another() -> None:
    saved, requests = saved_plan((6, 4)), [served(32, 6), served(32, 4)] * 3
    alone, prediction = simulate_static(saved.plan, saved.task.costs), static(saved, requests)
    assert prediction.result.makespan_s == pytest.approx(3 * alone.makespan_s)
    assert prediction.result.stage_steps == 3 * alone.stage_steps
    begins = [request.first_s for request in prediction.requests[::2]]
    assert np.diff(begins) == pytest.approx([alone.makespan_s] * 2)
    assert prediction.result.ttft_s.mean == pytest.approx(alone.ttft_s.mean + alone.makespan_s)
    assert prediction.notes == ("3 batches of 2 requests, one after another",)


def test_batches_that_begin_like_waves_are_predicted_like_waves() -> None:
    saved = saved_plan((5,) * 4, replace(GOOD, micro_batching=MicroBatching(2, 2, 2)))
    costs = costs_of(saved, 32, (5,) * 12)
    waves = simulate_static(saved.plan, costs)
    prediction = static(saved, [served(32, 5)] * 12)
    assert prediction.result.makespan_s == waves.makespan_s
    assert prediction.result.ttft_s == waves.ttft_s
    assert prediction.result.stage_busy_s == pytest.approx(waves.stage_busy_s)


@pytest.mark.parametrize("left", range(1, 8))
def test_a_smaller_last_batch_is_cut_by_the_same_rules(left: int) -> None:
    saved = saved_plan()
    alone = static(saved, [served(32, 10)] * left)
    groups = -(-left // min(4, left))
    batching = MicroBatching(min(2, left), min(4, left), min(2, groups))
    plan, costs = replace(saved.plan, micro_batching=batching), costs_of(saved, 32, (10,) * left)
    check_plan(plan, costs.scenario)
    assert alone.result == simulate_static(plan, costs)
    assert alone.stage_bytes == tuple(m.total_bytes for m in plan_memory(plan, costs.scenario))
    both = static(saved, [served(32, 10)] * (8 + left))
    assert both.notes == (f"2 batches of 8 requests, the last one of {left}, one after another",)


def test_prompts_that_differ_are_predicted_at_their_mean_and_a_note_says_so() -> None:
    saved = saved_plan()
    lengths = (30, 34, 31, 33, 32, 32, 31, 32)  # 31.875 on average
    prediction = static(saved, [served(prompt, 10) for prompt in lengths])
    assert prediction.result == simulate_static(saved.plan, saved.task.costs)
    assert prediction.notes == (
        "prompts of 30 to 34 tokens are predicted at the mean length of their batch, rounded up",
    )


def test_memory_is_that_of_the_longest_prompt() -> None:
    saved = saved_plan()
    prediction = static(saved, [served(prompt, 10) for prompt in (1, 1, 1, 1, 1, 1, 1, 60)])
    scenario = costs_of(saved, 60, (10,) * 8).scenario
    expected = tuple(stage.total_bytes for stage in plan_memory(saved.plan, scenario))
    assert prediction.stage_bytes == expected


def test_arrivals_are_not_waited_for_by_the_static_policy() -> None:
    saved = saved_plan()
    prediction = static(saved, [served(32, 10, arrival_s=0.5 * number) for number in range(8)])
    assert prediction.result == simulate_static(saved.plan, saved.task.costs)
    assert {request.arrival_s for request in prediction.requests} == {0.0}
    assert prediction.notes == (
        "the static policy is predicted with every request present at the start",
    )


# ---- continuous


def test_continuous_batching_is_predicted_as_it_is_simulated() -> None:
    saved, requests = saved_plan(), poisson(40)
    prediction = predict_requests(saved, requests, "continuous", LIMITS)
    workload = trace(
        [request.arrival_s for request in requests],
        [request.prompt_tokens for request in requests],
        [request.output_tokens for request in requests],
    )
    service = serve(saved.plan, serving_costs(), workload, LIMITS)
    assert prediction.result == service.result
    assert prediction.stage_bytes == service.memory_bytes
    assert [request.first_s for request in prediction.requests] == service.times.first_s.tolist()
    assert len(prediction.steps) == service.result.stage_steps
    assert busy_s(prediction) == pytest.approx(service.result.stage_busy_s)
    last = [step for step in prediction.steps if step.stage == 1]
    assert sum(step.prompt_tokens for step in last) == workload.total_prompt_tokens
    assert sum(step.decodes for step in last) == workload.total_output_tokens - workload.requests


def test_a_closed_loop_is_predicted_as_one_whenever_requests_came_in() -> None:
    saved, requests = saved_plan(), poisson(20)
    prediction = predict_requests(saved, requests, "continuous", LIMITS, 3)
    workload = closed_loop(
        trace(
            [0.0] * 20,
            [request.prompt_tokens for request in requests],
            [request.output_tokens for request in requests],
        ),
        3,
    )
    service = serve(saved.plan, serving_costs(), workload, LIMITS)
    assert prediction.result == service.result
    entered_s = [request.arrival_s for request in prediction.requests]
    assert entered_s == service.times.arrival_s.tolist()
    assert entered_s != [request.arrival_s for request in requests]


def test_the_order_of_a_job_need_not_be_that_of_arrivals() -> None:
    saved, requests = saved_plan(), poisson(12)
    forth = predict_requests(saved, requests, "continuous", LIMITS)
    assert predict_requests(saved, requests[::-1], "continuous", LIMITS) == forth


def test_instants_still_count_from_an_arrival_that_was_refused() -> None:
    saved, requests = saved_plan(), poisson(12)
    later = [replace(each, arrival_s=each.arrival_s + 2.0) for each in requests]
    at_once = predict_requests(saved, requests, "continuous", LIMITS)
    shifted = predict_requests(saved, later, "continuous", LIMITS)
    assert shifted.result.makespan_s == pytest.approx(at_once.result.makespan_s + 2.0)
    assert shifted.result.ttft_s.p50 == pytest.approx(at_once.result.ttft_s.p50)
    assert shifted.requests[0].arrival_s == 2.0
    assert shifted.steps[0].began_s == pytest.approx(at_once.steps[0].began_s + 2.0)


def test_requests_that_should_not_fit_are_left_out_and_counted() -> None:
    saved = saved_plan()
    requests = [served(32, 10), served(250, 10)]
    prediction = predict_requests(saved, requests, "continuous", LIMITS)
    assert len(prediction.requests) == prediction.result.finished == 1
    assert prediction.notes == (
        "1 of 2 requests that were served do not fit by what is predicted and are missing from it",
    )


def test_nothing_finished_is_nothing_to_predict() -> None:
    with pytest.raises(InputError, match="expected at least one that was finished, got none"):
        static(saved_plan(), [])


def test_continuous_batching_needs_its_settings() -> None:
    with pytest.raises(InputError, match="expected those of continuous batching, got none"):
        predict_requests(saved_plan(), [served(32, 10)], "continuous", None)
