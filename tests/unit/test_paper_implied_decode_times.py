"""Implied decode times, which explain what was measured, and nothing else does."""

import pytest

from llmpq_sim.paper.implied_decode_times import DEVICE, FORMAT, implied_decode_times, makespan_s
from llmpq_sim.paper.logged import LOGGED_CASE, predict_logged_plans
from llmpq_sim.paper.measurements import LOGGED_PLANS


def test_with_nothing_more_a_plan_takes_what_its_kernels_say() -> None:
    task = LOGGED_CASE.task()
    tokens = task.costs.scenario.workload.total_output_tokens
    for prediction in predict_logged_plans():
        rate = tokens / makespan_s(prediction.logged, task, 0.0, 0.0)
        assert rate == pytest.approx(prediction.from_kernels, rel=1e-12)


def test_both_plans_then_take_as_long_as_measured() -> None:
    task, missing = LOGGED_CASE.task(), implied_decode_times()
    tokens = task.costs.scenario.workload.total_output_tokens
    layer_s = missing.layer_s - missing.timed_layer_s
    for logged in LOGGED_PLANS:
        found = tokens / makespan_s(logged, task, layer_s, missing.step_s)
        assert found == pytest.approx(logged.tokens_per_s, rel=1e-9)


def test_what_is_missing_is_told_from_what_was_timed() -> None:
    costs, missing = LOGGED_CASE.task().costs, implied_decode_times()
    assert missing.timed_layer_s == pytest.approx(
        float(costs.decode_layer_s(DEVICE, FORMAT, 8, 0).mean())
    )
    assert missing.layer_s > missing.timed_layer_s
    assert missing.step_s > 0
    own_model_s = (LOGGED_PLANS[1].decode_s[-1]) / 20  # all 20 layers of that stage have 8 bits
    assert missing.layer_s == pytest.approx(own_model_s, rel=0.03)
