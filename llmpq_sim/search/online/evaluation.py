"""Evaluation of a service on the first part of a trace, or on all of it."""

from collections.abc import Sequence
from functools import partial

from llmpq_sim.core.result import SimulationResult
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.search.deadline import OutOfTime, time_left_s, time_limit
from llmpq_sim.search.genetic.executors import REQUESTS_PER_POOL, spread
from llmpq_sim.search.online.operators import ServingPlan
from llmpq_sim.search.online.task import OnlineTask
from llmpq_sim.simulator.continuous.compilation import service_room
from llmpq_sim.simulator.continuous.recurrence import simulate_continuous
from llmpq_sim.simulator.continuous.service_times import can_be_served
from llmpq_sim.workloads.shaping import head

WINDOWS = (0.05, 0.2, 1.0)
"""Shares of the requests that candidates are judged by, one after another."""

LEAST_REQUESTS = 50
"""A window has at least so many requests, where the trace does."""

GROWTH = 2
"""A window has at least so many times the requests of the one before it."""


class ServiceEvaluator:
    """Simulates services of one task on windows that all start with the first request.

    Results do not depend on the number of workers.

    Attributes:
        task: what is asked.
        windows: the first requests of the trace, ever more of them; the last is the whole trace.
    """

    def __init__(self, task: OnlineTask, workers: int) -> None:
        self.task = task
        self.workers = workers
        sizes = window_sizes(task.workload.requests)
        parts = [head(task.workload, size) for size in sizes[:-1]]
        self.windows: list[TraceWorkload] = [*parts, task.workload]
        self._results: dict[tuple[ServingPlan, int], SimulationResult] = {}

    def refused(self, serving: ServingPlan) -> int:
        """Return how many requests of the whole trace could never be served."""
        costs, settings = self.task.costs, serving.settings
        room = service_room(serving.plan, costs.model, costs.cluster, settings)
        served = can_be_served(self.task.workload, settings, room.capacity, room.bounded_blocks)
        return self.task.workload.requests - int(served.sum())

    def results(self, services: Sequence[ServingPlan], window: int) -> list[SimulationResult]:
        """Return the simulation of each service on a window; none is simulated twice.

        Raises:
            OutOfTime: the time limit passed before all were simulated; the others are known.
        """
        wanted = dict.fromkeys(each for each in services if (each, window) not in self._results)
        self._simulate(list(wanted), window)
        return [self._results[each, window] for each in services]

    @property
    def tried(self) -> int:
        """How many services were simulated, on any window."""
        return len({serving for serving, _ in self._results})

    def _simulate(self, services: Sequence[ServingPlan], window: int) -> None:
        workload = self.windows[window]
        limit_s = time_left_s()
        simulate = partial(_results, task=self.task, workload=workload, limit_s=limit_s)
        if self.workers < 2 or len(services) * workload.requests < REQUESTS_PER_POOL:
            results = simulate(services)
        else:
            results = spread(simulate, services, self.workers)
        found = zip(services, results, strict=True)
        self._results |= {(each, window): result for each, result in found if result is not None}
        if None in results:
            raise OutOfTime


def window_sizes(requests: int) -> list[int]:
    """Return how many requests the windows of a trace have, the whole trace last."""
    sizes = [requests]
    for share in WINDOWS[-2::-1]:
        size = max(round(share * requests), LEAST_REQUESTS)
        if size * GROWTH <= sizes[0]:
            sizes.insert(0, size)
    return sizes


def _results(
    services: Sequence[ServingPlan], task: OnlineTask, workload: TraceWorkload, limit_s: float
) -> list[SimulationResult | None]:
    """Return the result of each service; None for those that the time limit leaves no time for."""
    with time_limit(limit_s):
        return [
            simulate_continuous(each.plan, task.costs, workload, each.settings, task.objectives)
            if time_left_s()
            else None
            for each in services
        ]
