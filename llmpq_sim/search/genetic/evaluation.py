"""Evaluation of plans: by the closed form first, by simulation where they may win."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from llmpq_sim.core.plan import Plan
from llmpq_sim.core.schedule import counted_batch_schedules
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.deadline import time_left_s, time_limit
from llmpq_sim.search.genetic.executors import spread
from llmpq_sim.simulator.static.simulate import simulate_static

STEPS_PER_CALL = 1_500_000
"""Stage steps simulated for one set of plans, at most, beyond the plans that must be."""

STEPS_PER_POOL = 750_000
"""Stage steps from which starting worker processes pays."""

STEPS_PER_S = 500_000
"""Stage steps simulated in a second, by a low guess, to tell what a time limit allows."""


@dataclass(frozen=True)
class Verdict:
    """A plan's makespan and loss.

    Attributes:
        makespan_s: simulated, or the closed form, which is never more.
        loss: quality loss.
        is_simulated: which of the two it is.
    """

    makespan_s: float
    loss: float
    is_simulated: bool


class Evaluator:
    """Judges feasible plans of one task; results do not depend on the number of workers.

    Attributes:
        screen: closed forms of the task.
        workers: processes that may simulate at once.
    """

    def __init__(self, screen: Screen, workers: int) -> None:
        self.screen = screen
        self.workers = workers
        self._simulated: dict[Plan, float] = {}

    def judge(self, plans: Sequence[Plan], sure: int = 0) -> list[Verdict]:
        """Return a verdict for each plan.

        The plans with the best closed forms are simulated, one at least and as many as the
        allowance of stage steps permits, and the first ``sure`` in any case. A time limit ends
        that, but not before any plan was ever simulated; the one that it leaves time for is first.
        """
        screened = [self.screen.makespan_s(plan) for plan in plans]
        asked = [stage_steps(plan, self.screen.task) for plan in plans]
        affordable = STEPS_PER_S * time_left_s()
        excess = [max(steps - affordable, 0.0) for steps in asked]
        ranked = sorted(range(len(plans)), key=lambda i: (excess[i], i >= sure, screened[i], i))
        chosen: list[Plan] = []
        steps = 0
        for index in ranked:
            steps += asked[index]
            if chosen and index >= sure and steps > STEPS_PER_CALL:
                break
            chosen.append(plans[index])
        self._simulate(chosen)
        # not all ever simulated: a resumed search has none of them
        simulated = {plan for plan in chosen if plan in self._simulated}
        quality = self.screen.task.quality
        return [
            Verdict(
                self._simulated[plan] if plan in simulated else screened[index],
                quality.plan_loss(plan.layer_formats),
                plan in simulated,
            )
            for index, plan in enumerate(plans)
        ]

    def _simulate(self, plans: Sequence[Plan]) -> None:
        """Simulate plans not simulated before, in other processes where that pays."""
        new = [plan for plan in dict.fromkeys(plans) if plan not in self._simulated]
        if not self._simulated and new:
            self._simulated[new[0]] = simulate_static(new[0], self.screen.task.costs).makespan_s
            del new[0]
        steps = sum(stage_steps(plan, self.screen.task) for plan in new)
        simulate = partial(_makespans_s, task=self.screen.task, limit_s=time_left_s())
        if self.workers < 2 or steps < STEPS_PER_POOL:
            makespans_s = simulate(new)
        else:
            makespans_s = spread(simulate, new, self.workers)
        found = zip(new, makespans_s, strict=True)
        self._simulated.update({plan: at_s for plan, at_s in found if at_s is not None})


def stage_steps(plan: Plan, task: PlanningTask) -> int:
    """Return how many stage steps the simulation of a plan takes."""
    shapes = counted_batch_schedules(task.costs.scenario.workload, plan.micro_batching)
    return len(plan.stages) * sum(shape.steps * count for shape, count in shapes)


def _makespans_s(plans: Sequence[Plan], task: PlanningTask, limit_s: float) -> list[float | None]:
    """Return the makespan of each plan; None for those that the time limit leaves no time for."""
    with time_limit(limit_s):
        return [
            simulate_static(plan, task.costs).makespan_s if time_left_s() else None
            for plan in plans
        ]
