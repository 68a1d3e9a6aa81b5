"""Cuts of a pipeline: by the relaxation, or by an integer program for layers of many kinds.

In the integer program the devices stand in a given order. For each but the last there is one
choice, the layer behind its last one; how many layers of each kind a device holds follows, and
formats are shared between them in any parts. So the few choices are all that is whole, and the runs
of layers are true ones.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, permutations
from math import factorial, prod

import numpy as np

from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.search.bound.problem import (
    BlockPlace,
    FloatArray,
    PlanningTask,
    Problem,
    build_problem,
)
from llmpq_sim.search.bound.program import Program
from llmpq_sim.search.bound.relaxation import LIMITED, Relaxation, relax
from llmpq_sim.search.bound.schedule_terms import EMBEDDING, HEAD
from llmpq_sim.search.construction import best_formats, order_devices
from llmpq_sim.search.deadline import check_time, solver_options

CUTS_GAP = 2e-3
CUTS_NODES = 400
"""Where HiGHS stops."""

MOST_ORDERS = 12
"""Orders of kinds of device that are all tried."""


def best_cuts(
    task: PlanningTask, micro_batching: MicroBatching, order: Sequence[int], *, by_loss: bool
) -> list[int] | None:
    """Return how many layers each device holds, 0 for some between the ends; None if nothing fits.

    Args:
        task: what is planned.
        micro_batching: how the batch is cut.
        order: devices of the pipeline.
        by_loss: whether the loss is to be least whatever the makespan, or the makespan within the
            budget.

    Raises:
        OutOfTime: the search's time limit passed before there was a solution.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    layers = task.costs.scenario.model.layers
    if len(order) == 1:
        return [layers]
    program = Program(_ordered(task, micro_batching, order))
    choices = (len(order) - 1) * (layers + 1)
    columns = program.columns + choices
    upper = np.zeros((len(program.upper), columns))
    upper[:, : program.columns] = program.upper
    equal, value = _cut_rows(program, len(order))
    least, most = np.zeros(columns), np.ones(columns)
    most[: program.columns] = program.bounds[:, 1]
    most[program.columns - len(program.problem.items) : program.columns] = 0.0
    most[program.columns] = most[-1] = 0.0  # both ends hold a layer
    objective = np.zeros(columns)
    objective[: program.columns] = program.losses if by_loss else program.objective
    solved = milp(
        objective,
        integrality=np.arange(columns) >= program.columns,
        bounds=Bounds(least, most),
        constraints=[
            LinearConstraint(upper, -np.inf, program.upper_limit),
            LinearConstraint(equal, value, value),
        ],
        options={"mip_rel_gap": CUTS_GAP, "node_limit": CUTS_NODES, **solver_options()},
    )
    if solved.x is None:
        if solved.status == LIMITED:
            check_time()
        return None
    chosen = solved.x[program.columns :].reshape(len(order) - 1, layers + 1).argmax(axis=1)
    return [stop - start for start, stop in pairwise([0, *chosen.tolist(), layers])]


def plan_of_cuts(
    task: PlanningTask,
    micro_batching: MicroBatching,
    order: Sequence[int],
    *,
    by_loss: bool = False,
) -> Plan | None:
    """Return the plan with the best cuts for an order of devices, or None if nothing fits.

    Arguments: see `best_cuts`.
    """
    layers = best_cuts(task, micro_batching, order, by_loss=by_loss)
    if layers is None:
        return None
    kept = [number for number, count in enumerate(layers) if count]
    return best_formats(task, micro_batching, [order[n] for n in kept], [layers[n] for n in kept])


def relaxed_devices(
    task: PlanningTask, micro_batching: MicroBatching
) -> tuple[list[int], list[int]] | None:
    """Return devices in order and layers of each that the relaxation leads to, if it has any."""
    members = task.costs.scenario.cluster.devices
    places = tuple(BlockPlace(member.name, member.device.name, 1) for member in members)
    problem = build_problem(task, micro_batching, places, ends_apart=len(places) > 1)
    relaxed = relax(problem)
    return _rounded(task, problem, relaxed) if relaxed.is_feasible else None


