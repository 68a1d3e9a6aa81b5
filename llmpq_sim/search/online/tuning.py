"""Best settings of given stages: a grid raced over growing windows, then steps on finer scales.

Every partition is tuned alike, ours and those of others, with as many simulations for each.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from llmpq_sim.core.plan import Stage
from llmpq_sim.search.deadline import check_time
from llmpq_sim.search.online.evaluation import ServiceEvaluator
from llmpq_sim.search.online.evolution import ServiceIndividual, individuals, judge, race
from llmpq_sim.search.online.operators import ServingPlan, serving_plan
from llmpq_sim.search.online.settings_genes import bounded, fitted, grid, other_admission
from llmpq_sim.simulator.continuous.settings import ContinuousSettings

KEPT_SHARE = 1 / 2
"""Share of the grid that goes on to the next window: its best points lie close together."""

FEW_REQUESTS = 100
"""Requests up to which the whole grid is judged by all of them: windows would save nothing."""

FACTORS = (2, 2**0.5, 2**0.25, 2**0.125)
"""By which refinement changes a number, one after another."""

CLIMBS = 3
"""Most moves at each factor."""


def tuned(
    evaluator: ServiceEvaluator, stages: tuple[Stage, ...], start: ContinuousSettings
) -> ServiceIndividual | None:
    """Return the stages with the best settings found, judged by the whole trace.

    Args:
        evaluator: simulates services.
        stages: the pipeline.
        start: settings among those tried; what is no gene of a search stays as it is there.

    Returns:
        None where no settings leave room for any request.

    Raises:
        OutOfTime: the time limit passed first.
    """
    check_time()
    first = dict.fromkeys([start, *grid(start)])
    services = individuals(evaluator, [serving_plan(stages, each) for each in first])
    if not services:
        return None
    if evaluator.task.workload.requests <= FEW_REQUESTS:
        return polished(evaluator, _best(evaluator, services))
    for service, values in zip(services, race(evaluator, services, KEPT_SHARE), strict=True):
        service.fitness.values = values
    return polished(evaluator, max(services, key=lambda each: each.fitness))


def polished(evaluator: ServiceEvaluator, service: ServiceIndividual) -> ServiceIndividual:
    """Return the service with the best settings near its own, judged by the whole trace.

    Raises:
        OutOfTime: the time limit passed first.
    """
    for factor in FACTORS:
        for _ in range(CLIMBS):
            best = _best(evaluator, [service, *_near(evaluator, service.serving, factor)])
            if best.serving == service.serving:
                break
            service = best
    return service


def _near(
    evaluator: ServiceEvaluator, serving: ServingPlan, factor: float
) -> list[ServiceIndividual]:
    """Return the services whose settings are a step away."""
    found = dict.fromkeys(
        fitted(each, len(serving.plan.stages)) for each in steps(serving.settings, factor)
    )
    found.pop(serving.settings, None)
    return individuals(evaluator, [replace(serving, settings=each) for each in found])


def steps(settings: ContinuousSettings, factor: float) -> Iterable[ContinuousSettings]:
    """Yield the settings with one gene, or both limits, changed by a factor or to the other."""
    budget, limit = settings.token_budget, settings.sequence_limit
    up, down = _scaled(factor), _scaled(1 / factor)
    for scale in (up, down):
        yield bounded(settings, token_budget=scale(budget))
        yield bounded(settings, sequence_limit=scale(limit))
        yield bounded(settings, token_budget=scale(budget), sequence_limit=scale(limit))
    yield bounded(settings, token_budget=up(budget), sequence_limit=down(limit))
    yield bounded(settings, token_budget=down(budget), sequence_limit=up(limit))
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


def _best(evaluator: ServiceEvaluator, services: Sequence[ServiceIndividual]) -> ServiceIndividual:
    """Return the best on the whole trace."""
    whole = len(evaluator.windows) - 1
    for service, values in zip(services, judge(evaluator, services, whole), strict=True):
        service.fitness.values = values
    return max(services, key=lambda each: each.fitness)
