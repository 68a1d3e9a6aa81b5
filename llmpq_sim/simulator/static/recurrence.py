"""Fast engine of the static pipeline: when each step leaves each stage.

Every stage is fed by one link and every link by one stage, so when a stage lets a visit go it is
known when the next one will have it: departures are the only events. A stage has at most one
departure ahead and reuses one SimPy event for all of them. Which of two departures at one instant
happens first makes no difference: a stage and the link behind it depend on their own past and on
what arrives, and each has only one source of arrivals.
"""

from collections import deque
from collections.abc import Sequence
from heapq import heappush
from itertools import pairwise

from simpy.core import Environment
from simpy.events import NORMAL, Event, EventCallbacks

from llmpq_sim.simulator.static.step_graph import OnVisit, Wave, WaveTimes


def run_wave(wave: Wave, start_s: float = 0.0, on_visit: OnVisit | None = None) -> WaveTimes:
    """Return when each visit of a wave that begins at ``start_s`` is sampled.

    Args:
        wave: what is asked of the pipeline.
        start_s: instant at which the wave begins.
        on_visit: told of every stage visit when it ends, so in order of those instants.
    """
    clock = Clock(start_s)
    stages = [_Stage(clock, wave, number, on_visit) for number in range(len(wave.service_s))]
    itself = [(visit,) for visit in range(wave.visits)]
    for stage, following in pairwise(stages):
        stage.feed(following, itself)
    stages[-1].feed(stages[0], wave.successors)
    for visit in range(wave.starts):
        stages[0].enter(visit, start_s)
    clock.run()
    sampled_s = stages[-1].ended_s
    return WaveTimes(sampled_s, max(sampled_s))


class Clock(Environment):
    """A SimPy environment that takes absolute instants; a delay added to now would round them."""

    def schedule_at(self, event: Event, at_s: float) -> None:
        """Let an event happen at an instant, after those already due then."""
        heappush(self._queue, (at_s, NORMAL, next(self._eid), event))


class _Departure(Event):
    """An event that succeeds as often as it is scheduled, without being triggered."""

    _ok = True
    _value = None


class _Stage:
    """A stage with the line before it, whose head it serves, and the link behind it."""

    __slots__ = (
        "began_s",
        "callbacks",
        "departure",
        "ended_s",
        "followers",
        "free_s",
        "line",
        "link_free_s",
        "next_stage",
        "number",
        "on_visit",
        "schedule_at",
        "service_s",
        "transfer_s",
    )

    def __init__(self, clock: Clock, wave: Wave, number: int, on_visit: OnVisit | None) -> None:
        self.number = number
        self.service_s = wave.service_s[number]
        self.transfer_s = wave.transfer_s[number]
        self.on_visit = on_visit
        self.line: deque[tuple[int, float]] = deque()  # (visit, instant of arrival)
        self.began_s = self.free_s = self.link_free_s = clock.now
        self.ended_s = [clock.now] * wave.visits
        self.schedule_at = clock.schedule_at
        self.departure = _Departure(clock)
        self.callbacks: EventCallbacks = [self._leave]

    def feed(self, next_stage: "_Stage", followers: Sequence[tuple[int, ...]]) -> None:
        """Say where the link leads, and which visits enter there when one has passed it."""
        self.next_stage = next_stage
        self.followers = followers

    def enter(self, visit: int, arrival_s: float) -> None:
        """Join the line; the arrival may lie ahead, but never before that of another in line."""
        self.line.append((visit, arrival_s))
        if len(self.line) == 1:
            self._serve()

    def _serve(self) -> None:
        visit, arrival_s = self.line[0]
        self.began_s = began_s = arrival_s if arrival_s > self.free_s else self.free_s
        self.free_s = ended_s = began_s + self.service_s[visit]
        self.departure.callbacks = self.callbacks  # SimPy takes them away when the event happens
        self.schedule_at(self.departure, ended_s)

    def _leave(self, _: Event) -> None:
        visit = self.line.popleft()[0]
        self.ended_s[visit] = ended_s = self.free_s
        if self.on_visit is not None:
            self.on_visit(self.number, visit, self.began_s, ended_s)
        if self.line:
            self._serve()
        sent_s = ended_s if ended_s > self.link_free_s else self.link_free_s
        self.link_free_s = arrival_s = sent_s + self.transfer_s[visit]
        for follower in self.followers[visit]:
            self.next_stage.enter(follower, arrival_s)
