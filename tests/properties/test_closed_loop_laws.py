"""Laws of closed loops: who is in flight, who enters when, and what they share with a queue."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from llmpq_sim.simulator.continuous.mixed_costs import Pipeline
from llmpq_sim.simulator.continuous.recurrence import compute_service
from llmpq_sim.simulator.continuous.saturation import queue_of
from llmpq_sim.simulator.continuous.service_times import ServiceTimes, can_be_served
from llmpq_sim.workloads.shaping import closed_loop, compress, head, window
from tests.services import made_service
from tests.serving import ENGINES, Case, Run, cases, even_pipeline, limits, trace

either_engine = pytest.mark.parametrize("run", ENGINES)
users_of = st.integers(1, 12)


def looped(case: Case, users: int) -> tuple[Pipeline, ServiceTimes, list[int]]:
    """Return a case's pipeline, its times in a closed loop, and those that can be served."""
    pipeline, workload, limit = case
    times = compute_service(pipeline, replace(workload, concurrency=users), limit)
    fits = can_be_served(workload, limit, pipeline.block_capacity, pipeline.bounded_blocks)
    return pipeline, times, np.flatnonzero(fits).tolist()


@either_engine
def test_one_user_waits_for_nobody(run: Run) -> None:
    limit = limits()
    workload = replace(trace([0.0, 5.0, 9.0], [8, 4, 8], [3, 1, 2]), concurrency=1)
    times = run(even_pipeline(limit, stages=2, transfer_s=0.5), workload, limit)
    # A round is 2 stages of 1 s and 2 links of 0.5 s; a token is sampled 0.5 s before its end.
    assert times.arrival_s.tolist() == [0.0, 9.0, 12.0]
    assert (times.first_s - times.arrival_s).tolist() == [2.5] * 3
    assert (times.last_s - times.arrival_s).tolist() == [8.5, 2.5, 5.5]


@either_engine
def test_refused_requests_let_the_next_in_at_once(run: Run) -> None:
    limit = limits(longest_context_tokens=12)
    workload = replace(trace([0.0] * 4, [4, 40, 40, 4], [2, 2, 2, 2]), concurrency=1)
    times = run(even_pipeline(limit), workload, limit)
    assert np.isnan(times.arrival_s).tolist() == [False, True, True, False]
    assert times.arrival_s[[0, 3]].tolist() == [0.0, 2.0]


@given(cases(), users_of)
def test_so_many_enter_at_the_start_and_each_that_ends_lets_the_next_in(
    case: Case, users: int
) -> None:
    pipeline, times, fit = looped(case, users)
    arrival_s, last_s = times.arrival_s[fit], times.last_s[fit]
    assert not np.isnan(last_s).any()
    assert np.isnan(np.delete(times.arrival_s, fit)).all()
    assert (arrival_s[:users] == 0).all()
    assert (np.diff(arrival_s) >= 0).all()
    ended_s, later_s = np.sort(last_s), arrival_s[users:]
    assert (later_s >= ended_s[: len(later_s)]).all()
    if len(pipeline.stages) == 1 and not max(pipeline.stages[0].transfer_s):
        assert later_s.tolist() == ended_s[: len(later_s)].tolist()
    for at_s in arrival_s:
        assert ((arrival_s <= at_s) & (last_s > at_s)).sum() <= users


@given(cases(), users_of)
def test_a_closed_loop_serves_as_a_full_line_of_which_so_many_are_admitted(
    case: Case, users: int
) -> None:
    pipeline, workload, limit = case
    users = min(users, limit.sequence_limit)
    closed, line = (
        compute_service(pipeline, each, replace(limit, sequence_limit=most))
        for each, most in (
            (replace(workload, concurrency=users), limit.sequence_limit),
            (replace(workload, arrival_s=0 * workload.arrival_s, concurrency=None), users),
        )
    )
    if not (closed.preemptions or line.preemptions):
        assert np.array_equal(closed.first_s, line.first_s, equal_nan=True)
        assert np.array_equal(closed.last_s, line.last_s, equal_nan=True)
        assert closed.busy_s == line.busy_s


@given(cases(), st.integers(0, 3))
def test_more_users_than_requests_are_all_requests_at_once(case: Case, more: int) -> None:
    pipeline, workload, limit = case
    _, closed, fit = looped(case, workload.requests + more)
    once = replace(workload, arrival_s=0 * workload.arrival_s, concurrency=None)
    times = compute_service(pipeline, once, limit)
    assert closed.first_s.tobytes() == times.first_s.tobytes()
    assert closed.last_s.tobytes() == times.last_s.tobytes()
    assert (closed.arrival_s[fit] == 0).all()


def test_a_closed_loop_has_no_rate_and_keeps_its_users_in_every_part() -> None:
    workload = closed_loop(trace([0.0, 1.0, 2.0], [4, 4, 4], [1, 2, 3]), 2)
    assert (workload.rate_per_s, workload.span_s, workload.concurrency) == (None, 0.0, 2)
    for part in (head(workload, 2), window(workload, 0.0, 1.0)):
        assert part.concurrency == 2
    with pytest.raises(InputError, match="got a closed loop of 2 in flight"):
        compress(workload, 1.0)


@pytest.mark.parametrize(
    ("users", "message"),
    [
        (0, r"made up\.concurrency: expected at least 1 request in flight, got 0"),
        (4, "expected at most as many in flight as there are requests, 3, got 4"),
    ],
)
def test_a_loop_of_nobody_or_of_more_than_there_are_requests_is_refused(
    users: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        closed_loop(trace([0.0] * 3, [4] * 3, [1] * 3), users)


def test_the_line_of_a_closed_loop_never_grows_without_bound() -> None:
    service = made_service(requests=300, rate_per_s=4000.0)
    closed = service.of(closed_loop(service.workload, 100))
    assert queue_of(service).sustained_rate_per_s is not None
    queue = queue_of(closed)
    assert queue.sustained_rate_per_s is None
    assert queue.most <= 100
