"""Timing of calls: median, spread and repetitions."""

import statistics
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.profiling.timing import (
    FEWEST_LONG_REPEATS,
    Call,
    ClockStopwatch,
    Effort,
    Warm,
    measure,
    measure_together,
    timing_of,
)

EFFORT = Effort(fewest_repeats=5, least_s=0.02, most_s=0.5, longest_call_s=1.0)
times = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=50)


class Script:
    """A stopwatch by which the n-th call takes the n-th of some times, the last ones for ever."""

    def __init__(self, *durations_s: float) -> None:
        self.durations_s = list(durations_s)
        self.calls = 0

    def times_s(self, call: Call, repeats: int) -> list[float]:
        taken = []
        for _ in range(repeats):
            call()
            taken.append(self.durations_s[min(self.calls, len(self.durations_s) - 1)])
            self.calls += 1
        return taken


class Cycle(Script):
    """A stopwatch by which calls take some times in turn."""

    def times_s(self, call: Call, repeats: int) -> list[float]:
        taken = [self.durations_s[(self.calls + i) % len(self.durations_s)] for i in range(repeats)]
        self.calls += repeats
        return taken


def nothing() -> None:
    pass


@given(times)
def test_the_median_is_the_median(measured: list[float]) -> None:
    assert timing_of(measured).median_s == pytest.approx(statistics.median(measured))


@given(times)
def test_the_spread_is_half_the_quartiles_distance_over_the_median(measured: list[float]) -> None:
    lower, upper = np.quantile(measured, (0.25, 0.75))
    timing = timing_of(measured)
    assert timing.spread * timing.median_s == pytest.approx((upper - lower) / 2, abs=1e-9)


@given(times, st.floats(0.01, 100))
def test_a_slower_clock_changes_the_median_and_not_the_spread(
    measured: list[float], factor: float
) -> None:
    scaled = timing_of([factor * each for each in measured])
    assert scaled.median_s == pytest.approx(factor * timing_of(measured).median_s)
    assert scaled.spread == pytest.approx(timing_of(measured).spread, abs=1e-6)


def test_a_clock_is_read_around_each_call() -> None:
    now = [0.0]

    def call() -> None:
        now[0] += 0.5

    assert ClockStopwatch(lambda: now[0]).times_s(call, 3) == [0.5, 0.5, 0.5]


@given(st.floats(1e-5, 2.0))
def test_calls_are_repeated_until_both_their_number_and_their_time_suffice(call_s: float) -> None:
    timing = measure(nothing, Script(call_s), EFFORT)
    total_s = timing.repeats * call_s
    if timing.repeats < EFFORT.fewest_repeats:
        assert timing.repeats >= FEWEST_LONG_REPEATS
        assert (timing.repeats + 1) * call_s > EFFORT.most_s
    else:
        assert total_s >= EFFORT.least_s * 0.999


@given(st.floats(1e-4, 2.0))
def test_the_forecast_of_an_undisturbed_measurement_comes_true(call_s: float) -> None:
    script = Script(call_s)
    measure(nothing, script, EFFORT)
    assert EFFORT.expected_s(call_s) == pytest.approx(script.calls * call_s)


@pytest.mark.parametrize("first_touches", [(9.0,), (0.01, 9.0, 0.1)], ids=("long", "short"))
def test_the_first_calls_do_not_count(first_touches: Sequence[float]) -> None:
    assert measure(nothing, Script(*first_touches, 0.1), EFFORT).median_s == 0.1


def test_a_quiet_measurement_is_made_once() -> None:
    script = Script(0.1)
    measure(nothing, script, EFFORT)
    assert script.calls == 1 + EFFORT.fewest_repeats


def test_a_disturbed_measurement_is_repeated_and_the_quiet_one_kept() -> None:
    disturbed = (0.1, 0.1, 0.2, 0.2, 0.3)
    timing = measure(nothing, Script(0.1, *disturbed, 0.1), EFFORT)
    assert (timing.median_s, timing.spread) == (0.1, 0.0)


def test_attempts_end_when_nothing_gets_quiet() -> None:
    restless = Cycle(0.1, 0.4)
    timing = measure(nothing, restless, EFFORT)
    assert timing.is_disturbed
    assert restless.calls == 1 + EFFORT.attempts * EFFORT.fewest_repeats


def test_calls_take_turns_so_that_a_slow_moment_hits_all_of_them_alike() -> None:
    order: list[str] = []
    calls = [Warm(partial(order.append, name), 0.1) for name in "ab"]
    measure_together(calls, Script(0.1), EFFORT)
    assert "".join(order) == "ab" * EFFORT.fewest_repeats


def test_only_what_was_disturbed_is_attempted_again() -> None:
    order: list[str] = []

    class Restless(Script):
        """The second call is restless in the first attempt."""

        def times_s(self, call: Call, repeats: int) -> list[float]:
            call()
            self.calls += 1
            is_restless = order[-1] == "b" and self.calls <= 2 * EFFORT.fewest_repeats
            return [0.1 * self.calls if is_restless else 0.1] * repeats

    calls = [Warm(partial(order.append, name), 0.1) for name in "ab"]
    first, second = measure_together(calls, Restless(), EFFORT)
    assert "".join(order) == "ab" * EFFORT.fewest_repeats + "b" * EFFORT.fewest_repeats
    assert (first.median_s, second.median_s) == (0.1, 0.1)


@given(st.lists(st.floats(1e-5, 2.0), min_size=1, max_size=6))
def test_each_call_is_repeated_as_if_it_were_alone(durations_s: list[float]) -> None:
    counts = [0] * len(durations_s)

    def counted(number: int) -> None:
        counts[number] += 1

    calls = [Warm(partial(counted, i), call_s) for i, call_s in enumerate(durations_s)]
    timings = measure_together(calls, Script(0.1), EFFORT)
    assert counts == [EFFORT.repeats(call_s) for call_s in durations_s]
    assert [timing.repeats for timing in timings] == counts
