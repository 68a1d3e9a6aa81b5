"""Timing of a call: median and spread.

A call is warmed up, then repeated until it ran often enough and long enough; the median counts, and
half the distance between the quartiles tells how much to trust it. What was disturbed is repeated.
"""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

Call = Callable[[], object]

DISTURBED_SPREAD = 0.1
"""Relative spread above which something else must have used the device."""

FEWEST_LONG_REPEATS = 3
"""Repeats of a call so long that the time for one measurement is used up before there are more."""

TURNS = 5
"""Parts in which the repeats of a call are made, with other calls in between."""

WARM_UP_CALLS = 2


class Stopwatch(Protocol):
    """Measures calls on one device."""

    def times_s(self, call: Call, repeats: int) -> list[float]:
        """Return how long each of so many calls took, one after another."""


class ClockStopwatch:
    """Reads a clock before and after each call: right where a call returns when it is done."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock

    def times_s(self, call: Call, repeats: int) -> list[float]:
        """Return how long each call took."""
        times = []
        for _ in range(repeats):
            began_s = self._clock()
            call()
            times.append(self._clock() - began_s)
        return times


class CudaStopwatch:
    """Lets the device note when it reaches the gaps between calls.

    Calls are queued without waiting, as in serving: where the device is slower than the host that
    queues, kernels run back to back, and where it is faster, the host's pace is what is measured.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def times_s(self, call: Call, repeats: int) -> list[float]:
        """Return how long each call took between two events of its stream."""
        events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        torch.cuda.synchronize(self._device)
        stream = torch.cuda.current_stream(self._device)
        events[0].record(stream)
        for event in events[1:]:
            call()
            event.record(stream)
        torch.cuda.synchronize(self._device)
        pairs = itertools.pairwise(events)
        return [before.elapsed_time(after) / 1e3 for before, after in pairs]


def stopwatch_of(device: torch.device, threads: int) -> Stopwatch:
    """Return what measures calls on a device.

    One CPU thread never waits within a call, so the time that its core gave it is what the call
    takes when nobody else wants the core. With more threads only the wall clock tells.
    """
    if device.type == "cuda":
        return CudaStopwatch(device)
    return ClockStopwatch(time.thread_time if threads == 1 else time.perf_counter)


@dataclass(frozen=True)
class Effort:
    """How much time measurements may take.

    Attributes:
        fewest_repeats: calls of each measurement, unless they take longer than ``most_s``.
        least_s: time that the calls of each measurement take at least.
        most_s: time that they take at most, unless three take longer.
        longest_call_s: a row of growing sizes ends with the first call that takes longer.
        attempts: how often a measurement is made at most when it is disturbed.
    """

    fewest_repeats: int
    least_s: float
    most_s: float
    longest_call_s: float
    attempts: int = 3

    def longer(self, factor: int) -> "Effort":
        """Return an effort that spends so many times the least time on each measurement."""
        least_s = factor * self.least_s
        return replace(self, least_s=least_s, most_s=max(self.most_s, least_s))

    def repeats(self, call_s: float) -> int:
        """Return how often a call that takes about so long is repeated."""
        if call_s <= 0:
            return self.fewest_repeats
        wanted = max(self.fewest_repeats, math.ceil(self.least_s / call_s))
        return min(wanted, max(FEWEST_LONG_REPEATS, math.floor(self.most_s / call_s)))

    def expected_s(self, call_s: float) -> float:
        """Return about how long the measurement of such a call takes, undisturbed."""
        warm_up = 1 if call_s >= self.least_s else 1 + WARM_UP_CALLS
        return (self.repeats(call_s) + warm_up) * call_s


FULL_EFFORT = Effort(fewest_repeats=10, least_s=0.1, most_s=4.0, longest_call_s=1.5)
QUICK_EFFORT = Effort(fewest_repeats=5, least_s=0.02, most_s=0.15, longest_call_s=0.12, attempts=2)


@dataclass(frozen=True)
class Timing:
    """What repeated calls took.

    Attributes:
        median_s: of all repeats.
        spread: half the distance between the quartiles, over the median.
        repeats: calls that were measured.
    """

    median_s: float
    spread: float
    repeats: int

    def of_one(self, among: int) -> "Timing":
        """Return what one took where so many were timed at once."""
        return replace(self, median_s=self.median_s / among)

    @property
    def is_disturbed(self) -> bool:
        """Whether the calls differ more than the same work should."""
        return self.spread > DISTURBED_SPREAD

    @property
    def upper_quartile_s(self) -> float:
        """About the time that three of four calls stayed below."""
        return self.median_s * (1 + self.spread)


def timing_of(times_s: list[float]) -> Timing:
    """Return median and spread of measured times, at least one."""
    lower, median, upper = np.percentile(times_s, (25, 50, 75)).tolist()
    spread = (upper - lower) / 2 / median if median > 0 else 0.0
    return Timing(median, spread, len(times_s))


def measure(call: Call, stopwatch: Stopwatch, effort: Effort) -> Timing:
    """Return how long a call takes, see ``measure_together``."""
    (timing,) = measure_together(
        [Warm(call, warmed_up_s(call, stopwatch, effort))], stopwatch, effort
    )
    return timing


@dataclass(frozen=True)
class Warm:
    """A call whose first touches are over, and about how long it takes.

    Attributes:
        call: the work.
        call_s: about how long it takes.
        repeats: how often it does what is to be timed.
    """

    call: Call
    call_s: float
    repeats: int = 1

    @property
    def one_s(self) -> float:
        """About how long what is to be timed takes once."""
        return self.call_s / self.repeats


def warmed_up_s(call: Call, stopwatch: Stopwatch, effort: Effort) -> float:
    """Call until first touches are over; return about how long a call takes."""
    (first_s,) = stopwatch.times_s(call, 1)
    if first_s >= effort.least_s:  # first touches are over within a call of that length
        return first_s
    return min(stopwatch.times_s(call, WARM_UP_CALLS))


def measure_together(calls: Sequence[Warm], stopwatch: Stopwatch, effort: Effort) -> list[Timing]:
    """Return how long each of several calls takes, from the least disturbed of some attempts.

    Calls take turns, a few repeats at a time: a machine that is slow for a moment slows a little of
    each down instead of one of them. Others can only slow a call down, so of several attempts the
    one with the least upper quartile is kept.

    Args:
        calls: the work; each call should find caches as serving would leave them.
        stopwatch: measures on the device where it runs.
        effort: how often and how long.
    """
    best: dict[int, Timing] = {}
    waiting = list(range(len(calls)))
    for _ in range(effort.attempts):
        times = _in_turns([calls[number] for number in waiting], stopwatch, effort)
        attempt = dict(zip(waiting, map(timing_of, times), strict=True))
        for number, timing in attempt.items():
            known = best.get(number, timing)
            best[number] = min(known, timing, key=lambda each: each.upper_quartile_s)
        waiting = [number for number in waiting if best[number].is_disturbed]
    return [best[number].of_one(warm.repeats) for number, warm in enumerate(calls)]


def _in_turns(calls: Sequence[Warm], stopwatch: Stopwatch, effort: Effort) -> list[list[float]]:
    """Return all times of each call; the number of turns does not depend on how long they are."""
    times: list[list[float]] = [[] for _ in calls]
    repeats = [effort.repeats(warm.call_s) for warm in calls]
    for turn in range(TURNS):
        for own, warm, wanted in zip(times, calls, repeats, strict=True):
            now = wanted * (turn + 1) // TURNS - wanted * turn // TURNS
            own.extend(stopwatch.times_s(warm.call, now) if now else [])
    return times
