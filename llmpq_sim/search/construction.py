"""Construction of a plan from layers per device: the order of devices, and formats per layer."""

from collections import Counter
from collections.abc import Mapping, Sequence
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
    layer_items,
)
from llmpq_sim.search.bound.relaxation import solve_integrally
from llmpq_sim.search.bound.schedule_terms import EMBEDDING

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
        if not end.is_layer:
            number = 0 if end.block == EMBEDDING else len(order) - 1
            items.append(replace(end, allowed=_only(end.allowed, number)))
    return replace(free, items=tuple(items), is_partition=True)


def plan_of_formats(
    task: PlanningTask, problem: Problem, order: Sequence[int], blocks: FloatArray
) -> Plan:
    """Return the plan whose stages hold these blocks: whole numbers per item, place and format.

    Items are those of `stage_problem`. Within a stage the formats are arranged for the least loss.
    """
    cluster = task.costs.scenario.cluster
    stages, first = [], 0
    for number, device in enumerate(order):
        counts: dict[int, FloatArray] = {}
        for index, item in enumerate(problem.items):
            if item.is_layer:
                counts[item.block] = counts.get(item.block, 0.0) + blocks[index, number]
        of_kinds = {kind: each.round().astype(int).tolist() for kind, each in counts.items()}
        chosen = arrange_formats(task, of_kinds, first)
        stages.append(Stage(cluster.devices[device].name, chosen))
        first += len(chosen)
    return Plan(tuple(stages), problem.micro_batching)


def counts_of_kinds(
    task: PlanningTask, formats: Sequence[str], first_layer: int
) -> dict[int, list[int]]:
    """Return how many of some consecutive layers have which format, for each kind of layer."""
    kinds = task.costs.scenario.model.kind_of_layer[first_layer : first_layer + len(formats)]
    held = Counter(zip(kinds, formats, strict=True))
    return {kind: [held[kind, name] for name in task.formats] for kind in dict.fromkeys(kinds)}


def arrange_formats(
    task: PlanningTask, counts: Mapping[int, Sequence[int]], first_layer: int
) -> tuple[str, ...]:
    """Return formats for consecutive layers with the least loss, so many of each kind in each.

    Args:
        task: what is planned.
        counts: for each kind of layer, how many of its layers have each of the task's formats.
        first_layer: the first of the layers.
    """
    stop = first_layer + sum(map(sum, counts.values()))
    kinds = task.costs.scenario.model.kind_of_layer[first_layer:stop]
    arranged = dict.fromkeys(range(first_layer, stop), "")
    for kind, of_kind in counts.items():
        layers = [layer for layer, other in zip(arranged, kinds, strict=True) if other == kind]
        arranged.update(zip(layers, arrange_layers(task, of_kind, layers), strict=True))
    return tuple(arranged.values())


def arrange_layers(
    task: PlanningTask, counts: Sequence[int], layers: Sequence[int]
) -> tuple[str, ...]:
    """Return formats for some layers, so many of each, with the least loss.

    Exact for any table: an assignment of layers to as many places of formats. Equal layers keep the
    most precise formats in front. A layer gets a format that breaks it only where there is no way
    around it.
    """
    names = sorted(task.formats, key=task.quality.uniform_loss)
    by_name = dict(zip(task.formats, counts, strict=True))
    places = np.repeat(np.arange(len(names)), [int(by_name[name]) for name in names])
    if not len(places):
        return ()
    losses = np.array([task.quality.losses[name] for name in names])[:, list(layers)].T
    return tuple(names[places[place]] for place in _least_assignment(losses, places))


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
    """Return the layers of one stage, grouped by kind and losses and bound to it."""
    items = layer_items(task, places, layers)
    return [replace(item, allowed=_only(item.allowed, number)) for item in items]


def _only(allowed: BoolArray, place: int) -> BoolArray:
    kept = np.zeros_like(allowed)
    kept[place] = allowed[place]
    return kept
