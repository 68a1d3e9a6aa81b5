"""Saturation: a queue that grows without bound, and the rate that a plan can hold.

A queue that grows as long as requests arrive is told from one that comes and goes with bursts by
two signs: from the middle of the arrivals on someone is always waiting, and when the last request
arrives more than BACKLOG of all wait. The plan then works at its limit, and what it finishes a
second is the rate it could hold; that must be less than what arrives.
"""

from dataclasses import dataclass

import numpy as np

from llmpq_sim.simulator.continuous.service import FloatArray, Service

BACKLOG = 0.05
"""Share of all requests that must wait when the last one arrives."""

LEAST_WAITING = 20
"""Fewer may be on their way through the stages."""


@dataclass(frozen=True)
class Queue:
    """Requests that wait for their first token.

    Attributes:
        most: at once.
        mean: over the time in which requests arrive.
        at_end: when the last one has arrived.
        sustained_rate_per_s: requests per second that the plan could hold, where the queue grows
            without bound; None where it does not.
    """

    most: int
    mean: float
    at_end: int
    sustained_rate_per_s: float | None


def queue_of(service: Service) -> Queue:
    """Return how the queue of a service develops; that of a closed loop never grows."""
    served = service.served
    arrival_s, first_s = service.times.arrival_s[served], service.times.first_s[served]
    if not len(arrival_s):
        return Queue(0, 0.0, 0, None)
    span_s = float(arrival_s[-1])
    waited_s = np.minimum(first_s, span_s) - arrival_s
    return Queue(
        most=_most(arrival_s, first_s),
        mean=float(waited_s.sum()) / span_s if span_s else float(len(arrival_s)),
        at_end=_waiting(arrival_s, first_s, span_s),
        sustained_rate_per_s=_sustained_rate_per_s(arrival_s, first_s, service.times.last_s)
        if service.workload.concurrency is None
        else None,
    )


def _most(arrival_s: FloatArray, first_s: FloatArray) -> int:
    """Return the most that wait at once; at one instant, those who are served leave first."""
    begun = np.searchsorted(np.sort(first_s), arrival_s, side="right")
    return int((np.arange(1, len(arrival_s) + 1) - begun).max())


def _waiting(arrival_s: FloatArray, first_s: FloatArray, at_s: float) -> int:
    return int(((arrival_s <= at_s) & (first_s > at_s)).sum())


def _sustained_rate_per_s(
    arrival_s: FloatArray, first_s: FloatArray, last_s: FloatArray
) -> float | None:
    """Return the rate of last tokens while all stages have work, or None where they keep up.

    That is from the middle of the arrivals, and from a third of the last tokens on, until every
    request has begun.
    """
    span_s, end_s = float(arrival_s[-1]), float(first_s.max())
    at_end = _waiting(arrival_s, first_s, span_s)
    if at_end < max(BACKLOG * len(arrival_s), LEAST_WAITING) or span_s == 0:
        return None
    done_s = np.sort(last_s[last_s <= end_s])
    if len(done_s) < 2 or not _always_waiting(arrival_s, first_s, span_s / 2):
        return None
    begin_s = max(span_s / 2, float(done_s[len(done_s) // 3]))
    rate_per_s = float((done_s > begin_s).sum()) / (end_s - begin_s)
    return rate_per_s if rate_per_s < len(arrival_s) / span_s else None


def _always_waiting(arrival_s: FloatArray, first_s: FloatArray, begin_s: float) -> bool:
    """Return whether someone waits at every instant from one to the last arrival."""
    begun_s = np.sort(first_s)
    looked_s = begun_s[(begun_s >= begin_s) & (begun_s < arrival_s[-1])]
    arrived = np.searchsorted(arrival_s, looked_s, side="right")
    begun = np.searchsorted(begun_s, looked_s, side="right")
    return bool((arrived > begun).all()) and _waiting(arrival_s, first_s, begin_s) > 0
