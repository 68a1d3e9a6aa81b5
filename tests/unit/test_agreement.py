"""Agreement of SimPy with the recurrences: one bit of difference is an internal error."""

from collections.abc import Callable
from dataclasses import replace
from math import nan, nextafter
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.commands.guard import failure
from llmpq_sim.core.errors import InternalError, LlmpqError
from llmpq_sim.search.scoring import score_in_simpy, score_plan
from llmpq_sim.simulator.agreement import check_figure, check_instants
from llmpq_sim.simulator.continuous import checked as checked_continuous
from llmpq_sim.simulator.continuous.checked import MOST_REQUESTS, checked_service, first_requests
from llmpq_sim.simulator.continuous.gaps import Gaps
from llmpq_sim.simulator.continuous.recurrence import compute_service
from llmpq_sim.simulator.continuous.service_times import FloatArray, ServiceTimes
from llmpq_sim.simulator.continuous.watch import Watch
from llmpq_sim.simulator.static import checked
from llmpq_sim.simulator.static.checked import CheckedSteps
from llmpq_sim.simulator.static.recurrence import compute_steps
from llmpq_sim.simulator.static.step_graph import StepGraph, StepTimes
from tests.reports import GOOD, small_task
from tests.rings import ring_graph
from tests.serving import Case, even_pipeline, limits, outcome, trace

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
        "batches: the SimPy model says 3, the recurrence 4, which must be equal"
    )


def test_an_internal_error_is_none_of_bad_input_and_ends_with_its_own_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert not issubclass(InternalError, LlmpqError)
    with pytest.raises(InternalError) as caught:
        check_figure("batches", 3, 4)
    found = failure(caught.value)
    assert (found.kind, found.exit_code) == ("InternalError", 70)
    assert "InternalError: batches: the SimPy model says 3, the recurrence 4" in found.message


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
    with pytest.raises(InternalError, match=r"^instant of step \d+: the SimPy model says "):
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


# ---- continuous batching


def made_case(requests: int = 12) -> Case:
    """Return requests of which one arrives each second, for two stages that take half of one."""
    limit = limits()
    workload = trace([float(number) for number in range(requests)], [4] * requests, [3] * requests)
    return even_pipeline(limit, stages=2, batch_s=0.5), workload, limit


def spoilt(monkeypatch: pytest.MonkeyPatch, name: str, spoil: Callable[[Any], Any]) -> None:
    """Let the recurrence be wrong in one thing it says."""

    def wrong(*case: Any) -> ServiceTimes:
        times = compute_service(*case)
        return replace(times, **{name: spoil(getattr(times, name))})

    monkeypatch.setattr(checked_continuous, "compute_service", wrong)


def later_by_a_bit(instants_s: FloatArray, request: int = 4) -> FloatArray:
    changed = instants_s.copy()
    changed[request] = nextafter(changed[request], 1e9)
    return changed


def test_a_service_that_is_shown_is_what_the_recurrence_says() -> None:
    case = made_case()
    assert outcome(checked_service(*case)) == outcome(compute_service(*case))


@pytest.mark.parametrize(
    ("name", "spoil", "figure"),
    [
        ("first_s", later_by_a_bit, "first token of request 4"),
        ("last_s", later_by_a_bit, "last token of request 4"),
        ("batches", lambda count: count + 1, "batches"),
        ("busy_s", lambda busy_s: (busy_s[0], nextafter(busy_s[1], 0.0)), "busy_s"),
        ("preemptions", lambda count: count + 1, "preemptions"),
        ("peak_blocks", lambda count: count - 1, "peak_blocks"),
        ("reused_tokens", lambda count: count + 4, "reused_tokens"),
        ("phases", lambda phases: replace(phases, decode_s=0.0), "phases"),
        ("gaps", lambda _: Gaps(), "gaps"),
    ],
)
def test_a_service_off_by_one_bit_is_an_internal_error(
    monkeypatch: pytest.MonkeyPatch, name: str, spoil: Callable[[Any], object], figure: str
) -> None:
    spoilt(monkeypatch, name, spoil)
    with pytest.raises(InternalError, match=rf"^{figure}: the SimPy model says "):
        checked_service(*made_case())


def test_of_long_traces_the_first_requests_are_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = made_case(MOST_REQUESTS + 1)[1]
    assert first_requests(workload).requests == MOST_REQUESTS
    monkeypatch.setattr(checked_continuous, "MOST_TOKENS", 14)
    assert first_requests(workload).requests == 4
    monkeypatch.setattr(checked_continuous, "MOST_TOKENS", 1)
    assert first_requests(workload).requests == 1
    case = made_case()
    assert outcome(checked_service(*case)) == outcome(compute_service(*case))


@pytest.mark.parametrize(("request_number", "is_seen"), [(2, True), (11, False)])
def test_of_many_steps_the_first_are_simulated(
    monkeypatch: pytest.MonkeyPatch, request_number: int, is_seen: bool
) -> None:
    monkeypatch.setattr(checked_continuous, "MOST_STEPS", 16)
    case = made_case()
    spoilt(monkeypatch, "last_s", lambda last_s: later_by_a_bit(last_s, request_number))
    if is_seen:
        with pytest.raises(InternalError, match="last token of request 2"):
            checked_service(*case)
        return
    seen = checked_service(*case)
    assert seen.last_s[11] == nextafter(compute_service(*case).last_s[11], 1e9)


@pytest.mark.parametrize("fewer", [0, 1, 2, 10])
def test_whoever_watches_says_when_it_is_enough(fewer: int) -> None:
    case, seen = made_case(), list[Told]()
    total = compute_service(*case).batches * len(case[0].stages)
    watch = Watch(lambda *step: seen.append(step), most_steps=total - fewer)
    assert outcome(checked_service(*case, watch)) == outcome(compute_service(*case))
    assert total - fewer <= len(seen) <= total
