"""PipeEdge's partition: the contiguous split whose slowest decode stage is fastest.

PipeEdge's dynamic program has a state for each multiset of devices, of which large clusters have
too many. Where layers are alike and every hop costs the same, a slowest time is possible if the
devices, each as full as that time and its memory allow, hold all layers; the least such time is
found by bisection among the times that stages can take.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.memory import (
    available_bytes,
    ends_bytes,
    layer_cache_bytes,
    layer_weight_bytes,
    logits_bytes,
)
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.search.bound.problem import PlanningTask, kinds_of
from llmpq_sim.search.deadline import check_time
from llmpq_sim.simulator.static.simulate import HIDDEN_BYTES

Used = tuple[int, ...]
_Role = tuple[bool, bool]
_Times = dict[_Role, list[float]]

ROLES: tuple[_Role, ...] = ((False, False), (False, True), (True, False), (True, True))
"""Whether a stage is the first, and whether it is the last."""

MOST_MULTISETS = 256
"""Multisets of devices up to which PipeEdge's own dynamic program is run."""


@dataclass(frozen=True)
class _Step:
    """A best way to have placed some layers: its slowest stage, and its last stage."""

    slowest_s: float
    kind: int
    layers: int


def pipeedge_layers(
    task: PlanningTask, batching: MicroBatching, format_name: str
) -> tuple[list[int], list[int]] | None:
    """Return devices in order and the layers of each, or None if nothing fits.

    A stage costs the larger of its decode time and the transfer to the next; prefill and pipeline
    fill are ignored.
    Source: PipeEdge (Hu et al., DSD 2022), restated for layers that are all alike.
    """
    layers = task.costs.scenario.model.layers
    times_s = [_times_s(task, place.kind, batching, format_name) for place in kinds_of(task)]
    limits = tuple(place.count for place in kinds_of(task))
    if prod(limit + 1 for limit in limits) > MOST_MULTISETS:
        chosen = _by_bisection(layers, times_s, limits)
    else:
        chosen = _by_multisets(layers, times_s, limits)
    return None if chosen is None else _on_devices(task, chosen)


