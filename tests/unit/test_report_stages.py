from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_sim.report.stages import (
    StageRow,
    bottleneck_text,
    phase_seconds,
    stage_rows,
    unused_devices,
)
from llmpq_sim.search.scoring import score_plan
from llmpq_sim.simulator.static.simulate import simulate_static
from tests.reports import GOOD, plan_of, small_task


def row(number: int, prefill: float, decode: float, *, has_room: bool = True) -> StageRow:
    return StageRow(number, f"t4-{number}", 0, 9, ("int8",) * 10, 5, 10, has_room, prefill, decode)


def test_rows_say_what_each_stage_holds() -> None:
    task = small_task()
    first, second = stage_rows(score_plan(GOOD, task), task)
    assert (first.device, first.layers_text, second.layers_text) == ("v100-32g-0", "0-7", "8-11")
    assert second.formats == ("int8", "int8", "int4", "int4")
    assert first.memory_bytes <= first.limit_bytes


def test_a_stage_of_one_layer_has_one_number() -> None:
    task = small_task()
    plan = plan_of(("v100-32g-0", "F"), ("p100-12g-0", "8" * 11))
    assert stage_rows(score_plan(plan, task), task)[0].layers_text == "0"


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=8, max_size=8),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(1, 8),
)
def test_prefill_and_decode_together_are_what_the_simulator_calls_busy(
    outputs: list[int], prefill: int, decode: int, groups: int
) -> None:
    task = small_task(output_tokens=tuple(outputs))
    batching = (prefill, decode, min(groups, -(-8 // decode)))
    plan = plan_of(("v100-32g-0", "FF888888"), ("p100-12g-0", "8844"), batching=batching)
    busy_s = simulate_static(plan, task.costs).stage_busy_s
    assert [sum(phases) for phases in phase_seconds(plan, task.costs)] == pytest.approx(busy_s)


def test_a_plan_that_does_not_fit_has_no_busy_time() -> None:
    task = small_task()
    score = replace(score_plan(GOOD, task), result=None)
    rows = stage_rows(score, task)
    assert [row.busy_fraction for row in rows] == [None, None]
    assert bottleneck_text(rows) is None


def test_a_stage_without_memory_for_another_layer_has_no_room() -> None:
    task = small_task()
    score = score_plan(GOOD, task)
    full = replace(score.memory[1], limit_bytes=score.memory[1].total_bytes + 1)
    rows = stage_rows(replace(score, memory=(score.memory[0], full)), task)
    assert [row.has_room for row in rows] == [True, False]


def test_the_busiest_stage_is_the_bottleneck() -> None:
    assert bottleneck_text([row(0, 0.2, 0.3), row(1, 0.25, 0.7)]) == (
        "Bottleneck: t4-1, busy 95 % of the time: 25 % in prefill, 70 % in decode."
    )


def test_equally_busy_stages_are_the_bottleneck_together_and_may_wait() -> None:
    assert bottleneck_text([row(0, 0.2, 0.3), row(1, 0.2, 0.5), row(2, 0.2, 0.5)]) == (
        "Bottleneck: t4-1 and t4-2, busy 70 % of the time: 20 % in prefill, 50 % in decode. "
        "The rest is waiting for other stages and links."
    )


def test_even_load_is_said_to_be_even() -> None:
    assert bottleneck_text([row(0, 0.5, 0.45), row(1, 0.5, 0.47)]) == (
        "Evenly loaded: each stage is busy 95 to 97 % of the time, the busiest "
        "50 % in prefill, 47 % in decode."
    )


def test_full_devices_explain_why_the_bottleneck_keeps_its_layers() -> None:
    rows = [row(0, 0.2, 0.3, has_room=False), row(1, 0.25, 0.7, has_room=False)]
    assert (bottleneck_text(rows) or "").endswith("There is no memory for one more layer on t4-0.")


def test_one_stage_needs_no_comparison() -> None:
    assert bottleneck_text([row(0, 0.4, 0.6)]) == (
        "One stage does all the work: 40 % in prefill, 60 % in decode."
    )


def test_devices_left_out_are_named() -> None:
    task = small_task()
    assert unused_devices(score_plan(GOOD, task), task) == ["p100-12g-1", "p100-12g-2"]
