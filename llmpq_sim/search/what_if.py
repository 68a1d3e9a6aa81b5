"""What would change with one device less: the first question after a plan."""

from collections import Counter
from dataclasses import dataclass, replace

from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.search.integer import integer_plan
from llmpq_sim.search.problem import PlanningTask
from llmpq_sim.search.scoring import PlanScore, score_plan


@dataclass(frozen=True)
class WhatIf:
    """A changed cluster and its throughput.

    Attributes:
        label: the change.
        tokens_per_s: of the plan found for it, or None where none fits.
    """

    label: str
    tokens_per_s: float | None


def without_one(task: PlanningTask, best: PlanScore) -> list[WhatIf]:
    """Return, for each kind of device, the integer program's plan with one of them less.

    The batch is cut as in the best plan, so a search on the smaller cluster may do better.
    """
    cluster = task.costs.scenario.cluster
    if len(cluster.devices) == 1:
        return []
    return [
        WhatIf(f"without one {kind}", _tokens_per_s(_without(task, kind), best))
        for kind in Counter(member.device.name for member in cluster.devices)
    ]


def _without(task: PlanningTask, kind: str) -> PlanningTask:
    """Return the task on a cluster that lacks the last device of a kind."""
    scenario = task.costs.scenario
    members = scenario.cluster.devices
    gone = max(i for i, member in enumerate(members) if member.device.name == kind)
    kept = [number for number in range(len(members)) if number != gone]
    links = {
        (kept.index(first), kept.index(second)): link
        for (first, second), link in scenario.cluster.links.items()
        if gone not in (first, second)
    }
    cluster = replace(scenario.cluster, devices=tuple(members[i] for i in kept), links=links)
    costs = LayerCosts(replace(scenario, cluster=cluster), task.costs.profiles)
    return replace(task, costs=costs)


def _tokens_per_s(task: PlanningTask, best: PlanScore) -> float | None:
    plan = integer_plan(task, best.plan.micro_batching)
    score = None if plan is None else score_plan(plan, task)
    return score.result.tokens_per_s if score and score.result else None
