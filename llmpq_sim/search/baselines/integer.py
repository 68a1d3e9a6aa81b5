"""LLM-PQ's integer program: devices, layers and formats at once, solved by HiGHS.

Where layers cost alike, whole numbers of layers per device and format say as much as LLM-PQ's
binary ``z[layer, device, bits]``, and contiguity is free: the numbers are laid out one device after
the other. Where they are of several kinds, what a device holds of each must be what some run of
layers has; where the kinds are many, the cuts of the pipeline are chosen instead (`cuts`). Where
layers lose differently, the program counts an average layer. In both cases a second program chooses
the formats of the partition found, layer by layer; if that fails, the program is solved once more
with every layer's own losses. In large clusters, groups of like devices hold the same, as
`device_groups` says. Neighbouring layers may be bound together, as LLM-PQ does to shrink its
program. The objective is LLM-PQ's (arXiv:2403.01136, sec. 4) with its decode term corrected, as in
`certificate`.
"""

from dataclasses import replace
from typing import Literal

import numpy as np

from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.search.bound.problem import (
    BlockItem,
    FloatArray,
    PlanningTask,
    Problem,
    build_problem,
    device_groups,
    group_places,
)
from llmpq_sim.search.bound.relaxation import solve_integrally
from llmpq_sim.search.bound.schedule_terms import EMBEDDING, HEAD, TERMS
from llmpq_sim.search.construction import (
    best_formats,
    order_devices,
    plan_of_formats,
    stage_problem,
)
from llmpq_sim.search.cuts import plan_of_cuts, relaxed_devices

PROGRAM_GAP = 1e-3
PROGRAM_NODES = 1_000
"""Where HiGHS stops."""

MOST_KINDS = 3
"""Kinds of layer up to which the program counts layers of each; of more, it chooses cuts."""


def integer_plan(
    task: PlanningTask,
    micro_batching: MicroBatching,
    minimise: Literal["makespan", "loss"] = "makespan",
    group_layers: int = 1,
) -> Plan | None:
    """Return the plan of the integer program for one micro-batching, or None if nothing fits.

    Args:
        task: what is planned.
        micro_batching: how the batch is cut.
        minimise: the makespan within the loss budget, or the loss whatever the makespan.
        group_layers: neighbouring layers that share device and format; a divisor of the model's
            layers. Where layers lose differently they share the device alone; layers of several
            kinds are not grouped.
    """
    kinds = len(task.costs.scenario.model.kinds)
    if kinds > MOST_KINDS:
        return _cut_plan(task, micro_batching, minimise)
    apart = len(task.costs.scenario.cluster.devices) > 1
    free = build_problem(task, micro_batching, group_places(task), ends_apart=apart)
    if kinds > 1:
        group_layers = 1
    for problem in [averaged(free), free][: 1 + (layers_differ(task) and group_layers == 1)]:
        blocks = solve_integrally(
            in_groups(problem, group_layers),
            PROGRAM_GAP,
            PROGRAM_NODES,
            as_pipeline=apart,
            minimise=minimise,
        )
        if blocks is None:
            continue
        blocks[:EMBEDDING] *= group_layers
        plan = _laid_out(task, micro_batching, blocks)
        if plan is not None:
            return plan
    return None


def _cut_plan(
    task: PlanningTask, micro_batching: MicroBatching, minimise: Literal["makespan", "loss"]
) -> Plan | None:
    """Return the plan of the best cuts of the devices that the relaxation uses, in its order."""
    relaxed = relaxed_devices(task, micro_batching)
    if relaxed is None:
        return None
    return plan_of_cuts(task, micro_batching, relaxed[0], by_loss=minimise == "loss")


def single_device_plans(task: PlanningTask, micro_batching: MicroBatching) -> list[Plan]:
    """Return, for each kind of device that can hold the model alone, its best plan."""
    cluster, layers = task.costs.scenario.cluster, task.costs.scenario.model.layers
    first_of_kind: dict[str, int] = {}
    for number, member in enumerate(cluster.devices):
        first_of_kind.setdefault(member.device.name, number)
    plans = [
        best_formats(task, micro_batching, [number], [layers]) for number in first_of_kind.values()
    ]
    return [plan for plan in plans if plan is not None]


def layers_differ(task: PlanningTask) -> bool:
    """Return whether some layers cost or lose more than others in the same format."""
    of_kinds = len(task.costs.scenario.model.kinds) > 1
    return of_kinds or any(len(set(task.quality.losses[name])) > 1 for name in task.formats)


def averaged(problem: Problem) -> Problem:
    """Return the problem with all layers of a kind alike, each losing the mean."""
    of_kinds: dict[int, list[BlockItem]] = {}
    for item in problem.items:
        if item.is_layer:
            of_kinds.setdefault(item.block, []).append(item)
    ends = [item for item in problem.items if not item.is_layer]
    return replace(problem, items=(*map(_average, of_kinds.values()), *ends))


def _average(alike: list[BlockItem]) -> BlockItem:
    """Return the layers of one kind as one item."""
    count = sum(item.count for item in alike)
    loss = np.asarray(sum(item.count * item.loss for item in alike)) / count
    allowed = np.any([item.allowed for item in alike], axis=0)
    return BlockItem(alike[0].block, count, loss, allowed)


def in_groups(problem: Problem, group_layers: int) -> Problem:
    """Return the problem in which so many layers are one block, with their bytes, times and loss.

    The layers of each item must make whole blocks.
    """
    factor = np.ones((len(problem.block_bytes), 1))
    factor[:EMBEDDING] = group_layers
    items = tuple(
        replace(item, count=item.count // group_layers, loss=item.loss * group_layers)
        if item.is_layer
        else item
        for item in problem.items
    )
    waves = tuple(
        replace(terms, **{name: getattr(terms, name) * factor[:, None] for name in TERMS})
        for terms in problem.waves
    )
    return replace(problem, items=items, waves=waves, block_bytes=problem.block_bytes * factor)


def _laid_out(task: PlanningTask, micro_batching: MicroBatching, blocks: FloatArray) -> Plan | None:
    """Return the plan with these layers per device and format, in an order with fast links."""
    blocks = _per_device(task, blocks)
    per_device = blocks[:EMBEDDING].sum(axis=(0, 2)).astype(int)
    used = [int(device) for device in np.flatnonzero(per_device)]
    first = int(blocks[EMBEDDING].sum(axis=1).argmax())
    last = int(blocks[HEAD].sum(axis=1).argmax())
    order = order_devices(task.costs.scenario.cluster, used, first, last)
    layers = [int(per_device[device]) for device in order]
    if layers_differ(task):
        return best_formats(task, micro_batching, order, layers)
    staged = stage_problem(task, micro_batching, order, layers)
    placed = np.zeros((len(staged.items), len(order), len(task.formats)))
    for index, item in enumerate(staged.items):
        if item.is_layer:
            number = int(np.flatnonzero(item.allowed.any(axis=1))[0])
            placed[index, number] = blocks[0, order[number]]
    return plan_of_formats(task, staged, order, placed)


def _per_device(task: PlanningTask, blocks: FloatArray) -> FloatArray:
    """Return the blocks of each device, given those of each group of devices loaded alike."""
    groups = device_groups(task)
    divided = np.zeros((len(blocks), sum(len(group) for group in groups), blocks.shape[2]))
    for number, group in enumerate(groups):
        divided[:, list(group)] = blocks[:, [number]] / len(group)
    return divided
