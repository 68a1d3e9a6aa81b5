"""Construction of a plan from layers per device: the order of devices, and formats per layer."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise, permutations

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.cluster import Cluster
from llmpq_sim.core.plan import MicroBatching, Plan, Stage
from llmpq_sim.search.bound.problem import (
    BlockItem,
    BlockPlace,
    BoolArray,
    FloatArray,
    PlanningTask,
    Problem,
    build_problem,
    layer_item,
)
from llmpq_sim.search.bound.relaxation import solve_integrally
from llmpq_sim.search.bound.schedule_terms import EMBEDDING, LAYER

IntArray = NDArray[np.int64]

FORMAT_GAP = 1e-4
FORMAT_NODES = 2_000
"""Where HiGHS stops when it chooses the formats of a given partition."""

LINK_PROBE_BYTES = 1e6
MOST_PERMUTED = 6


def order_devices(cluster: Cluster, used: Sequence[int], first: int, last: int) -> list[int]:
    """Return the used devices from first to last so that the links between them are fast.

    Up to six devices in between are tried in every order; more are taken nearest first.
    """

    def length_s(order: Sequence[int]) -> float:
        return sum(cluster.link(a, b).transfer_s(LINK_PROBE_BYTES) for a, b in pairwise(order))

    if first == last:
        return [first]
    between = [device for device in used if device not in (first, last)]
    if len(between) <= MOST_PERMUTED:
        orders = ([first, *middle, last] for middle in permutations(between))
        return min(orders, key=length_s)
    order = [first]
    while between:
        nearest = min(between, key=lambda device: (length_s([order[-1], device]), device))
        between.remove(nearest)
        order.append(nearest)
    return [*order, last]


def stage_problem(
    task: PlanningTask, micro_batching: MicroBatching, order: Sequence[int], layers: Sequence[int]
) -> Problem:
    """Return the problem of choosing formats for a given pipeline.

    Args:
        task: what is planned.
        micro_batching: how the batch is cut.
        order: devices of the stages.
        layers: layers of each stage.
    """
    members = [task.costs.scenario.cluster.devices[device] for device in order]
    places = tuple(BlockPlace(member.name, member.device.name, 1) for member in members)
    free = build_problem(task, micro_batching, places, ends_apart=len(places) > 1)
    items: list[BlockItem] = []
    for number, (stop, count) in enumerate(zip(accumulate(layers), layers, strict=True)):
        items += _stage_items(task, places, number, range(stop - count, stop))
    for end in free.items:
        if end.block != LAYER:
            number = 0 if end.block == EMBEDDING else len(order) - 1
            items.append(replace(end, allowed=_only(end.allowed, number)))
    return replace(free, items=tuple(items))


def plan_of_formats(
    task: PlanningTask, problem: Problem, order: Sequence[int], blocks: FloatArray
) -> Plan:
    """Return the plan whose stages hold these blocks: whole numbers per item, place and format.

    Items are those of `stage_problem`. Within a stage the formats are arranged for the least loss.
    """
    cluster = task.costs.scenario.cluster
    stages, layer = [], 0
    for number, device in enumerate(order):
        counts = sum(
            blocks[index, number] for index, item in enumerate(problem.items) if item.block == LAYER
        )
        per_format = np.asarray(counts).astype(int).tolist()
        chosen = arrange_formats(task, per_format, layer)
        stages.append(Stage(cluster.devices[device].name, chosen))
        layer += len(chosen)
    return Plan(tuple(stages), problem.micro_batching)


def arrange_formats(task: PlanningTask, counts: Sequence[int], first_layer: int) -> tuple[str, ...]:
    """Return formats for consecutive layers, so many of each, with the least loss.

    Exact for any table: an assignment of layers to as many places of formats. Equal layers keep the
    most precise formats in front. A layer gets a format that breaks it only where there is no way
    around it.
    """
    names = sorted(task.formats, key=task.quality.uniform_loss)
    by_name = dict(zip(task.formats, counts, strict=True))
    ranked = [name for name in names for _ in range(int(by_name[name]))]
    stop = first_layer + len(ranked)
    losses = [task.quality.losses[name][first_layer:stop] for name in names]
    places = np.repeat(np.arange(len(names)), [int(by_name[name]) for name in names])
    chosen = _least_assignment(np.array(losses).T, places)
    return tuple(ranked[place] for place in chosen)


def _least_assignment(losses: FloatArray, places: IntArray) -> list[int]:
    """Return a place for each layer so that the sum of losses is least.

    Args:
        losses: of each layer in each format. Shape: (layers, formats).
        places: the format of each place. Shape: (layers,).
    """
    if (losses == losses[0]).all():
        return list(range(len(losses)))
    from scipy.optimize import linear_sum_assignment

    known = np.isfinite(losses)
    beyond = 1.0 + float(losses[known].sum())  # more than any arrangement of finite losses
    _, chosen = linear_sum_assignment(np.where(known, losses, beyond)[:, places])
    alike: dict[tuple[float, ...], list[int]] = {}
    for layer, of_layer in enumerate(losses.tolist()):
        alike.setdefault(tuple(of_layer), []).append(layer)
    ordered = [0] * len(losses)
    for layers in alike.values():
        for layer, place in zip(layers, sorted(chosen[layers].tolist()), strict=True):
            ordered[layer] = place
    return ordered


def best_formats(
    task: PlanningTask, micro_batching: MicroBatching, order: Sequence[int], layers: Sequence[int]
) -> Plan | None:
    """Return the plan with the best formats for a given partition, or None if none fits.

    Where layers differ, the budget may be kept in one direction of the pipeline only: the other is
    tried if this one has no plan.
    """
    for step in (1, -1):
        stages = order[::step]
        problem = stage_problem(task, micro_batching, stages, layers[::step])
        blocks = solve_integrally(problem, FORMAT_GAP, FORMAT_NODES)
        if blocks is not None:
            return plan_of_formats(task, problem, stages, blocks)
    return None


def _stage_items(
    task: PlanningTask, places: tuple[BlockPlace, ...], number: int, layers: range
) -> list[BlockItem]:
    """Return the layers of one stage, grouped by their losses and bound to it."""
    losses = [task.quality.losses[name] for name in task.formats]
    classes = Counter(tuple(format_losses[layer] for format_losses in losses) for layer in layers)
    items = [layer_item(task, places, loss, count) for loss, count in classes.items()]
    return [replace(item, allowed=_only(item.allowed, number)) for item in items]


def _only(allowed: BoolArray, place: int) -> BoolArray:
    kept = np.zeros_like(allowed)
    kept[place] = allowed[place]
    return kept
