"""Evolution of services: DEAP individuals, and the toolbox that breeds and races them."""

from collections.abc import Sequence
from functools import partial
from math import ceil
from operator import attrgetter

from deap import base, tools
from numpy.random import Generator

from llmpq_sim.core.result import SimulationResult
from llmpq_sim.search.genetic.evolution import EvolutionEffort, EvolutionState, Individual
from llmpq_sim.search.online.evaluation import ServiceEvaluator
from llmpq_sim.search.online.operators import ServiceOperators, ServingPlan

POPULATION = 24
PATIENCE = 6
"""Generations without a better service after which evolution stops."""

EFFORT = EvolutionEffort(POPULATION, PATIENCE)

KEPT_SHARE = 1 / 3
"""Share of services that go on to the next window (successive halving, Jamieson and Talwalkar,
arXiv:1502.07943, with eta = 3)."""

FitnessValues = tuple[float, float, float, float, float]


class ServiceFitness(base.Fitness):  # type: ignore[misc]
    """Window reached, refused requests, the objective, mean latency and loss, in this order.

    A window is only reached by what was best on the ones before it.
    """

    weights = (1.0, -1.0, -1.0, -1.0, -1.0)


class ServiceIndividual(Individual[ServingPlan]):
    """A service with its fitness and what its last simulation said.

    Attributes:
        refused: requests of the whole trace that it could never serve.
    """

    def __init__(self, serving: ServingPlan, refused: int, *, is_seed: bool = False) -> None:
        super().__init__(serving, ServiceFitness(), is_seed=is_seed)
        self.refused = refused
        self._result: SimulationResult | None = None

    @property
    def serving(self) -> ServingPlan:
        """The genome."""
        return self.genome

    @property
    def window(self) -> int:
        """Number of the window that it was judged by last."""
        return int(self.fitness.values[0])

    @property
    def value(self) -> float:
        """What is sought, as a number that is to be small."""
        return float(self.fitness.values[2])

    @property
    def result(self) -> SimulationResult:
        """Its simulation on that window.

        Raises:
            ValueError: it was not judged yet.
        """
        if self._result is None:
            raise ValueError("this service was not judged yet")
        return self._result

    def simulated(self, result: SimulationResult) -> None:
        """Keep what a simulation said."""
        self._result = result


ServiceState = EvolutionState[ServiceIndividual]


def service_state(rng: Generator) -> ServiceState:
    """Return a state without services, whose hall of fame has room for the best one."""
    return EvolutionState(rng, tools.HallOfFame(maxsize=1))


def service_toolbox(
    operators: ServiceOperators, evaluator: ServiceEvaluator, rng: Generator
) -> base.Toolbox:
    """Return the toolbox that breeds services.

    Args:
        operators: mutation, crossover, repair.
        evaluator: simulates services; a generation races as a whole.
        rng: source of all draws.
    """
    toolbox = base.Toolbox()
    toolbox.register("mate", operators.cross, rng=rng)
    toolbox.register("mutate", operators.mutate, rng=rng)
    toolbox.register("repair", operators.repair)
    toolbox.register("individuals", partial(individuals, evaluator))
    toolbox.register("evaluate", partial(race, evaluator))
    toolbox.register("map", lambda evaluate, services: evaluate(services))
    toolbox.register("select", tools.selBest)
    toolbox.register("sought", attrgetter("value"))
    return toolbox


def individuals(
    evaluator: ServiceEvaluator, services: Sequence[ServingPlan], *, is_seed: bool = False
) -> list[ServiceIndividual]:
    """Return those services as individuals that can serve any request at all."""
    found = [
        ServiceIndividual(each, evaluator.refused(each), is_seed=is_seed)
        for each in dict.fromkeys(services)
    ]
    return [each for each in found if each.refused < evaluator.task.workload.requests]


def judge(
    evaluator: ServiceEvaluator, services: Sequence[ServiceIndividual], window: int
) -> list[FitnessValues]:
    """Return the fitness values of services on a window, and keep what its simulation said."""
    results = evaluator.results([each.serving for each in services], window)
    values = []
    for each, result in zip(services, results, strict=True):
        each.simulated(result)
        plan, task = each.serving.plan, evaluator.task
        sought, mean_s = task.value(plan, result), result.latency_s.mean
        values.append((float(window), float(each.refused), sought, mean_s, task.loss(plan)))
    return values


def race(
    evaluator: ServiceEvaluator,
    services: Sequence[ServiceIndividual],
    kept_share: float = KEPT_SHARE,
) -> list[FitnessValues]:
    """Return fitness values by windows of the trace that grow for the best of the services."""
    racing = list(range(len(services)))
    reached: dict[int, FitnessValues] = {}
    for window in range(len(evaluator.windows)):
        values = judge(evaluator, [services[number] for number in racing], window)
        reached.update(zip(racing, values, strict=True))
        ranked = sorted(racing, key=lambda number: ServiceFitness(reached[number]), reverse=True)
        racing = ranked[: ceil(kept_share * len(ranked))]
    return [reached[number] for number in range(len(services))]
