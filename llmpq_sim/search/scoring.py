"""Score of a plan: whether it fits, what it loses, and how long it takes."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import isinf

from llmpq_sim.core.memory import StageMemory, plan_memory
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.result import SimulationResult
from llmpq_sim.core.units import gib_apart
from llmpq_sim.search.bound.problem import BUDGET_TOLERANCE, PlanningTask
from llmpq_sim.simulator.static.checked import CheckedSteps
from llmpq_sim.simulator.static.policies import BatchPolicy, pipelined
from llmpq_sim.simulator.static.recurrence import compute_steps
from llmpq_sim.simulator.static.simulate import RunSteps, simulate_static


@dataclass(frozen=True)
class PlanScore:
    """What a plan needs, loses and does.

    Attributes:
        plan: what was scored.
        memory: per stage.
        loss: quality loss.
        budget: largest allowed loss.
        result: its simulation, or None where it does not fit.
        policy: under which it was simulated.
    """

    plan: Plan
    memory: tuple[StageMemory, ...]
    loss: float
    budget: float
    result: SimulationResult | None
    policy: BatchPolicy = pipelined

    @cached_property
    def fits(self) -> bool:
        """Whether every stage has the memory it needs."""
        return all(stage.fits for stage in self.memory)

    @cached_property
    def is_feasible(self) -> bool:
        """Whether the plan fits and keeps the quality budget."""
        return self.fits and self.loss <= self.budget * (1 + BUDGET_TOLERANCE)

    @property
    def makespan_s(self) -> float:
        """Simulated time of the batch; infinite where the plan does not fit."""
        return self.result.makespan_s if self.result else float("inf")

    def infeasible_reason(self) -> str | None:
        """Return the first reason why the plan is not feasible, or None."""
        for number, stage in enumerate(self.memory):
            if not stage.fits:
                needs, has = gib_apart(stage.total_bytes, stage.limit_bytes)
                return (
                    f"does not fit: stage {number} on {self.plan.stages[number].device} needs "
                    f"{needs} GiB, has {has}"
                )
        if isinf(self.loss):
            return "breaks a layer in its format, as measured"
        if not self.is_feasible:
            return f"loses {self.loss:.4g}, more than the budget of {self.budget:.4g}"
        return None


def score_plan(
    plan: Plan,
    task: PlanningTask,
    run: RunSteps = compute_steps,
    policy: BatchPolicy = pipelined,
) -> PlanScore:
    """Return the score of a plan, with its simulation if it is feasible.

    Args:
        plan: what is scored.
        task: what it is asked.
        run: says when each step of a wave is done; the recurrence unless told.
        policy: says which steps may begin when.
    """
    memory = tuple(plan_memory(plan, task.costs.scenario))
    loss = task.quality.plan_loss(plan.layer_formats)
    score = PlanScore(plan, memory, loss, task.budget, None)
    if not score.is_feasible:
        return score
    result = simulate_static(plan, task.costs, run, policy)
    return replace(score, result=result, policy=policy)


def score_in_simpy(plan: Plan, task: PlanningTask, policy: BatchPolicy = pipelined) -> PlanScore:
    """Return the score of a plan that is shown: simulated in SimPy, checked by the recurrence.

    Raises:
        InternalError: they disagree.
    """
    return score_plan(plan, task, CheckedSteps(), policy)


def fits(plan: Plan, task: PlanningTask) -> bool:
    """Return whether a plan fits every device."""
    return all(stage.fits for stage in plan_memory(plan, task.costs.scenario))


def shortfall_bytes(plan: Plan, task: PlanningTask) -> int:
    """Return how many bytes the devices of a plan are short of, all stages together."""
    memory = plan_memory(plan, task.costs.scenario)
    return sum(max(0, stage.total_bytes - stage.limit_bytes) for stage in memory)


def keeps_budget(plan: Plan, task: PlanningTask) -> bool:
    """Return whether a plan loses no more than the quality budget."""
    return task.quality.plan_loss(plan.layer_formats) <= task.allowed_loss
