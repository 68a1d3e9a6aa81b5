"""Evolution: one loop over a DEAP toolbox, for plans of batches and of traces alike.

A toolbox holds the operators of one kind of genome: `evolve` lists what it must have. DEAP's own
variation draws from Python's global generator; the operators registered here draw from the one
NumPy generator of the state, so that a seed, or a checkpoint, decides everything. Each generation
is one of `deap.algorithms.eaGenerateUpdate`, which draws nothing: generate, evaluate, keep the
best in a hall of fame, update.
"""

from collections.abc import Callable, Hashable, Iterable, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, Generic, TypeVar
from zlib import crc32

import numpy as np
from deap import algorithms, base, tools
from numpy.random import Generator

from llmpq_sim.search.deadline import OutOfTime, check_time, without_time_limit

Genome = TypeVar("Genome", bound=Hashable)
Select = Callable[[list[Any], int], list[Any]]
"""A selection of DEAP's that draws nothing, such as `deap.tools.selBest`."""

CROSSOVER_SHARE = 0.3

ATTEMPTS = 4
"""Children drawn for each one wanted, at most: small tasks have few genomes that are new."""


class Individual(Generic[Genome]):
    """A genome with its fitness, as DEAP expects it.

    Attributes:
        genome: what is bred; immutable.
        fitness: of a subclass of `deap.base.Fitness`; invalid until it is evaluated.
        is_seed: whether it was given to start from, not bred.
    """

    def __init__(self, genome: Genome, fitness: base.Fitness, *, is_seed: bool = False) -> None:
        self.genome = genome
        self.fitness = fitness
        self.is_seed = is_seed

    def __deepcopy__(self, memo: dict[int, Any]) -> "Individual[Genome]":
        """Return itself: halls of fame copy what they keep, and nothing changes an individual."""
        return self


Kind = TypeVar("Kind", bound=Individual[Any])


@dataclass
class EvolutionState(Generic[Kind]):
    """Everything that the next generation depends on; a checkpoint saves it.

    Attributes:
        rng: source of all draws.
        hall: the best individuals, the best one first: a `deap.tools.HallOfFame` or a front.
        population: the survivors.
        generation: generations done after the first population.
        stalled: generations since the best last improved.
        evaluations: individuals judged so far.
        logbook: a row for each generation, the first population's included.
    """

    rng: Generator
    hall: tools.HallOfFame
    population: list[Kind] = field(default_factory=list)
    generation: int = 0
    stalled: int = 0
    evaluations: int = 0
    logbook: tools.Logbook = field(default_factory=tools.Logbook)

    @property
    def best(self) -> Kind:
        """The best individual so far."""
        best: Kind = self.hall[0]
        return best


@dataclass(frozen=True)
class EvolutionEffort:
    """How much a genetic search tries.

    Attributes:
        population: individuals that survive, and children wanted, in each generation.
        patience: generations without improvement after which it ends.
        by_front: whether a longer front is an improvement too.
    """

    population: int
    patience: int
    by_front: bool = False


def begin(
    state: EvolutionState[Any], toolbox: base.Toolbox, effort: EvolutionEffort, seeds: Iterable[Any]
) -> None:
    """Make the first population of the seeds that can be repaired, and of mutants of them.

    Args:
        state: without a generation yet; individuals already judged may be in it.
        toolbox: as for `evolve`.
        effort: how much is tried.
        seeds: genomes to start from. A time limit leaves out mutants, never these.
    """
    with without_time_limit():
        repaired = [toolbox.repair(seed) for seed in seeds]
    parents = list(dict.fromkeys(seed for seed in repaired if seed is not None))
    mutants: list[Any] = []
    with suppress(OutOfTime):
        for _ in range(ATTEMPTS * effort.population):
            if not parents or len(parents) + len(mutants) >= effort.population:
                break
            check_time()
            mutant = toolbox.repair(toolbox.mutate(parents[int(state.rng.integers(len(parents)))]))
            if mutant is not None:
                mutants.append(mutant)
    new = list(dict.fromkeys([*parents, *mutants]))[len(parents) :]
    first = [*toolbox.individuals(parents, is_seed=True), *toolbox.individuals(new)]
    toolbox.register("generate", lambda: first)
    toolbox.register("update", partial(survive, state, tools.selBest, effort))
    _generation(state, toolbox, 0)


