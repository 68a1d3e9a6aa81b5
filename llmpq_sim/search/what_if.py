"""What-if: the same search with one device less."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.search.baselines.integer import integer_plan
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.deadline import check_time
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


def without_one(task: PlanningTask, best: PlanScore) -> Iterator[WhatIf]:
    """Yield, for each kind of device, the throughput with one of them less.

    Where the best plan leaves one of the kind out, it is still the plan; otherwise it is the
    integer program's for the same micro-batches, so a search on the smaller cluster may do better.

    Raises:
        OutOfTime: the search's time limit passed.
    """
    members = task.costs.scenario.cluster.devices
    if len(members) == 1:
        return
    for kind in dict.fromkeys(member.device.name for member in members):
        check_time()
        yield WhatIf(f"without one {kind}", _tokens_per_s(task, kind, best))


def _tokens_per_s(task: PlanningTask, kind: str, best: PlanScore) -> float | None:
    used = {stage.device for stage in best.plan.stages}
    numbers = [
        number
        for number, member in enumerate(task.costs.scenario.cluster.devices)
        if member.device.name == kind
    ]
    if any(task.costs.scenario.cluster.devices[number].name not in used for number in numbers):
        return best.result.tokens_per_s if best.result else None
    smaller = _without(task, numbers[-1])
    plan = integer_plan(smaller, best.plan.micro_batching)
    score = None if plan is None else score_plan(plan, smaller)
    return score.result.tokens_per_s if score and score.result else None


def _without(task: PlanningTask, gone: int) -> PlanningTask:
    """Return the task on a cluster that lacks one device."""
    scenario = task.costs.scenario
    members = scenario.cluster.devices
    kept = [number for number in range(len(members)) if number != gone]
    links = {
        (kept.index(first), kept.index(second)): link
        for (first, second), link in scenario.cluster.links.items()
        if gone not in (first, second)
    }
    cluster = replace(scenario.cluster, devices=tuple(members[i] for i in kept), links=links)
    costs = LayerCosts(replace(scenario, cluster=cluster), task.costs.profiles)
    return replace(task, costs=costs)
