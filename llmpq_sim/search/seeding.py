"""Seeds of the genetic search: branch and bound over the micro-batchings.

Micro-batchings are visited in the order of their bounds. One whose bound, tightened if need be,
is no better than the best plan so far is passed over; for the others the integer program and, for
the first few, the partition that the relaxation guides to are added: its layers per device rounded
by largest remainder, then moves of 1, 2 or 4 layers between any two stages, each partition judged
by the linear program over its formats, and last the integer program over the formats of the best.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.search.baselines.integer import integer_plan, single_device_plans
from llmpq_sim.search.baselines.simple import quick_plans
from llmpq_sim.search.bound.bound import Certificate, first_certificate, near, refined_entry
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.relaxation import relax
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.construction import best_formats, stage_problem
from llmpq_sim.search.cuts import device_orders, plan_of_cuts, relaxed_devices
from llmpq_sim.search.deadline import check_time, without_time_limit
from llmpq_sim.search.scoring import fits, keeps_budget

GUIDED = 2
"""Micro-batchings for which the relaxation guides a search of partitions."""

MOST_PROGRAMS = 60
"""Integer programs solved, at most, once there is a plan."""

STEPS = (4, 2, 1)
"""Layers moved from one stage to another."""

MOST_PARTITIONS = 120
"""Partitions judged for one micro-batching, at most."""

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
    on_progress: Callable[[int, int], None],
) -> None:
    """Add plans to the seeds until no micro-batching can hold a better one.

    It stops early where time or the allowance of integer programs ends; the latter not before
    there is a plan, or nothing left to try.

    Raises:
        OutOfTime: the time limit passed; what was found until then is in the seeds.
    """
    visited: set[MicroBatching] = set()
    programs = 0
    while True:
        batching = _next(seeds, visited)
        if batching is None or (seeds.plans and programs >= MOST_PROGRAMS):
            return
        check_time()
        visited.add(batching)
        on_progress(len(visited), len(seeds.certificate.feasible))
        if seeds.plans and not _may_be_better(seeds, batching, screen):
            continue
        programs += 1
        for plan in _plans(batching, screen, guided=programs <= GUIDED):
            seeds.add(plan, screen)


def seek_any(seeds: Seeds, screen: Screen, grid: list[MicroBatching]) -> None:
    """Add a plan whatever time it takes: of the quickest baselines, or of an integer program.

    Programs are tried from the largest micro-batches for which memory has room down to the
    smallest, in few steps; where none has a plan, all micro-batchings that may have one are tried.
    """
    with without_time_limit():
        quick = list(quick_plans(screen.task))
        if quick:
            seeds.add(min(quick, key=screen.makespan_s), screen)
            return
        for batching in _with_room(screen, grid):
            _add_integer_plan(seeds, batching, screen)
            if seeds.plans:
                return
        if seeds.certificate.unproven:
            seeds.certificate = first_certificate(screen, grid, lambda _done, _total: None)
        for batching in seeds.certificate.promising():
            _add_integer_plan(seeds, batching, screen)
            if seeds.plans:
                return


def _with_room(screen: Screen, grid: list[MicroBatching]) -> Iterator[MicroBatching]:
    """Yield ever smaller micro-batchings, from the largest for which whole layers have room."""
    workload = screen.task.costs.scenario.workload

    def needed(batching: MicroBatching) -> tuple[int, int]:
        chunk_tokens = batching.chunks(workload.prompt_tokens)[0]
        return batching.wave_rows(workload.requests), batching.prefill * chunk_tokens

    by_room = sorted(grid, key=needed)
    number = bisect_left(
        by_room, True, key=lambda batching: not screen.problem(batching).holds_whole_layers
    )
    while number > 0:
        yield by_room[number - 1]
        number = number * 3 // 4


def _add_integer_plan(seeds: Seeds, batching: MicroBatching, screen: Screen) -> None:
    for plan in _plans(batching, screen, guided=False):
        seeds.add(plan, screen)


def seek_front(seeds: Seeds, screen: Screen, on_progress: Callable[[int, int], None]) -> None:
    """Add plans with smaller quality losses, for the micro-batchings of the fastest seeds."""
    fastest = sorted(seeds.plans, key=screen.makespan_s)
    batchings_tried = list(dict.fromkeys(plan.micro_batching for plan in fastest))[
        :FRONT_MICRO_BATCHINGS
    ]
    steps = [(batching, share) for batching in batchings_tried for share in BUDGET_SHARES]
    for number, (batching, share) in enumerate(steps):
        on_progress(number, len(steps))
        check_time()
        plan = integer_plan(replace(screen.task, budget=screen.task.budget * share), batching)
        if plan is not None:
            seeds.add(plan, screen)


def _next(seeds: Seeds, visited: set[MicroBatching]) -> MicroBatching | None:
    """Return the micro-batching with the lowest bound not visited, if that may be better."""
    entries = seeds.certificate.entries
    waiting = [batching for batching in seeds.certificate.promising() if batching not in visited]
    if not waiting or entries[waiting[0]].bound_s >= near(seeds.best_s):
        return None
    return waiting[0]


def _may_be_better(seeds: Seeds, batching: MicroBatching, screen: Screen) -> bool:
    """Tighten the bound of a micro-batching; say whether a better plan may still have it."""
    entry = refined_entry(
        seeds.certificate.entries[batching], screen.problem(batching), seeds.best_s
    )
    seeds.certificate.entries[batching] = entry
    return entry.bound_s < near(seeds.best_s)


def _plans(batching: MicroBatching, screen: Screen, *, guided: bool) -> list[Plan]:
    found: list[Plan | None] = [integer_plan(screen.task, batching)]
    if guided:
        found.append(guided_plan(screen.task, batching))
        if len(screen.task.costs.scenario.model.kinds) > 1:
            found += cut_plans(screen.task, batching)
    if not screen.problem(batching).ends_apart:
        found += single_device_plans(screen.task, batching)
    return [plan for plan in found if plan is not None]


def guided_plan(task: PlanningTask, micro_batching: MicroBatching) -> Plan | None:
    """Return the plan that the relaxation leads to, or None if it leads to none."""
    relaxed = relaxed_devices(task, micro_batching)
    if relaxed is None:
        return None
    order, layers = relaxed
    layers = _climb(task, micro_batching, order, layers)
    kept = [number for number, count in enumerate(layers) if count]
    return best_formats(task, micro_batching, [order[n] for n in kept], [layers[n] for n in kept])


def cut_plans(task: PlanningTask, micro_batching: MicroBatching) -> list[Plan]:
    """Return the plan of the best cuts for each order of devices, where those are few."""
    plans = []
    for order in device_orders(task):
        check_time()
        plans.append(plan_of_cuts(task, micro_batching, order))
    return [plan for plan in plans if plan is not None]


def _climb(
    task: PlanningTask, micro_batching: MicroBatching, order: Sequence[int], layers: list[int]
) -> list[int]:
    """Move layers between stages while the relaxed makespan of the partition falls."""
    judged: dict[tuple[int, ...], float] = {}

    def judge(counts: list[int]) -> float:
        key = tuple(counts)
        if key not in judged:
            judged[key] = relax(stage_problem(task, micro_batching, order, counts)).bound_s
        return judged[key]

    best_s = judge(layers)
    improved = True
    while improved and len(judged) < MOST_PARTITIONS:
        improved = False
        for moved in _moves(layers):
            if judge(moved) < best_s * (1 - 1e-7):
                layers, best_s, improved = moved, judge(moved), True
                break
            if len(judged) >= MOST_PARTITIONS:
                break
    return layers


def _moves(layers: list[int]) -> list[list[int]]:
    """Return the partitions one move away; every stage keeps a layer."""
    moves = []
    for step in STEPS:
        for giver in range(len(layers)):
            for taker in range(len(layers)):
                if giver != taker and layers[giver] > step:
                    moved = list(layers)
                    moved[giver] -= step
                    moved[taker] += step
                    moves.append(moved)
    return moves
