"""Advice against requests that evict each other.

Where more are admitted than the KV cache holds to their last tokens, each evicted one is computed
anew, which may evict the next: most of the work is then done twice. What would be served without
is simulated: with `no-evict` admission, and with a few lower limits on the sequences, about as many
as fit. On long traces the limits are compared on the first requests, and the best is then simulated
on all.
"""

from dataclasses import dataclass, replace
from functools import partial
from math import ceil

from llmpq_sim.core.caches import bounded_blocks_of
from llmpq_sim.core.result import SimulationResult
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.simulator.continuous.checked import first_requests
from llmpq_sim.simulator.continuous.recurrence import simulate_continuous
from llmpq_sim.simulator.continuous.service import Service
from llmpq_sim.simulator.continuous.settings import ContinuousSettings

EVICTIONS_PER_REQUEST = 0.5
"""From how many on, on average, requests are said to evict each other."""

LIMITS_OF_FITTING = (0.5, 0.7, 0.85, 0.95, 1.0, 1.2, 1.5)
"""Sequence limits tried, as parts of how many requests of mean length the KV cache holds."""

LEAST_GAIN = 1.01
"""What is advised must serve so many times as much."""


@dataclass(frozen=True)
class Remedy:
    """Settings under which requests evict each other less, and what is served with them."""

    settings: ContinuousSettings
    result: SimulationResult


def eviction_advice(service: Service) -> tuple[Remedy, ...]:
    """Return what serves more than a service whose requests evict each other, the best first.

    That is at most two: `no-evict` admission, and the best of a few sequence limits. Nothing where
    requests seldom evict each other or neither serves more: good requests a second where there are
    objectives, else output tokens a second.
    """
    if service.result.preemptions <= EVICTIONS_PER_REQUEST * service.result.finished:
        return ()
    served = partial(_served, service)
    found = [served(service.workload, replace(service.settings, admission="no-evict"))]
    limits = _limits(service)
    first = first_requests(service.workload)
    tried = [served(first, replace(service.settings, sequence_limit=limit)) for limit in limits]
    if tried:
        best = max(tried, key=_rank)
        is_whole = first is service.workload
        found.append(best if is_whole else served(service.workload, best.settings))
    least = [LEAST_GAIN * figure for figure in _rank(service)]
    return tuple(
        sorted((each for each in found if list(_rank(each)) > least), key=_rank, reverse=True)
    )


def _served(service: Service, workload: TraceWorkload, settings: ContinuousSettings) -> Remedy:
    result = simulate_continuous(
        service.plan, service.costs, workload, settings, service.objectives
    )
    return Remedy(settings, result)


def _limits(service: Service) -> list[int]:
    """Return sequence limits below the service's own, about as many as fit."""
    held_tokens = service.pipeline.block_capacity * service.settings.block_tokens
    mean_tokens = float(service.workload.context_tokens[service.served].mean())
    block_tokens = service.settings.block_tokens
    bounded = service.pipeline.bounded_blocks
    mean_tokens += block_tokens * bounded_blocks_of(bounded, ceil(mean_tokens / block_tokens))
    limits = {max(round(part * held_tokens / mean_tokens), 1) for part in LIMITS_OF_FITTING}
    return sorted(limit for limit in limits if limit < service.settings.sequence_limit)


def _rank(served: Service | Remedy) -> tuple[float, float]:
    return served.result.goodput_per_s or 0.0, served.result.tokens_per_s
