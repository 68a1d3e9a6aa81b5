"""Genetic operators on a service: its stages, and the settings of its scheduler.

Stages are changed and repaired by the operators of the offline search, whose memory is asked for
one request at a time: what is left beside it is the KV cache of continuous batching.
"""

from dataclasses import dataclass, replace

from numpy.random import Generator

from llmpq_sim.core.plan import MicroBatching, Plan, Stage
from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.genetic.operators import Operators
from llmpq_sim.search.grid import LONG_PROMPT_TOKENS
from llmpq_sim.search.online.settings_genes import (
    LEAST_BUDGET_TOKENS,
    bounded,
    crossed,
    fitted,
    mutated,
)
from llmpq_sim.search.online.task import OnlineTask
from llmpq_sim.simulator.continuous.compilation import stage_blocks
from llmpq_sim.simulator.continuous.settings import ContinuousSettings

ONE_AT_A_TIME = MicroBatching(1, 1, 1)

SETTINGS_SHARE = 0.5
"""Share of mutations that change the settings of the scheduler."""


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
        """Return the service with other settings or other stages."""
        if rng.random() < SETTINGS_SHARE:
            settings = mutated(parent.settings, len(parent.plan.stages), rng)
            return replace(parent, settings=settings)
        return replace(parent, plan=self._stages.mutate(parent.plan, rng))

    def cross(self, first: ServingPlan, second: ServingPlan, rng: Generator) -> ServingPlan:
        """Return a service with stages and settings of both."""
        plan = self._stages.cross(first.plan, second.plan, rng)
        return ServingPlan(plan, crossed(first.settings, second.settings, rng))

    def repair(self, changed: ServingPlan) -> ServingPlan | None:
        """Return the service with formats that fit and keep the budget, or None."""
        plan = self._stages.repair(changed.plan)
        if plan is None:
            return None
        return ServingPlan(plan, self._roomy(plan, fitted(changed.settings, len(plan.stages))))

    def _roomy(self, plan: Plan, settings: ContinuousSettings) -> ContinuousSettings:
        """Return the settings with a budget whose batches leave room for some KV cache."""
        scenario = self._stages.task.costs.scenario
        while settings.token_budget > LEAST_BUDGET_TOKENS and not min(
            stage_blocks(plan, scenario.model, scenario.cluster, settings)
        ):
            settings = bounded(settings, token_budget=settings.token_budget // 2)
        return settings


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
