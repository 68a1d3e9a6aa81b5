"""Limit on the requests per second of any service: found by linear programs, proven by arithmetic.

`rate_certificate` says what is proven. The sizes that a plan's KV cache may have are cut where the
limit is highest, until cutting no longer helps.
"""

from functools import partial
from math import isfinite

from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.rate_certificate import (
    RateCertificate,
    RateInterval,
    least_makespan_s,
    proven_per_s,
)
from llmpq_sim.search.bound.rate_problem import RateProblem, rate_problem, workload_of
from llmpq_sim.search.bound.rate_program import RateSolver

MOST_INTERVALS = 24
NARROWEST = 1.03
"""Ratio of the ends of an interval that is not cut further."""

PROGRESS = 1e-3
"""Gain of two cuts, one after the other, below which there are no more."""


def rate_certificate(
    task: PlanningTask, workload: TraceWorkload, *, is_cached: bool = False
) -> RateCertificate | None:
    """Return the proven limit on the rate at which any plan serves a trace's requests.

    None where no plan holds any of them, or none fits at all. Requests longer than the model's
    context, or than any plan's KV cache, do not count: every service refuses them.

    Args:
        task: model, cluster, profiles, formats and quality budget; its batch plays no part.
        workload: the requests.
        is_cached: whether prefixes are cached though the workload names none.

    Raises:
        OutOfTime: the search's time limit passed.
    """
    asked = workload_of(task, workload, is_cached=is_cached)
    if asked is None:
        return None
    problem = rate_problem(task, asked)
    return _certificate(problem, _intervals(problem))


def known_certificate(
    task: PlanningTask,
    workload: TraceWorkload,
    known: RateCertificate | None,
    *,
    is_cached: bool = False,
) -> RateCertificate | None:
    """Return the proven limit as `rate_certificate`, by the multipliers of a certificate if it can.

    That is where it is about a workload of the same sums; its own figure is not relied on.
    """
    if known is None or known.workload != workload_of(task, workload, is_cached=is_cached):
        return rate_certificate(task, workload, is_cached=is_cached)
    return _certificate(rate_problem(task, known.workload), known.intervals)


def _certificate(
    problem: RateProblem, intervals: tuple[RateInterval, ...]
) -> RateCertificate | None:
    limit_per_s = proven_per_s(problem, intervals)
    if not isfinite(limit_per_s):
        return None
    return RateCertificate(limit_per_s, problem.workload, intervals)


def _intervals(problem: RateProblem) -> tuple[RateInterval, ...]:
    """Return intervals that are short where the makespan is least."""
    solver, takes_s = RateSolver(problem), partial(least_makespan_s, problem)
    found = [solver.multipliers(problem.least_tokens, problem.most_tokens)]
    reached_s = [0.0, takes_s(found[0])]
    while len(found) < MOST_INTERVALS:
        least = min(found, key=takes_s)
        low, high = least.from_tokens, least.to_tokens
        middle = round((low * high) ** 0.5)
        if high <= low * NARROWEST or not low < middle < high:
            break
        found.remove(least)
        found += [solver.multipliers(*ends) for ends in ((low, middle), (middle, high))]
        reached_s.append(min(map(takes_s, found)))
        if reached_s[-1] < reached_s[-3] * (1 + PROGRESS):
            break
    return tuple(sorted(found, key=lambda each: each.from_tokens))
