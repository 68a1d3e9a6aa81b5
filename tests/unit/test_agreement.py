"""What is shown was simulated in SimPy, and a recurrence that disagrees is an internal error."""

from dataclasses import replace
from math import nan, nextafter

import pytest

from llmpq_sim.core.errors import InternalError, LlmpqError
from llmpq_sim.search.scoring import score_in_simpy, score_plan
from llmpq_sim.simulator.agreement import check_figure, check_instants
from llmpq_sim.simulator.static import checked
from llmpq_sim.simulator.static.checked import CheckedSteps
from llmpq_sim.simulator.static.recurrence import compute_steps
from llmpq_sim.simulator.static.step_graph import StepGraph, StepTimes
from tests.reports import GOOD, small_task
from tests.rings import ring_graph

Told = tuple[int, int, float, float]


def two_stages() -> StepGraph:
    return ring_graph(
        stages=2, rows=2, prefill=1, decode=1, rounds=[2, 2], service_s=lambda stage, step: 1.0
    )


def off_by_one_bit(graph: StepGraph, start_s: float = 0.0) -> StepTimes:
    """Return what the recurrence says, but the last instant one bit later."""
    times = compute_steps(graph, start_s)
    later_s = nextafter(times.sampled_s[-1], 1e9)
    return replace(times, sampled_s=[*times.sampled_s[:-1], later_s])


def test_equal_figures_pass_and_different_ones_name_both_values() -> None:
    check_figure("batches", 3, 3)
    with pytest.raises(InternalError) as caught:
        check_figure("batches", 3, 4)
    assert str(caught.value) == (
        "internal error: batches: the SimPy model says 3, the recurrence 4; they must be equal, so "
        "this is a fault of llmpq: please report it with the command and its input"
    )


def test_an_internal_error_is_none_of_bad_input() -> None:
    assert not issubclass(InternalError, LlmpqError)


def test_the_first_instant_that_differs_is_named_and_those_not_reached_are_not() -> None:
    check_instants("instant of step", [1.0, nan, 3.0], [1.0, 2.0, 3.0])
    expected = "instant of step 2: the SimPy model says 3.0, the recurrence 3.5"
    with pytest.raises(InternalError, match=expected):
        check_instants("instant of step", [1.0, nan, 3.0, 4.0], [1.0, 2.0, 3.5, 9.0])
    with pytest.raises(InternalError, match="number of instant of steps: the SimPy model says 1"):
        check_instants("instant of step", [1.0], [1.0, 2.0])


def test_a_plan_that_is_shown_has_the_score_it_had_in_the_search() -> None:
    task = small_task()
    assert score_in_simpy(GOOD, task) == score_plan(GOOD, task)


def test_a_recurrence_off_by_one_bit_is_an_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "compute_steps", off_by_one_bit)
    with pytest.raises(InternalError, match=r"^internal error: instant of step "):
        score_in_simpy(GOOD, small_task())


@pytest.mark.parametrize(("most_steps", "told"), [(12, 12), (24, 24), (17, 17), (1e9, 36)])
def test_steps_beyond_the_limit_are_what_the_recurrence_says(most_steps: float, told: int) -> None:
    graph, run, seen = two_stages(), CheckedSteps(most_steps), list[Told]()
    start_s = 0.0
    for _ in range(3):
        times = run(graph, start_s, lambda *step: seen.append(step))
        assert times == compute_steps(graph, start_s)
        start_s = times.end_s
    assert len(seen) == told
