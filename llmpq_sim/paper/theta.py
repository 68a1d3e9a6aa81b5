"""Sweep of LLM-PQ's weight on quality loss, beside searches with a target in its place.

LLM-PQ adds theta times the loss to the time it minimises, and its authors set theta for each
cluster. Here theta goes through powers of ten; beside each plan of the reference's program stands
what our search finds when it is asked for no more loss than that plan has.

The reference's objective has other defects too. What is due to the weight alone is told by the
front of the corrected program's plans, from target to target: a weight, however well set, reaches
no plan of it but those on its convex hull.
"""

from itertools import pairwise

from llmpq_sim.core.plan import Plan
from llmpq_sim.paper.ablations import Ablated, judged_plan, searched_plan
from llmpq_sim.paper.cases import Case, with_budget
from llmpq_sim.paper.methods import fastest, losing_no_more
from llmpq_sim.paper.reference import reference_plan
from llmpq_sim.search.baselines.simple import integer_plans
from llmpq_sim.search.bound.problem import PlanningTask

THETAS_MS = tuple(10.0**power for power in range(8))
"""Milliseconds for each nominal nat. The authors' own go from 1 to 50,000 in their unit of loss."""

WEIGHT, TARGET, FRONT = "theta", "target", "front"
"""Names of the two plans of each theta, and of the corrected program's plans."""

STEPS = 4
"""Targets from each format to the next."""


def sweep_theta(case: Case) -> list[Ablated]:
    """Return, for each theta, the reference's plan and our search's that loses no more.

    Raises:
        InputError: bundled data cannot be read.
    """
    free, real = case.task(), case.real_task()
    to_target: dict[float, Plan | None] = {}
    found = []
    for theta_ms in THETAS_MS:
        solved = reference_plan(free, theta_ms)
        plan = None if solved is None else solved.plan
        asked = losing_no_more(free, plan)
        loss = asked.budget
        if loss not in to_target:
            to_target[loss] = searched_plan(asked)
        found += [
            judged_plan(WEIGHT, plan, real, theta_ms),
            judged_plan(TARGET, to_target[loss], real, theta_ms),
        ]
    return found


def plans_of_targets(case: Case) -> list[Ablated]:
    """Return the fastest plan of the corrected program for each target, the strictest first.

    Raises:
        InputError: bundled data cannot be read.
    """
    free, real = case.task(), case.real_task()
    asked = [with_budget(free, loss) for loss in targets(free)]
    return [judged_plan(FRONT, fastest(integer_plans(task), task), real) for task in asked]


def targets(task: PlanningTask) -> list[float]:
    """Return losses in equal steps from each format's to the next one's, for all layers alike."""
    ends = sorted(task.quality.uniform_loss(name) for name in task.formats)
    steps = [
        low + (high - low) * step / STEPS for low, high in pairwise(ends) for step in range(STEPS)
    ]
    return [*steps, ends[-1]]
