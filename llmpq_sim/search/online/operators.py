"""Genetic operators on a service: its stages, and the limits of its scheduler.

Stages are changed and repaired by the operators of the offline search, whose memory is asked for
one request at a time: what is left beside it is the KV cache of continuous batching.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from numpy.random import Generator

from llmpq_sim.core.plan import MicroBatching, Plan, Stage
from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.genetic.operators import Operators
from llmpq_sim.search.grid import LONG_PROMPT_TOKENS
from llmpq_sim.search.online.task import OnlineTask
from llmpq_sim.simulator.continuous.settings import ContinuousSettings

ONE_AT_A_TIME = MicroBatching(1, 1, 1)

TOKEN_BUDGETS = tuple(2**power for power in range(8, 14))
SEQUENCE_LIMITS = tuple(2**power for power in range(3, 10))

FIRST_LIMITS = ((256, 64), (512, 256), (1024, 128), (4096, 256))
"""Token budgets and sequence limits that a search tries beside the defaults."""

LIMITS_SHARE = 0.4
"""Share of mutations that change the limits."""


@dataclass(frozen=True)
class ServingPlan:
    """What is decided: stages, and how requests are batched.

    Attributes:
        plan: the stages; its micro-batches play no part and are one request at a time.
        settings: limits and choices of the scheduler.
    """

    plan: Plan
    settings: ContinuousSettings


def serving_plan(stages: tuple[Stage, ...], settings: ContinuousSettings) -> ServingPlan:
    """Return these stages with these settings."""
    return ServingPlan(Plan(stages, ONE_AT_A_TIME), settings)


class ServiceOperators:
    """Mutation, crossover and repair of services for one task."""

    def __init__(self, room: PlanningTask) -> None:
        self._stages = Operators(room, [ONE_AT_A_TIME])

    def mutate(self, parent: ServingPlan, rng: Generator) -> ServingPlan:
        """Return the service with other limits or other stages."""
        if rng.random() < LIMITS_SHARE:
            choices = neighbours(parent.settings)
            return replace(parent, settings=choices[int(rng.integers(len(choices)))])
        return replace(parent, plan=self._stages.mutate(parent.plan, rng))

    def cross(self, first: ServingPlan, second: ServingPlan, rng: Generator) -> ServingPlan:
        """Return a service with stages of both and the settings of one."""
        chosen = first if rng.random() < 0.5 else second
        return ServingPlan(self._stages.cross(first.plan, second.plan, rng), chosen.settings)

    def repair(self, changed: ServingPlan) -> ServingPlan | None:
        """Return the service with formats that fit and keep the budget, or None."""
        plan = self._stages.repair(changed.plan)
        return None if plan is None else replace(changed, plan=plan)


def longest_room(task: OnlineTask) -> PlanningTask:
    """Return the batch task with room for the longest request of the trace alone."""
    contexts = task.workload.context_tokens
    return _room(task, int(contexts.max()))


def mean_room(task: OnlineTask) -> PlanningTask:
    """Return the batch task with room for a request of mean length alone."""
    return _room(task, task.batch.costs.scenario.workload.context_tokens)


def _room(task: OnlineTask, context_tokens: int) -> PlanningTask:
    scenario = task.batch.costs.scenario
    # a longer prompt is cut, and needs the temporaries of a chunk
    prompt_tokens = min(scenario.workload.prompt_tokens, context_tokens - 1, LONG_PROMPT_TOKENS)
    alone = BatchWorkload(prompt_tokens, (context_tokens - prompt_tokens,))
    costs = LayerCosts(replace(scenario, workload=alone), task.batch.costs.profiles)
    return replace(task.batch, costs=costs)


def first_limits(defaults: ContinuousSettings) -> list[ContinuousSettings]:
    """Return the defaults and some settings on the grid, alike in everything else."""
    others = [_with(defaults, *pair) for pair in FIRST_LIMITS if _is_possible(*pair, defaults)]
    return list(dict.fromkeys([defaults, *others]))


def neighbours(settings: ContinuousSettings) -> list[ContinuousSettings]:
    """Return the settings of the grid that are one step away: a limit, or how prompts are cut."""
    budget, limit = settings.token_budget, settings.sequence_limit
    found = [
        _with(settings, *pair)
        for pair in (
            *((other, limit) for other in _beside(TOKEN_BUDGETS, budget)),
            *((budget, other) for other in _beside(SEQUENCE_LIMITS, limit)),
        )
        if _is_possible(*pair, settings)
    ]
    if not settings.chunked_prefill or budget >= settings.longest_context_tokens:
        found.append(replace(settings, chunked_prefill=not settings.chunked_prefill))
    return found


def _beside(values: tuple[int, ...], value: int) -> Iterator[int]:
    """Yield the next smaller and the next larger one."""
    yield from [other for other in values if other < value][-1:]
    yield from [other for other in values if other > value][:1]


def _with(settings: ContinuousSettings, budget: int, limit: int) -> ContinuousSettings:
    return replace(settings, token_budget=budget, sequence_limit=limit)


def _is_possible(budget: int, limit: int, settings: ContinuousSettings) -> bool:
    return limit <= budget and (
        settings.chunked_prefill or budget >= settings.longest_context_tokens
    )
