"""Best micro-batching of a partition, as a sensible user of a baseline would set it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.search.bound.feasibility import task_grid
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.deadline import check_time
from llmpq_sim.search.scoring import fits, keeps_budget


def with_best_batching(
    plans: Sequence[Plan], screen: Screen, floors_s: Mapping[MicroBatching, float]
) -> list[Plan]:
    """Return the plans, and the fastest of their partitions under any micro-batching that fits.

    A rule that only splits layers says nothing of micro-batches, and LLM-PQ cuts them by the number
    of all devices even where a plan uses one. Every micro-batching of the search's grid is judged
    by the screen, except where no plan at all could be faster than the best so far.

    Args:
        plans: what a baseline would choose from.
        screen: judges plans.
        floors_s: makespans that no plan with a micro-batching is below, where they are known.

    Raises:
        OutOfTime: the search's time limit passed.
    """
    by_floor = sorted(task_grid(screen.task), key=lambda batching: floors_s.get(batching, 0.0))
    kept = [plan for plan in plans if keeps_budget(plan, screen.task)]
    fitting = [screen.makespan_s(plan) for plan in kept if fits(plan, screen.task)]
    best_s = min(fitting, default=float("inf"))
    tuned: list[Plan] = []
    for plan in {plan.stages: plan for plan in kept}.values():
        for batching in by_floor:
            check_time()
            if floors_s.get(batching, 0.0) >= best_s:
                break
            variant = replace(plan, micro_batching=batching)
            makespan_s = screen.makespan_s(variant)
            if makespan_s < best_s and fits(variant, screen.task):
                best_s, tuned = makespan_s, [variant]
    return [*plans, *tuned]
