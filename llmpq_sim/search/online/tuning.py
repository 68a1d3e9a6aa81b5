"""Best settings of given stages: a coarse grid raced over growing windows, then ever finer steps.

Every partition is tuned alike, ours and those of others, by the same steps.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf

from llmpq_sim.core.plan import Stage
from llmpq_sim.search.deadline import check_time
from llmpq_sim.search.online.evaluation import ServiceEvaluator
from llmpq_sim.search.online.evolution import (
    ServiceIndividual,
    Way,
    individuals,
    judge,
    racing,
    together,
)
from llmpq_sim.search.online.operators import serving_plan
from llmpq_sim.search.online.settings_genes import bounded, fitted, grid, other_admission
from llmpq_sim.simulator.continuous.settings import ContinuousSettings

COARSE = 4
"""Ratio of two neighbouring token budgets of the grid that is tried first."""

FACTORS = (2, 2**0.5, 2**0.25, 2**0.125)
"""By which refinement changes a number, one after another."""

BEAM = 3
"""Points of the grid from which the first moves begin, so that one good by luck misleads less."""

CLIMBS = 4
"""Most moves at each factor."""


@dataclass
class Tuning:
    """The search for the best settings of a pipeline.

    Attributes:
        evaluator: simulates services.
        stages: the pipeline.
        start: settings among those tried; what is no gene of a search stays as it is there.
        best: what was found so far, judged by the whole trace; None before, and where no settings
            leave room for any request.
        is_done: whether it came to its end.
    """

    evaluator: ServiceEvaluator
    stages: tuple[Stage, ...]
    start: ContinuousSettings
    best: ServiceIndividual | None = None
    is_done: bool = False

    @property
    def is_known(self) -> bool:
        """Whether it is known what serves best, or well, or that nothing does."""
        return self.is_done or self.best is not None

    def way(self) -> Way[None]:
        """Return the steps to the best settings."""
        coarse = grid(self.start, self.evaluator.task.workload.requests, budget_ratio=COARSE)
        first = [serving_plan(self.stages, each) for each in dict.fromkeys([self.start, *coarse])]
        services = individuals(self.evaluator, first)
        if services:
            values = yield from racing(self.evaluator, services)
            for service, reached in zip(services, values, strict=True):
                service.fitness.values = reached
            ranked = sorted(services, key=lambda each: each.fitness, reverse=True)
            self.best = ranked[0]
            yield from self._climbing(FACTORS[0], ranked[1:BEAM])
            yield from self.refining(FACTORS[1:])
        self.is_done = True

    def refining(self, factors: Sequence[float] = FACTORS) -> Way[None]:
        """Return the steps from the best so far, finer ones only where anything sought is met."""
        for factor in factors:
            if self.best is None or (factor != FACTORS[0] and self.best.value in (0.0, inf)):
                break
            yield from self._climbing(factor)

    def _climbing(self, factor: float, others: Sequence[ServiceIndividual] = ()) -> Way[None]:
        """Return moves of the best by a factor, the first one of some others beside it."""
        whole = len(self.evaluator.windows) - 1
        for _ in range(CLIMBS):
            from_these = [each for each in (self.best, *others) if each is not None]
            near = [other for each in from_these for other in self._near(each, factor)]
            yield [each.serving for each in near], whole
            for each, values in zip(near, judge(self.evaluator, near, whole), strict=True):
                each.fitness.values = values
            known, self.best = self.best, max([*from_these, *near], key=lambda each: each.fitness)
            others = ()
            if self.best is known:
                break

    def _near(self, service: ServiceIndividual, factor: float) -> list[ServiceIndividual]:
        """Return the services whose settings are a step away."""
        serving = service.serving
        count = len(serving.plan.stages)
        found = dict.fromkeys(fitted(each, count) for each in steps(serving.settings, factor))
        found.pop(serving.settings, None)
        return individuals(self.evaluator, [replace(serving, settings=each) for each in found])


def tuned(
    evaluator: ServiceEvaluator, stages: tuple[Stage, ...], start: ContinuousSettings
) -> ServiceIndividual | None:
    """Return the stages with the best settings found; see `Tuning`.

    Raises:
        OutOfTime: the time limit passed first.
    """
    check_time()
    tuning = Tuning(evaluator, stages, start)
    together(evaluator, [tuning.way()])
    return tuning.best


def polished(evaluator: ServiceEvaluator, service: ServiceIndividual) -> ServiceIndividual:
    """Return the service with the best settings near its own, judged by the whole trace.

    Raises:
        OutOfTime: the time limit passed first.
    """
    serving = service.serving
    tuning = Tuning(evaluator, serving.plan.stages, serving.settings, service)
    together(evaluator, [tuning.refining()])
    return tuning.best or service


def steps(settings: ContinuousSettings, factor: float) -> Iterable[ContinuousSettings]:
    """Yield the settings with either limit, or both, changed by a factor.

    Large steps also change how requests are admitted and prompts cut.
    """
    budget, limit = settings.token_budget, settings.sequence_limit
    for scale in (_scaled(factor), _scaled(1 / factor)):
        yield bounded(settings, token_budget=scale(budget))
        yield bounded(settings, sequence_limit=scale(limit))
        yield bounded(settings, token_budget=scale(budget), sequence_limit=scale(limit))
    if factor == FACTORS[0]:
        yield bounded(settings, admission=other_admission(settings))
        if not settings.chunked_prefill:
            yield bounded(settings, chunked_prefill=True)


def _scaled(factor: float) -> Callable[[int], int]:
    """Return what multiplies whole numbers by a factor, by one at least."""

    def scaled(value: int) -> int:
        changed = round(value * factor)
        if changed == value:
            return value + (1 if factor > 1 else -1)
        return changed

    return scaled
