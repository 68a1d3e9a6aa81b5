"""Requests alone on idle devices, one after the other: what no lower rate improves on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.plan import Plan
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.simulator.continuous.checked import first_requests
from llmpq_sim.simulator.continuous.compilation import ServingCosts, compile_pipeline
from llmpq_sim.simulator.continuous.recurrence import compute_service
from llmpq_sim.simulator.continuous.settings import ContinuousSettings, ServiceObjectives
from llmpq_sim.workloads.shaping import closed_loop


@dataclass(frozen=True)
class AloneLimit:
    """A limit of the objectives, and how requests fare against it where nobody else is served.

    Attributes:
        name: ``ttft_s``, ``tpot_s`` or ``latency_s``.
        limit_s: what a good request meets.
        met_share: of the requests that have such a time, how many meet it.
        least_s, median_s: of these requests.
    """

    name: str
    limit_s: float
    met_share: float
    least_s: float
    median_s: float


def alone_limits(
    plan: Plan,
    costs: ServingCosts,
    workload: TraceWorkload,
    settings: ContinuousSettings,
    objectives: ServiceObjectives | None,
) -> tuple[AloneLimit, ...]:
    """Return each limit given, set beside the first requests of a trace in a closed loop of one.

    Nothing where there are no objectives, or none of these requests is served.
    """
    if objectives is None:
        return ()
    requests = closed_loop(first_requests(workload), 1)
    times = compute_service(compile_pipeline(plan, costs, settings), requests, settings)
    served = ~np.isnan(times.first_s)
    first_s, last_s = times.first_s[served], times.last_s[served]
    outputs, arrival_s = requests.output_tokens[served], times.arrival_s[served]
    several = outputs > 1
    limits = (
        ("ttft_s", objectives.ttft_s, first_s - arrival_s),
        ("tpot_s", objectives.tpot_s, (last_s - first_s)[several] / (outputs[several] - 1)),
        ("latency_s", objectives.latency_s, last_s - arrival_s),
    )
    return tuple(
        _compared(name, limit_s, values_s)
        for name, limit_s, values_s in limits
        if limit_s is not None and len(values_s)
    )


def best_alone(found: Sequence[Sequence[AloneLimit]]) -> tuple[AloneLimit, ...]:
    """Return each limit as it is met best by any of some plans, each with all its limits."""
    by_name: dict[str, list[AloneLimit]] = {}
    for limits in found:
        for limit in limits:
            by_name.setdefault(limit.name, []).append(limit)
    return tuple(
        max(limits, key=lambda each: (each.met_share, -each.least_s)) for limits in by_name.values()
    )


def _compared(name: str, limit_s: float, values_s: NDArray[np.float64]) -> AloneLimit:
    met_share = float((values_s <= limit_s).mean())
    return AloneLimit(name, limit_s, met_share, float(values_s.min()), float(np.median(values_s)))
