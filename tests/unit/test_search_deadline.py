"""A time budget is kept in every step, and what it ends is still an answer with a true bound."""

import time
from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given, settings

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.search import deadline
from llmpq_sim.search.bound.bound import (
    NO_MULTIPLIERS,
    check_certificate,
    first_certificate,
    tighten,
)
from llmpq_sim.search.bound.feasibility import task_grid
from llmpq_sim.search.bound.least import least_makespan_s
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.relaxation import relax, solve_integrally
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.deadline import (
    OutOfTime,
    check_time,
    share_of_time,
    solver_options,
    time_left_s,
    time_limit,
    without_time_limit,
)
from llmpq_sim.search.frame import SearchFrame
from llmpq_sim.search.grid import micro_batching_grid
from llmpq_sim.search.planner import SearchSettings, search
from tests.benchmarks.bench_scale import large_task
from tests.builders import tiny_task
from tests.strategies import Enumerated, tasks


def silently(done: int, total: int) -> None:
    """Report no progress."""


class Clock:
    """A clock that goes on by a second whenever it is looked at."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        self.now_s += 1.0
        return self.now_s


def test_without_a_limit_no_time_passes() -> None:
    assert time_left_s() == inf
    assert solver_options() == {}
    check_time()


def test_a_limit_inside_another_only_shortens_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "time", Clock())
    with time_limit(10.0):
        with time_limit(100.0):
            assert time_left_s() < 10
        with time_limit(None):
            assert time_left_s() < 10
        with without_time_limit():
            assert time_left_s() == inf
        with share_of_time(0.5):
            assert time_left_s() < 4
        assert solver_options()["time_limit"] > 0
        while time_left_s() > 0:
            pass
        with pytest.raises(OutOfTime):
            check_time()
    assert time_left_s() == inf


def test_a_step_that_runs_out_of_time_is_named_once_and_the_search_goes_on() -> None:
    frame = SearchFrame(lambda _: None)
    for _ in range(2):
        with frame.step("seeds"):
            raise OutOfTime
    assert (frame.ended, frame.cut_short) == ("budget", ["seeds"])
    with pytest.raises(KeyboardInterrupt), frame.step("seeds", lambda: False):
        raise KeyboardInterrupt


@settings(deadline=None, max_examples=25)
@given(tasks())
def test_no_plan_is_below_the_least_makespan(task: PlanningTask) -> None:
    for batching, best_s in Enumerated(task).best_by_micro_batching.items():
        assert 0 < least_makespan_s(task, batching) <= best_s * (1 + 1e-9)


@settings(deadline=None, max_examples=10)
@given(tasks())
def test_bounds_that_time_was_too_short_for_are_true_and_can_be_checked(
    task: PlanningTask,
) -> None:
    screen, grid = Screen(task), task_grid(task)
    with time_limit(0.0):
        certificate = first_certificate(screen, grid, silently)
    assert certificate.unproven == len(grid)
    assert list(certificate.entries) == grid
    assert check_certificate(certificate, screen, grid) == certificate.bound_s
    for batching, best_s in Enumerated(task).best_by_micro_batching.items():
        assert certificate.entries[batching].bound_s <= best_s * (1 + 1e-9)


def test_solvers_and_tightening_stop_when_time_is_over() -> None:
    task = tiny_task()
    screen, batching = Screen(task), MicroBatching(1, 2, 2)
    certificate = first_certificate(screen, task_grid(task), silently)
    assert all(entry.multipliers != NO_MULTIPLIERS for entry in certificate.entries.values())
    problem = screen.problem(batching)
    stopped: list[Callable[[], object]] = [
        lambda: relax(problem),
        lambda: solve_integrally(problem, 0.0, 100),
        lambda: tighten(certificate, screen, 1e9, silently),
    ]
    with time_limit(0.0):
        for solve in stopped:
            with pytest.raises(OutOfTime):
                solve()


@pytest.mark.parametrize("instant", range(0, 400, 23))
def test_a_search_ended_at_any_instant_has_a_plan_and_a_true_bound(
    instant: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is looked at some hundred times in this search; it may end at each of them."""
    monkeypatch.setattr(deadline, "time", Clock())
    task = tiny_task(budget=0.06)
    outcome = search(task, SearchSettings(generations=3, budget_s=float(instant)))
    assert outcome.best.is_feasible
    assert outcome.certificate.bound_s <= outcome.best.makespan_s
    requests, devices = task.costs.scenario.workload.requests, task.costs.scenario.cluster.devices
    grid = micro_batching_grid(requests, len(devices))
    proven_s = check_certificate(outcome.certificate, Screen(task), grid)
    assert proven_s == pytest.approx(outcome.certificate.bound_s, rel=1e-9)
    assert (outcome.ended == "budget") == bool(outcome.cut_short)


def test_what_cannot_fit_is_refused_without_time_too() -> None:
    with pytest.raises(InfeasibleError, match=r"does not fit at int3"):
        search(large_task(4, 1000), SearchSettings(budget_s=0.0))


@pytest.mark.slow
def test_a_budget_is_kept_where_one_step_would_take_longer() -> None:
    """64 devices: bounds alone take several seconds."""
    task, budget_s = large_task(64, 48), 3.0
    started_s, used_s = time.monotonic(), time.process_time()
    outcome = search(task, SearchSettings(budget_s=budget_s))
    wall_s, own_s = time.monotonic() - started_s, time.process_time() - used_s
    assert min(wall_s, own_s) < budget_s + 2.0  # a busy machine may stop the process for long
    assert outcome.ended == "budget"
    assert outcome.best.is_feasible
