"""Spread of a service's simulations of several workloads over processes or a cluster."""

from collections.abc import Callable, Sequence
from functools import partial

from llmpq_sim.core.result import SimulationResult
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.search.genetic.executors import REQUESTS_PER_POOL, spread
from llmpq_sim.simulator.continuous.service import Service

Results = Callable[[Sequence[TraceWorkload]], list[SimulationResult]]


def results_of(service: Service, workers: int) -> Results:
    """Return what gives a service's results of workloads, the same with any number of workers."""
    alone = partial(_results, service)

    def results(workloads: Sequence[TraceWorkload]) -> list[SimulationResult]:
        requests = sum(each.requests for each in workloads)
        if min(workers, len(workloads)) < 2 or requests < REQUESTS_PER_POOL:
            return alone(workloads)
        return spread(alone, workloads, min(workers, len(workloads)))

    return results


def _results(service: Service, workloads: Sequence[TraceWorkload]) -> list[SimulationResult]:
    return [service.of(each).result for each in workloads]