def _rounded(
    task: PlanningTask, problem: Problem, relaxed: Relaxation
) -> tuple[list[int], list[int]]:
    """Return devices in order and whole layers for each, by largest remainder."""
    exact = np.zeros(len(problem.places))
    per_place = {}
    for item, blocks in zip(problem.items, relaxed.blocks, strict=True):
        if item.is_layer:
            exact += blocks.sum(axis=1)
        else:
            per_place[item.block] = blocks.sum(axis=1)
    layers = np.floor(exact + 1e-9).astype(int)
    missing = task.costs.scenario.model.layers - int(layers.sum())
    for device in np.argsort(layers - exact, kind="stable")[:missing]:
        layers[device] += 1
    used = [int(device) for device in np.flatnonzero(layers)]
    first = max(used, key=lambda device: (per_place[EMBEDDING][device], -device))
    others = [device for device in used if device != first] or [first]
    last = max(others, key=lambda device: (per_place[HEAD][device], -device))
    order = order_devices(task.costs.scenario.cluster, used, first, last)
    return order, [int(layers[device]) for device in order]


def device_orders(task: PlanningTask) -> list[tuple[int, ...]]:
    """Return orders of all devices, one for each order of their kinds; none if these are many."""
    kinds = [member.device.name for member in task.costs.scenario.cluster.devices]
    counts = Counter(kinds)
    if factorial(len(kinds)) // prod(map(factorial, counts.values())) > MOST_ORDERS:
        return []
    orders: dict[tuple[str, ...], tuple[int, ...]] = {}
    for order in permutations(range(len(kinds))):
        orders.setdefault(tuple(kinds[device] for device in order), order)
    return list(orders.values())


def _ordered(task: PlanningTask, micro_batching: MicroBatching, order: Sequence[int]) -> Problem:
    """Return the problem whose places are the devices in order, the ends where they belong."""
    members = [task.costs.scenario.cluster.devices[device] for device in order]
    places = tuple(BlockPlace(member.name, member.device.name, 1) for member in members)
    problem = build_problem(task, micro_batching, places, ends_apart=True)
    items = []
    for item in problem.items:
        allowed = item.allowed.copy()
        if not item.is_layer:
            kept = 0 if item.block == EMBEDDING else len(order) - 1
            allowed[np.arange(len(order)) != kept] = False
        items.append(replace(item, allowed=allowed))
    return replace(problem, items=tuple(items), is_partition=True)


def _cut_rows(program: Program, stages: int) -> tuple[FloatArray, FloatArray]:
    """Return the rows of counts, of one choice a cut, and of what the devices hold by the cuts."""
    problem = program.problem
    kinds = np.array(problem.kind_of_layer)
    numbers = [number for number, item in enumerate(problem.items) if item.is_layer]
    layers, of_kinds = len(kinds), sorted(set(problem.kind_of_layer))
    cuts = np.zeros((stages - 1, program.columns + (stages - 1) * (layers + 1)))
    for cut in range(stages - 1):
        first = program.columns + cut * (layers + 1)
        cuts[cut, first : first + layers + 1] = 1.0
    held = np.zeros((stages * len(of_kinds), cuts.shape[1]))
    sums = np.zeros(len(held))
    for row, (stage, kind) in enumerate((s, k) for s in range(stages) for k in of_kinds):
        before = np.concatenate([[0], np.cumsum(kinds == kind)])
        blocks = held[row, : program.block_count].reshape(program.shape)
        for number in numbers:
            if problem.items[number].block == kind:
                blocks[number, stage] = 1.0
        for cut, sign in ((stage, -1.0), (stage - 1, 1.0)):
            first = program.columns + cut * (layers + 1)
            if 0 <= cut < stages - 1:
                held[row, first : first + layers + 1] = sign * before
        sums[row] = before[-1] if stage == stages - 1 else 0.0
    counting = np.zeros((len(program.equal), cuts.shape[1]))
    counting[:, : program.columns] = program.equal
    equal = np.concatenate([counting, cuts, held])
    return equal, np.concatenate([program.equal_value, np.ones(stages - 1), sums])
