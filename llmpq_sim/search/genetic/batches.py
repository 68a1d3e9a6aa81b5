"""Plans of a batch as DEAP individuals, and the toolbox that breeds them."""

from collections.abc import Iterable, Sequence
from functools import partial
from operator import attrgetter

from deap import base, tools
from numpy.random import Generator

from llmpq_sim.core.plan import Plan
from llmpq_sim.search.genetic.evaluation import Evaluator
from llmpq_sim.search.genetic.evolution import EvolutionEffort, EvolutionState, Individual
from llmpq_sim.search.genetic.operators import Operators

POPULATION = 32
PATIENCE = 8
"""Generations without a better plan after which evolution stops."""


class PlanFitness(base.Fitness):  # type: ignore[misc]
    """Makespan in seconds and quality loss, both to be small; compared in this order."""

    weights = (-1.0, -1.0)


class PlanIndividual(Individual[Plan]):
    """A plan with its fitness: makespan and loss.

    Attributes:
        is_simulated: whether the makespan was simulated; otherwise it is the closed form.
    """

    def __init__(self, plan: Plan, *, is_seed: bool = False) -> None:
        super().__init__(plan, PlanFitness(), is_seed=is_seed)
        self.is_simulated = False

    @property
    def plan(self) -> Plan:
        """The genome."""
        return self.genome

    @property
    def makespan_s(self) -> float:
        """Time of the batch."""
        return float(self.fitness.values[0])

    @property
    def loss(self) -> float:
        """Quality loss of the plan."""
        return float(self.fitness.values[1])


class SimulatedFront(tools.ParetoFront):  # type: ignore[misc]
    """The simulated plans that no other beats in both makespan and loss, the fastest first."""

    def __init__(self) -> None:
        super().__init__(similar=lambda one, other: one.fitness == other.fitness)

    def update(self, population: Iterable[PlanIndividual]) -> None:
        """Add the simulated plans that none beats, and drop those that they beat."""
        super().update([one for one in population if one.is_simulated])


PlanState = EvolutionState[PlanIndividual]


def plan_effort(*, by_front: bool = False) -> EvolutionEffort:
    """Return how much a search of a batch tries."""
    return EvolutionEffort(POPULATION, PATIENCE, by_front)


def plan_toolbox(
    operators: Operators, evaluator: Evaluator, rng: Generator, *, by_front: bool = False
) -> base.Toolbox:
    """Return the toolbox that breeds plans.

    Args:
        operators: mutation, crossover, repair.
        evaluator: judges a generation as a whole, since it simulates only the most promising.
        rng: source of all draws.
        by_front: whether the whole front of makespan and loss survives (NSGA-II), or the fastest.
    """
    toolbox = base.Toolbox()
    toolbox.register("mate", operators.cross, rng=rng)
    toolbox.register("mutate", operators.mutate, rng=rng)
    toolbox.register("repair", operators.repair)
    toolbox.register("individuals", _individuals)
    toolbox.register("evaluate", partial(_judged, evaluator))
    toolbox.register("map", lambda evaluate, individuals: evaluate(individuals))
    toolbox.register("select", tools.selNSGA2 if by_front else tools.selBest)
    toolbox.register("sought", attrgetter("makespan_s"))
    return toolbox


def _individuals(plans: Sequence[Plan], *, is_seed: bool = False) -> list[PlanIndividual]:
    return [PlanIndividual(plan, is_seed=is_seed) for plan in plans]


def _judged(
    evaluator: Evaluator, individuals: Sequence[PlanIndividual]
) -> list[tuple[float, float]]:
    """Return the fitness values of a generation; the seeds are simulated in any case."""
    seeds = sum(one.is_seed for one in individuals)  # they come first
    verdicts = evaluator.judge([one.plan for one in individuals], seeds)
    for one, verdict in zip(individuals, verdicts, strict=True):
        one.is_simulated = verdict.is_simulated
    return [(verdict.makespan_s, verdict.loss) for verdict in verdicts]
