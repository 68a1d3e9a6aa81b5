"""Evolution of services, judged by ever more of the trace."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from deap import tools
from numpy.random import Generator

from llmpq_sim.search.genetic.evolution import ATTEMPTS, new_children
from llmpq_sim.search.online.evaluation import Candidate, ServiceEvaluator
from llmpq_sim.search.online.operators import ServiceOperators, ServingPlan

POPULATION = 24
PATIENCE = 6
"""Generations without a better service after which evolution stops."""

KEPT_SHARE = 1 / 3
"""Share of candidates that go on to the next window (successive halving, Jamieson and Talwalkar,
arXiv:1502.07943, with eta = 3)."""

CROSSOVER_SHARE = 0.3


@dataclass
class ServiceState:
    """Everything that the next generation depends on.

    Attributes:
        population: the survivors, the best first.
        rng: source of all draws.
        generation: generations done.
        stalled: generations since the best last improved.
        evaluations: services judged, on whatever window.
    """

    population: list[Candidate]
    rng: Generator
    generation: int = 0
    stalled: int = 0
    evaluations: int = 0

    @property
    def best(self) -> Candidate:
        """The best service; it was judged by the whole trace."""
        return self.population[0]


def first_services(
    seeds: Iterable[ServingPlan], operators: ServiceOperators, rng: Generator
) -> list[ServingPlan]:
    """Return the seeds that can be repaired, and mutants of them up to a population."""
    repaired = [operators.repair(seed) for seed in seeds]
    services = list(dict.fromkeys(seed for seed in repaired if seed is not None))
    parents = list(services)
    for _ in range(ATTEMPTS * POPULATION):
        if not parents or len(services) >= POPULATION:
            break
        parent = parents[int(rng.integers(len(parents)))]
        mutant = operators.repair(operators.mutate(parent, rng))
        if mutant is not None and mutant not in services:
            services.append(mutant)
    return services


def evolve_services(
    state: ServiceState,
    operators: ServiceOperators,
    evaluator: ServiceEvaluator,
    generations: int,
    on_generation: Callable[[ServiceState], bool],
) -> None:
    """Improve the population until generations, patience or time end.

    An interruption leaves the state of the last generation.

    Args:
        state: what to improve, in place.
        operators: mutation, crossover, repair.
        evaluator: judges services.
        generations: at most so many.
        on_generation: called after each; evolution stops when it returns False.
    """
    while state.generation < generations and state.stalled < PATIENCE:
        best_before = state.best.fitness
        judged = race(_offspring(state, operators), evaluator)
        survive(state, judged)
        state.generation += 1
        state.stalled = 0 if state.best.fitness > best_before else state.stalled + 1
        if not on_generation(state):
            break


def race(services: Sequence[ServingPlan], evaluator: ServiceEvaluator) -> list[Candidate]:
    """Return services judged by windows of the trace that grow for the best of them."""
    done: list[Candidate] = []
    racing = list(services)
    for window in range(len(evaluator.windows)):
        ranked = best_first(evaluator.judge(racing, window))
        goes_on = ceil(KEPT_SHARE * len(ranked)) if window < len(evaluator.windows) - 1 else 0
        done += ranked[goes_on:]
        racing = [candidate.serving for candidate in ranked[:goes_on]]
    return done


def survive(state: ServiceState, judged: Sequence[Candidate]) -> None:
    """Let the best of the population and of new candidates be the population."""
    state.evaluations += len(judged)
    everyone = best_first([*state.population, *judged])
    state.population = everyone[:POPULATION]


def best_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates by fitness; of equal ones the first stays first."""
    ordered: list[Candidate] = tools.selBest(candidates, len(candidates))
    return ordered


def _offspring(state: ServiceState, operators: ServiceOperators) -> list[ServingPlan]:
    known = {candidate.serving for candidate in state.population}
    return new_children(lambda: operators.repair(_child(state, operators)), known, POPULATION)


def _child(state: ServiceState, operators: ServiceOperators) -> ServingPlan:
    """Return the child of the better of two drawn parents, or of two such parents."""
    rng, parents = state.rng, state.population
    # The population is ordered, so the better of two is the one of the smaller number.
    first, second = (
        parents[int(rng.integers(len(parents), size=2).min())].serving for _ in range(2)
    )
    if rng.random() < CROSSOVER_SHARE:
        return operators.cross(first, second, rng)
    return operators.mutate(first, rng)
