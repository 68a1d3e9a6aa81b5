"""Seeds of the genetic search: branch and bound over the micro-batchings.

Micro-batchings are visited in the order of their bounds. One whose bound, tightened if need be,
is no better than the best plan so far is passed over; for the others the integer program and, for
the first few, the partition that the relaxation guides to are added.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.search.baselines.integer import integer_plan, single_device_plans
from llmpq_sim.search.bound.bound import Certificate, near, refined_entry
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.guided import guided_plan
from llmpq_sim.search.scoring import fits, keeps_budget

GUIDED = 2
"""Micro-batchings for which the relaxation guides a search of partitions."""

MOST_PROGRAMS = 60
"""Integer programs solved, at most, once there is a plan."""


FRONT_MICRO_BATCHINGS = 3
BUDGET_SHARES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
"""Shares of the quality budget for which a front is seeded; few bits cost little at first."""


@dataclass
class Seeds:
    """Plans to start from, and what was proven on the way.

    Attributes:
        certificate: bounds, tightened where that saved an integer program.
        plans: feasible plans.
        best_s: the shortest closed-form makespan of the plans; infinite where there is none.
    """

    certificate: Certificate
    plans: list[Plan] = field(default_factory=list)
    best_s: float = float("inf")

    def add(self, plan: Plan, screen: Screen) -> None:
        """Add a plan if it is feasible."""
        if fits(plan, screen.task) and keeps_budget(plan, screen.task):
            self.plans.append(plan)
            self.best_s = min(self.best_s, screen.makespan_s(plan))


def seek_seeds(
    seeds: Seeds,
    screen: Screen,
    has_time: Callable[[], bool],
    on_progress: Callable[[int, int], None],
) -> None:
    """Add plans to the seeds until no micro-batching can hold a better one.

    It stops early where time or the allowance of integer programs ends, but not before there is a
    plan, or nothing left to try.
    """
    visited: set[MicroBatching] = set()
    programs = 0
    while True:
        cuts = _next(seeds, visited)
        if cuts is None or (seeds.plans and not (programs < MOST_PROGRAMS and has_time())):
            return
        visited.add(cuts)
        on_progress(len(visited), len(seeds.certificate.feasible))
        if seeds.plans and not _may_be_better(seeds, cuts, screen):
            continue
        programs += 1
        for plan in _plans(cuts, screen, guided=programs <= GUIDED):
            seeds.add(plan, screen)


def seek_front(seeds: Seeds, screen: Screen, on_progress: Callable[[int, int], None]) -> None:
    """Add plans with smaller quality losses, for the micro-batchings of the fastest seeds."""
    fastest = sorted(seeds.plans, key=screen.makespan_s)
    cuts_tried = list(dict.fromkeys(plan.micro_batching for plan in fastest))[
        :FRONT_MICRO_BATCHINGS
    ]
    steps = [(cuts, share) for cuts in cuts_tried for share in BUDGET_SHARES]
    for number, (cuts, share) in enumerate(steps):
        on_progress(number, len(steps))
        plan = integer_plan(replace(screen.task, budget=screen.task.budget * share), cuts)
        if plan is not None:
            seeds.add(plan, screen)


def _next(seeds: Seeds, visited: set[MicroBatching]) -> MicroBatching | None:
    """Return the micro-batching with the lowest bound not visited, if that may be better."""
    entries = seeds.certificate.entries
    waiting = [cuts for cuts in seeds.certificate.promising() if cuts not in visited]
    if not waiting or entries[waiting[0]].bound_s >= near(seeds.best_s):
        return None
    return waiting[0]


def _may_be_better(seeds: Seeds, cuts: MicroBatching, screen: Screen) -> bool:
    """Tighten the bound of a micro-batching; say whether a better plan may still have it."""
    entry = refined_entry(seeds.certificate.entries[cuts], screen.problem(cuts), seeds.best_s)
    seeds.certificate.entries[cuts] = entry
    return entry.bound_s < near(seeds.best_s)


def _plans(cuts: MicroBatching, screen: Screen, *, guided: bool) -> list[Plan]:
    found: list[Plan | None] = [integer_plan(screen.task, cuts)]
    if guided:
        found.append(guided_plan(screen.task, cuts))
    if not screen.problem(cuts).ends_apart:
        found += single_device_plans(screen.task, cuts)
    return [plan for plan in found if plan is not None]
