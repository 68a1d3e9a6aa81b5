"""Evaluation of a service on the first part of a trace, or on all of it."""

from collections.abc import Sequence

from deap import base

from llmpq_sim.core.result import SimulationResult
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.search.online.operators import ServingPlan
from llmpq_sim.search.online.task import OnlineTask
from llmpq_sim.simulator.continuous.compilation import stage_blocks
from llmpq_sim.simulator.continuous.recurrence import simulate_continuous
from llmpq_sim.simulator.continuous.service_times import can_be_served
from llmpq_sim.workloads.shaping import head

WINDOWS = (0.05, 0.2, 1.0)
"""Shares of the requests that candidates are judged by, one after another."""

LEAST_REQUESTS = 50
"""A window has at least so many requests, where the trace does."""

REQUESTS_PER_POOL = 40_000
"""Simulated requests from which other processes pay."""


class ServiceFitness(base.Fitness):  # type: ignore[misc]
    """Window reached, refused requests, the objective, mean latency and loss, in this order.

    A window is only reached by what was best on the ones before it.
    """

    weights = (1.0, -1.0, -1.0, -1.0, -1.0)


class Candidate:
    """A service with its fitness, as DEAP expects it.

    Attributes:
        serving: the genome.
        window: number of the window it was judged by last.
        result: its simulation on this window.
        fitness: how good that is.
    """

    def __init__(
        self,
        serving: ServingPlan,
        window: int,
        refused: int,
        result: SimulationResult,
        task: OnlineTask,
    ) -> None:
        self.serving = serving
        self.window = window
        self.result = result
        value, loss = task.value(serving.plan, result), task.loss(serving.plan)
        self.fitness = ServiceFitness((window, refused, value, result.latency_s.mean, loss))

    @property
    def value(self) -> float:
        """What is sought, as a number that is to be small."""
        return float(self.fitness.values[2])


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
        total = task.workload.requests
        sizes = {min(max(round(share * total), LEAST_REQUESTS), total) for share in WINDOWS}
        parts = [head(task.workload, size) for size in sorted(sizes - {total})]
        self.windows: list[TraceWorkload] = [*parts, task.workload]
        self._results: dict[tuple[ServingPlan, int], SimulationResult] = {}

    def refused(self, serving: ServingPlan) -> int:
        """Return how many requests of the whole trace could never be served."""
        costs, settings = self.task.costs, serving.settings
        capacity = min(stage_blocks(serving.plan, costs.model, costs.cluster, settings))
        served = can_be_served(self.task.workload, settings, capacity)
        return self.task.workload.requests - int(served.sum())

    def judge(self, services: Sequence[ServingPlan], window: int) -> list[Candidate]:
        """Return those services as candidates that can serve any request at all."""
        refused = {each: self.refused(each) for each in dict.fromkeys(services)}
        able = [each for each, number in refused.items() if number < self.task.workload.requests]
        self._simulate([each for each in able if (each, window) not in self._results], window)
        return [
            Candidate(each, window, refused[each], self._results[each, window], self.task)
            for each in able
        ]

    def _simulate(self, services: Sequence[ServingPlan], window: int) -> None:
        workload = self.windows[window]
        if self.workers < 2 or len(services) * workload.requests < REQUESTS_PER_POOL:
            results = _results(services, self.task, workload)
        else:
            results = self._simulate_in_pool(services, workload)
        for each, result in zip(services, results, strict=True):
            self._results[each, window] = result

    def _simulate_in_pool(
        self, services: Sequence[ServingPlan], workload: TraceWorkload
    ) -> list[SimulationResult]:
        from joblib import Parallel, delayed

        shares = [services[start :: self.workers] for start in range(self.workers)]
        found = Parallel(n_jobs=self.workers)(
            delayed(_results)(share, self.task, workload) for share in shares
        )
        by_service = {
            each: result
            for share, results in zip(shares, found, strict=True)
            for each, result in zip(share, results, strict=True)
        }
        return [by_service[each] for each in services]


def _results(
    services: Sequence[ServingPlan], task: OnlineTask, workload: TraceWorkload
) -> list[SimulationResult]:
    return [
        simulate_continuous(each.plan, task.costs, workload, each.settings, task.objectives)
        for each in services
    ]
