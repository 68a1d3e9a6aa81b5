"""Evaluation of plans: by the closed form first, by simulation where they may win."""

from collections.abc import Sequence
from dataclasses import dataclass

from llmpq_sim.core.plan import Plan
from llmpq_sim.core.schedule import counted_batch_schedules
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.simulator.static.simulate import simulate_static

VISITS_PER_CALL = 1_500_000
"""Stage visits simulated for one set of plans, at most, beyond the plans that must be."""

VISITS_PER_POOL = 750_000
"""Stage visits from which starting worker processes pays."""


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
        allowance of stage visits permits, and the first ``sure`` in any case.
        """
        screened = [self.screen.makespan_s(plan) for plan in plans]
        ranked = sorted(range(len(plans)), key=lambda i: (i >= sure, screened[i], i))
        chosen: list[Plan] = []
        visits = 0
        for index in ranked:
            visits += self._visits(plans[index])
            if chosen and index >= sure and visits > VISITS_PER_CALL:
                break
            chosen.append(plans[index])
        self._simulate(chosen)
        simulated = set(chosen)  # not all ever simulated: a resumed search has none of them
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
        visits = sum(self._visits(plan) for plan in new)
        if self.workers < 2 or visits < VISITS_PER_POOL:
            makespans_s = _makespans_s(new, self.screen.task)
        else:
            makespans_s = self._simulate_in_pool(new)
        self._simulated.update(zip(new, makespans_s, strict=True))

    def _simulate_in_pool(self, plans: Sequence[Plan]) -> list[float]:
        from joblib import Parallel, delayed

        shares = [plans[start :: self.workers] for start in range(self.workers)]
        found = Parallel(n_jobs=self.workers)(
            delayed(_makespans_s)(share, self.screen.task) for share in shares
        )
        by_plan = {
            plan: makespan_s
            for share, makespans_s in zip(shares, found, strict=True)
            for plan, makespan_s in zip(share, makespans_s, strict=True)
        }
        return [by_plan[plan] for plan in plans]

    def _visits(self, plan: Plan) -> int:
        workload = self.screen.task.costs.scenario.workload
        shapes = counted_batch_schedules(workload, plan.micro_batching)
        return len(plan.stages) * sum(shape.steps * count for shape, count in shapes)


def _makespans_s(plans: Sequence[Plan], task: PlanningTask) -> list[float]:
    return [simulate_static(plan, task.costs).makespan_s for plan in plans]