def _times_s(task: PlanningTask, kind: str, batching: MicroBatching, format_name: str) -> _Times:
    """Return the times of stages of 1, 2, ... layers, as many as fit a device, in each role."""
    costs, scenario = task.costs, task.costs.scenario
    model = scenario.model
    layer_s = float(
        costs.decode_layer_s(kind, format_name, batching.decode, model.only_layer_kind).mean()
    )
    step_s, head_s = costs.step_s(kind), costs.head_s(kind, batching.decode)
    layer_bytes = layer_weight_bytes(model.only_kind, FORMATS[format_name])
    layer_bytes += layer_cache_bytes(model.only_kind, scenario.workload, batching)
    free_bytes = available_bytes(costs.devices[kind], model, scenario.workload, batching)
    message_bytes = batching.decode * HIDDEN_BYTES * model.hidden_size
    links = scenario.cluster.links.values()
    hop_s = min((link.transfer_s(message_bytes) for link in links), default=0.0)
    times_s: _Times = {}
    for is_first, is_last in ROLES:
        left = free_bytes - ends_bytes(model, is_first, is_last)
        most = min((left - is_last * logits_bytes(model, batching)) // layer_bytes, model.layers)
        counts = range(1, most + 1)
        times_s[is_first, is_last] = [
            step_s + count * layer_s + head_s if is_last else max(step_s + count * layer_s, hop_s)
            for count in counts
        ]
    return times_s


def _by_multisets(layers: int, times_s: list[_Times], limits: Used) -> list[tuple[int, int]] | None:
    """Return kind and layers of each stage by PipeEdge's dynamic program, or None."""
    table = _fill(layers, times_s, limits)
    ends = [(steps[layers].slowest_s, used) for used, steps in table.items() if layers in steps]
    return _unwind(table, min(ends)[1], layers) if ends else None


def _fill(layers: int, times_s: list[_Times], limits: Used) -> dict[Used, dict[int, _Step]]:
    """Return, per devices used and layers placed, the step that ended there best."""
    start: Used = (0,) * len(limits)
    table: dict[Used, dict[int, _Step]] = {start: {0: _Step(0.0, -1, 0)}}
    frontier = [start]
    for used in frontier:
        for kind in range(len(limits)):
            check_time()
            if used[kind] == limits[kind]:
                continue
            following = (*used[:kind], used[kind] + 1, *used[kind + 1 :])
            if following not in table:
                table[following] = {}
                frontier.append(following)
            for placed, step in table[used].items():
                for count, stage_s in _following(layers - placed, placed == 0, times_s[kind]):
                    slowest_s = max(step.slowest_s, stage_s)
                    best = table[following].get(placed + count)
                    if best is None or slowest_s < best.slowest_s:
                        table[following][placed + count] = _Step(slowest_s, kind, count)
    return table


def _following(left: int, is_first: bool, times_s: _Times) -> Iterator[tuple[int, float]]:
    """Yield the layers that the next stage may hold, of so many left, and its time."""
    yield from enumerate(times_s[is_first, False][: max(left - 1, 0)], start=1)
    if left and len(times_s[is_first, True]) >= left:
        yield left, times_s[is_first, True][left - 1]


def _unwind(table: dict[Used, dict[int, _Step]], used: Used, layers: int) -> list[tuple[int, int]]:
    """Return kind and layers of each stage of the steps that led here, first stage first."""
    chosen: list[tuple[int, int]] = []
    while layers:
        step = table[used][layers]
        chosen.append((step.kind, step.layers))
        used = (*used[: step.kind], used[step.kind] - 1, *used[step.kind + 1 :])
        layers -= step.layers
    chosen.reverse()
    return chosen


def _by_bisection(layers: int, times_s: list[_Times], limits: Used) -> list[tuple[int, int]] | None:
    """Return kind and layers of each stage of a split with the fastest slowest stage, or None."""
    limits_s = sorted({at for kind in times_s for role in kind.values() for at in role})

    def split(limit_s: float) -> list[tuple[int, int]] | None:
        most = [{role: bisect_right(kind[role], limit_s) for role in ROLES} for kind in times_s]
        return _filled(most, limits, layers)

    number = bisect_left(limits_s, True, key=lambda limit_s: split(limit_s) is not None)
    return split(limits_s[number]) if number < len(limits_s) else None


def _filled(
    most: list[dict[_Role, int]], limits: Used, layers: int
) -> list[tuple[int, int]] | None:
    """Return kind and layers of each stage when devices hold at most so many, or None.

    Those that may hold most are filled first, so that few devices are used.

    Args:
        most: most layers of a device of each kind, by whether it is the first and the last stage.
        limits: devices of each kind.
        layers: to be held in all.
    """
    alone = [kind for kind in range(len(limits)) if most[kind][True, True] >= layers]
    if alone:
        return [(alone[0], layers)]
    by_room = sorted(range(len(limits)), key=lambda kind: (-most[kind][False, False], kind))
    for first, last in product(by_room, repeat=2):
        left = list(limits)
        left[first] -= 1
        left[last] -= 1
        ends = most[first][True, False], most[last][False, True]
        if layers < 2 or min(left) < 0 or min(ends) == 0:
            continue
        between = [(kind, most[kind][False, False]) for kind in by_room for _ in range(left[kind])]
        if sum(ends) + sum(count for _, count in between) >= layers:
            return _taken(layers, (first, ends[0]), between, (last, ends[1]))
    return None


def _taken(
    layers: int, first: tuple[int, int], between: list[tuple[int, int]], last: tuple[int, int]
) -> list[tuple[int, int]]:
    """Return stages that hold all layers, given kinds and most layers: ends, then the others."""
    counts, left = [], layers - 2
    for room in (first[1] - 1, last[1] - 1, *(room for _, room in between)):
        counts.append(min(room, left))
        left -= counts[-1]
    taken = [(kind, count) for (kind, _), count in zip(between, counts[2:], strict=True) if count]
    return [(first[0], 1 + counts[0]), *taken, (last[0], 1 + counts[1])]


def _on_devices(task: PlanningTask, chosen: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Return devices in order, the first ones of their kinds, and the layers of each."""
    free: dict[str, list[int]] = {place.kind: [] for place in kinds_of(task)}
    for number, member in enumerate(task.costs.scenario.cluster.devices):
        free[member.device.name].append(number)
    names = list(free)
    order = [free[names[kind]].pop(0) for kind, _ in chosen]
    return order, [count for _, count in chosen]