def evolve(
    state: EvolutionState[Any],
    toolbox: base.Toolbox,
    effort: EvolutionEffort,
    generations: int,
    on_generation: Callable[[], bool],
) -> None:
    """Improve the population until generations, patience or time end.

    An interruption leaves the state of the last whole generation.

    Args:
        state: what to improve, in place: of `begin`, or of a checkpoint.
        toolbox: ``mate``, ``mutate`` and ``repair`` of genomes; ``individuals`` of genomes;
            ``evaluate`` and ``map``, which give fitness values to new individuals; ``select`` of
            survivors; and ``sought``, the figure of an individual that the logbook keeps.
        effort: how much is tried.
        generations: generations in all, those already done included.
        on_generation: called after each; evolution stops when it returns False.
    """
    toolbox.register("generate", partial(_children, state, toolbox, effort.population))
    toolbox.register("update", partial(survive, state, toolbox.select, effort))
    while state.generation < generations and state.stalled < effort.patience:
        best_before, front_before = state.best.fitness, len(state.hall)
        _generation(state, toolbox, state.generation + 1)
        improved = state.best.fitness > best_before or (
            effort.by_front and len(state.hall) > front_before
        )
        state.stalled = 0 if improved else state.stalled + 1
        if not on_generation():
            break


def survive(
    state: EvolutionState[Any], select: Select, effort: EvolutionEffort, judged: list[Any]
) -> None:
    """Let a selection of the population and of new individuals be the population."""
    everyone = [*state.population, *judged]
    state.population = select(everyone, min(effort.population, len(everyone)))
    state.evaluations += len(judged)


def stream(seed: int, name: bytes) -> Generator:
    """Return the named stream of random numbers of a seed: a new one never shifts the others."""
    return np.random.default_rng([seed, crc32(name)])


def _generation(state: EvolutionState[Any], toolbox: base.Toolbox, number: int) -> None:
    """Run one generation of DEAP's ask-and-tell algorithm, and keep a row of it."""
    _, rows = algorithms.eaGenerateUpdate(toolbox, ngen=1, halloffame=state.hall, verbose=False)
    state.generation = number
    if state.population:
        figures = _statistics(toolbox).compile(state.population)
        state.logbook.record(gen=number, evaluations=int(rows[0]["nevals"]), **figures)


def _statistics(toolbox: base.Toolbox) -> tools.Statistics:
    """Return what a row of the logbook says of the survivors, in what is sought."""
    statistics = tools.Statistics(key=toolbox.sought)
    for name, figure in (("best", np.min), ("median", np.median), ("worst", np.max)):
        statistics.register(name, lambda values, figure=figure: float(figure(values)))
    return statistics


def _children(state: EvolutionState[Any], toolbox: base.Toolbox, wanted: int) -> list[Any]:
    """Return the individuals of new genomes."""
    known = {individual.genome for individual in state.population}
    breed = partial(_child, state, toolbox)
    children: list[Any] = toolbox.individuals(new_genomes(breed, known, wanted))
    return children


def new_genomes(breed: Callable[[], Genome | None], known: Set[Genome], most: int) -> list[Genome]:
    """Return genomes that are new, fewer than the most where many attempts end in known ones.

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


def _child(state: EvolutionState[Any], toolbox: base.Toolbox) -> Any:
    """Return the repaired child of the better of two drawn parents, or of two such parents."""
    rng, parents = state.rng, state.population
    first, second = (
        max((parents[int(i)] for i in rng.integers(len(parents), size=2)), key=_by_fitness)
        for _ in range(2)
    )
    if rng.random() < CROSSOVER_SHARE:
        return toolbox.repair(toolbox.mate(first.genome, second.genome))
    return toolbox.repair(toolbox.mutate(first.genome))


_by_fitness = attrgetter("fitness")
