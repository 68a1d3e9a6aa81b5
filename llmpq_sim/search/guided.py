"""Search for partitions guided by the linear relaxation, where its solution is rounded.

Layers per device from the relaxation, rounded by largest remainder; then moves of 1, 2 or 4 layers
between any two stages, each partition judged by the linear program over its formats; last, the
integer program over the formats of the best partition found.
"""

from collections.abc import Sequence

import numpy as np

from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.search.bound.problem import Place, PlanningTask, Problem, build_problem
from llmpq_sim.search.bound.relaxation import Relaxation, relax
from llmpq_sim.search.bound.wave_terms import EMBEDDING, HEAD, LAYER
from llmpq_sim.search.construction import best_formats, order_devices, stage_problem

STEPS = (4, 2, 1)

MOST_PARTITIONS = 120
"""Partitions judged for one micro-batching, at most."""


def guided_plan(task: PlanningTask, micro_batching: MicroBatching) -> Plan | None:
    """Return the plan that the relaxation leads to, or None if it leads to none."""
    members = task.costs.scenario.cluster.devices
    places = tuple(Place(member.name, member.device.name, 1) for member in members)
    problem = build_problem(task, micro_batching, places, ends_apart=len(places) > 1)
    relaxed = relax(problem)
    if not relaxed.is_feasible:
        return None
    order, layers = _rounded(task, problem, relaxed)
    layers = _climb(task, micro_batching, order, layers)
    kept = [number for number, count in enumerate(layers) if count]
    return best_formats(task, micro_batching, [order[n] for n in kept], [layers[n] for n in kept])


def _rounded(
    task: PlanningTask, problem: Problem, relaxed: Relaxation
) -> tuple[list[int], list[int]]:
    """Return devices in order and whole layers for each, by largest remainder."""
    per_place = {block: np.zeros(len(problem.places)) for block in (LAYER, EMBEDDING, HEAD)}
    for item, blocks in zip(problem.items, relaxed.blocks, strict=True):
        per_place[item.block] += blocks.sum(axis=1)
    exact = per_place[LAYER]
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
