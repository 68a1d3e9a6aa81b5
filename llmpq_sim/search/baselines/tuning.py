"""Best micro-batching of a partition, as a sensible user of a baseline would set it."""

from collections.abc import Sequence
from dataclasses import replace

from llmpq_sim.core.plan import Plan
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.deadline import check_time
from llmpq_sim.search.grid import micro_batching_grid
from llmpq_sim.search.scoring import fits, keeps_budget


def with_best_batching(plans: Sequence[Plan], screen: Screen) -> list[Plan]:
    """Return the plans, and each partition that keeps the budget with its fastest micro-batching.

    A rule that only splits layers says nothing of micro-batches, and LLM-PQ cuts them by the number
    of all devices even where a plan uses one. Every micro-batching of the search's grid is judged
    by the screen; the fastest that fits is added.

    Raises:
        OutOfTime: the search's time limit passed.
    """
    scenario = screen.task.costs.scenario
    grid = micro_batching_grid(scenario.workload.requests, len(scenario.cluster.devices))
    partitions = {plan.stages: plan for plan in plans if keeps_budget(plan, screen.task)}
    tuned = []
    for plan in partitions.values():
        timed = []
        for number, batching in enumerate(grid):
            check_time()
            variant = replace(plan, micro_batching=batching)
            timed.append((screen.makespan_s(variant), number, variant))
        by_time = (variant for _, _, variant in sorted(timed, key=lambda each: each[:2]))
        fastest = next((variant for variant in by_time if fits(variant, screen.task)), None)
        if fastest is not None:
            tuned.append(fastest)
    return [*plans, *tuned]
