"""Evolution of plans: DEAP's selection over simulated makespan and quality loss."""

from collections.abc import Callable, Hashable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import TypeVar
from zlib import crc32

import numpy as np
from deap import base, tools
from numpy.random import Generator

from llmpq_sim.core.plan import Plan
from llmpq_sim.search.genetic.evaluation import Evaluator
from llmpq_sim.search.genetic.operators import Operators

Genome = TypeVar("Genome", bound=Hashable)

POPULATION = 32
PATIENCE = 8
"""Generations without a better plan after which evolution stops."""

CROSSOVER_SHARE = 0.3

ATTEMPTS = 4
"""Children drawn for each one wanted, at most: small tasks have few plans that are new."""


class PlanFitness(base.Fitness):  # type: ignore[misc]
    """Makespan in seconds and quality loss, both to be small; compared in this order."""

    weights = (-1.0, -1.0)


class Individual:
    """A plan with its fitness, as DEAP expects it.

    Attributes:
        plan: the genome.
        fitness: makespan and loss; the makespan is a closed form unless ``is_simulated``.
        is_simulated: whether the plan was simulated.
    """

    def __init__(self, plan: Plan, makespan_s: float, loss: float, is_simulated: bool) -> None:
        self.plan = plan
        self.is_simulated = is_simulated
        self.fitness = PlanFitness((makespan_s, loss))

    @property
    def makespan_s(self) -> float:
        """Time of the batch."""
        return float(self.fitness.values[0])

    @property
    def loss(self) -> float:
        """Quality loss of the plan."""
        return float(self.fitness.values[1])


@dataclass
class EvolutionState:
    """Everything that the next generation depends on; a checkpoint saves it.

    Attributes:
        generation: generations done.
        population: the survivors.
        front: simulated plans that no other beats in both makespan and loss.
        rng: source of all draws.
        stalled: generations since the best plan last improved.
        evaluations: plans judged so far.
    """

    generation: int
    population: list[Individual]
    front: list[Individual]
    rng: Generator
    stalled: int = 0
    evaluations: int = 0

    @property
    def best(self) -> Individual:
        """The fastest simulated plan."""
        return min(self.front, key=lambda individual: individual.fitness.values)


def first_state(
    seeds: Iterable[Plan], operators: Operators, evaluator: Evaluator, rng: Generator
) -> EvolutionState:
    """Return the population of feasible seeds and of mutants of them."""
    plans = _distinct(repaired for plan in seeds if (repaired := operators.repair(plan)))
    mutants: list[Plan] = []
    for _ in range(ATTEMPTS * POPULATION):
        if not plans or len(plans) + len(mutants) >= POPULATION:
            break
        parent = plans[int(rng.integers(len(plans)))]
        mutant = operators.repair(operators.mutate(parent, rng))
        if mutant is not None:
            mutants.append(mutant)
    state = EvolutionState(0, [], [], rng)
    individuals = _judge(_distinct([*plans, *mutants]), evaluator, state, sure=len(plans))
    return _survive(state, individuals, by_front=False)


def evolve(
    state: EvolutionState,
    operators: Operators,
    evaluator: Evaluator,
    generations: int,
    *,
    by_front: bool,
    on_generation: Callable[[EvolutionState], bool],
) -> EvolutionState:
    """Return the state after so many generations in all, or when it stalls.

    Args:
        state: where to start; seeds, or a checkpoint.
        operators: mutation, crossover, repair.
        evaluator: judges plans.
        generations: generations in all, those already done included.
        by_front: whether to keep the whole front of makespan and loss (NSGA-II) or the fastest.
        on_generation: called after each generation; evolution stops when it returns False.
    """
    while state.generation < generations and state.stalled < PATIENCE:
        offspring = _offspring(state, operators)
        best_before = state.best.fitness.values
        front_before = len(state.front)
        individuals = _judge(offspring, evaluator, state)
        state = _survive(state, individuals, by_front=by_front)
        improved = state.best.fitness.values < best_before or (
            by_front and len(state.front) > front_before
        )
        state.generation += 1
        state.stalled = 0 if improved else state.stalled + 1
        if not on_generation(state):
            break
    return state


def _offspring(state: EvolutionState, operators: Operators) -> list[Plan]:
    known = {individual.plan for individual in state.population}
    return new_children(lambda: operators.repair(_child(state, operators)), known, POPULATION)


def new_children(breed: Callable[[], Genome | None], known: Set[Genome], most: int) -> list[Genome]:
    """Return children that are new, fewer than the most where many attempts end in known ones.

    Args:
        breed: makes a child, or None where it could not be repaired.
        known: those that are not wanted again.
        most: how many to return at most.
    """
    children: dict[Genome, None] = {}
    for _ in range(ATTEMPTS * most):
        child = breed()
        if child is not None and child not in known:
            children[child] = None
        if len(children) == most:
            break
    return list(children)


def _child(state: EvolutionState, operators: Operators) -> Plan:
    """Return the child of the better of two drawn parents, or of two such parents."""
    rng, parents = state.rng, state.population
    # Drawn here because DEAP's tournament draws from global state.
    first, second = (
        min((parents[int(i)] for i in rng.integers(len(parents), size=2)), key=_rank)
        for _ in range(2)
    )
    if rng.random() < CROSSOVER_SHARE:
        return operators.cross(first.plan, second.plan, rng)
    return operators.mutate(first.plan, rng)


def _judge(
    plans: Sequence[Plan], evaluator: Evaluator, state: EvolutionState, sure: int = 0
) -> list[Individual]:
    """Return plans as individuals, the promising ones simulated and at least the first ``sure``."""
    state.evaluations += len(plans)
    judged = evaluator.judge(plans, sure)
    return [
        Individual(plan, verdict.makespan_s, verdict.loss, verdict.is_simulated)
        for plan, verdict in zip(plans, judged, strict=True)
    ]


def _survive(
    state: EvolutionState, individuals: list[Individual], *, by_front: bool
) -> EvolutionState:
    """Keep the best of parents and children: the fastest, or by NSGA-II."""
    everyone = state.population + individuals
    front = tools.ParetoFront(similar=lambda a, b: a.fitness == b.fitness)
    front.update([one for one in state.front + individuals if one.is_simulated])
    select = tools.selNSGA2 if by_front else tools.selBest
    state.population = select(everyone, min(POPULATION, len(everyone)))
    state.front = list(front)
    return state


def _rank(individual: Individual) -> tuple[float, float]:
    return individual.makespan_s, individual.loss


def _distinct(plans: Iterable[Plan]) -> list[Plan]:
    return list(dict.fromkeys(plans))


def stream(seed: int, name: bytes) -> Generator:
    """Return the named stream of random numbers of a seed: a new one never shifts the others."""
    return np.random.default_rng([seed, crc32(name)])
