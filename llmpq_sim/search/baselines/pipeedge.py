"""PipeEdge's partition: the contiguous split whose slowest decode stage is fastest.

PipeEdge's dynamic program has a state for each multiset of devices, of which large clusters have
too many. Where every hop costs the same, a slowest time is then possible if the devices, each as
full as that time and its memory allow, hold all layers; the least such time is found by bisection.
Of layers that are alike any devices may be the ends; of others, each stage is given to the kind of
device that holds most of those that follow.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

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

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

Used = tuple[int, ...]
_Role = tuple[bool, bool]

ROLES: tuple[_Role, ...] = ((False, False), (False, True), (True, False), (True, True))
"""Whether a stage is the first, and whether it is the last."""

MOST_MULTISETS = 256
"""Multisets of devices up to which PipeEdge's own dynamic program is run."""

HALVINGS = 40
"""Of the slowest time of stages of unequal layers."""


@dataclass(frozen=True)
class _Step:
    """A best way to have placed some layers: its slowest stage, and its last stage."""

    slowest_s: float
    kind: int
    layers: int


@dataclass(frozen=True)
class _Place:
    """What stages on a kind of device take, and what they have.

    Attributes:
        sums: layers of each kind before each layer. Shape: (layers + 1, kinds).
        layer_s: decode time of a layer of each kind.
        layer_bytes: bytes of a layer of each kind.
        left_bytes: by role, what a device has for layers.
        step_s, head_s, hop_s: of a stage, of the LM head, and of a transfer to the next stage.
    """

    sums: IntArray
    layer_s: FloatArray
    layer_bytes: IntArray
    left_bytes: dict[_Role, int]
    step_s: float
    head_s: float
    hop_s: float
    _known: dict[tuple[int, _Role], list[float]] = field(default_factory=dict)

    def times_s(self, first: int, role: _Role) -> list[float]:
        """Return the times of stages of 1, 2, ... layers from one on, as many as fit a device.

        Of layers of one kind, more than follow may be among them.
        """
        key = (first if len(self.layer_s) > 1 else 0, role)
        if key not in self._known:
            counts = self.sums[key[0] + 1 :] - self.sums[key[0]]
            most = int(np.searchsorted(counts @ self.layer_bytes, self.left_bytes[role], "right"))
            times_s = self.step_s + counts[:most] @ self.layer_s
            times_s = times_s + self.head_s if role[1] else np.maximum(times_s, self.hop_s)
            self._known[key] = times_s.tolist()
        return self._known[key]


def pipeedge_layers(
    task: PlanningTask, batching: MicroBatching, format_name: str
) -> tuple[list[int], list[int]] | None:
    """Return devices in order and the layers of each, or None if nothing fits.

    A stage costs the larger of its decode time and the transfer to the next; prefill and pipeline
    fill are ignored.
    Source: PipeEdge (Hu et al., DSD 2022).
    """
    model = task.costs.scenario.model
    places = [_place(task, place.kind, batching, format_name) for place in kinds_of(task)]
    limits = tuple(place.count for place in kinds_of(task))
    if prod(limit + 1 for limit in limits) <= MOST_MULTISETS:
        chosen = _by_multisets(model.layers, places, limits)
    elif len(model.kinds) == 1:
        chosen = _by_bisection(model.layers, places, limits)
    else:
        chosen = _in_turn(model.layers, places, limits)
    return None if chosen is None else _on_devices(task, chosen)


def _place(task: PlanningTask, kind: str, batching: MicroBatching, format_name: str) -> _Place:
    costs, scenario = task.costs, task.costs.scenario
    model, numbers = scenario.model, range(len(scenario.model.kinds))
    free_bytes = available_bytes(costs.devices[kind], model, scenario.workload, batching)
    message_bytes = batching.decode * HIDDEN_BYTES * model.hidden_size
    links = scenario.cluster.links.values()
    of_kind = np.eye(len(numbers), dtype=np.int64)[list(model.kind_of_layer)]
    seconds = [costs.decode_layer_s(kind, format_name, batching.decode, each) for each in numbers]
    return _Place(
        sums=np.concatenate([np.zeros((1, len(numbers)), np.int64), np.cumsum(of_kind, axis=0)]),
        layer_s=np.array([float(each.mean()) for each in seconds]),
        layer_bytes=np.array(
            [
                layer_weight_bytes(each, FORMATS[format_name])
                + layer_cache_bytes(each, scenario.workload, batching)
                for each in model.kinds
            ]
        ),
        left_bytes={
            role: free_bytes - ends_bytes(model, *role) - role[1] * logits_bytes(model, batching)
            for role in ROLES
        },
        step_s=costs.step_s(kind),
        head_s=costs.head_s(kind, batching.decode),
        hop_s=min((link.transfer_s(message_bytes) for link in links), default=0.0),
    )


def _by_multisets(layers: int, places: list[_Place], limits: Used) -> list[tuple[int, int]] | None:
    """Return kind and layers of each stage by PipeEdge's dynamic program, or None."""
    table = _fill(layers, places, limits)
    ends = [(steps[layers].slowest_s, used) for used, steps in table.items() if layers in steps]
    return _unwind(table, min(ends)[1], layers) if ends else None


def _fill(layers: int, places: list[_Place], limits: Used) -> dict[Used, dict[int, _Step]]:
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
                for count, stage_s in _following(layers, placed, places[kind]):
                    slowest_s = max(step.slowest_s, stage_s)
                    best = table[following].get(placed + count)
                    if best is None or slowest_s < best.slowest_s:
                        table[following][placed + count] = _Step(slowest_s, kind, count)
    return table


def _following(layers: int, placed: int, place: _Place) -> Iterator[tuple[int, float]]:
    """Yield the layers that the next stage may hold, of those not placed, and its time."""
    is_first, left = placed == 0, layers - placed
    if not left:
        return
    yield from enumerate(place.times_s(placed, (is_first, False))[: left - 1], start=1)
    as_last = place.times_s(placed, (is_first, True))
    if len(as_last) >= left:
        yield left, as_last[left - 1]


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


def _by_bisection(layers: int, places: list[_Place], limits: Used) -> list[tuple[int, int]] | None:
    """Return kind and layers of each stage of a split with the fastest slowest stage, or None.

    Layers are of one kind.
    """
    times_s = [{role: place.times_s(0, role) for role in ROLES} for place in places]
    limits_s = sorted({at for kind in times_s for role in kind.values() for at in role})

    def split(limit_s: float) -> list[tuple[int, int]] | None:
        most = [{role: bisect_right(kind[role], limit_s) for role in ROLES} for kind in times_s]
        return _filled(most, limits, layers)

    number = bisect_left(limits_s, True, key=lambda limit_s: split(limit_s) is not None)
    return split(limits_s[number]) if number < len(limits_s) else None


def _in_turn(layers: int, places: list[_Place], limits: Used) -> list[tuple[int, int]] | None:
    """Return kind and layers of each stage of a split whose slowest stage is fast, or None.

    Each stage is as full as a slowest time allows, on the kind of device that then holds most.
    """

    def split(limit_s: float) -> list[tuple[int, int]] | None:
        left, chosen, placed = list(limits), [], 0
        while placed < layers:
            free = [kind for kind in range(len(limits)) if left[kind]]
            rooms = [_room(layers, placed, places[kind], limit_s) for kind in free]
            if not any(rooms):
                return None
            kind = free[rooms.index(max(rooms))]
            chosen.append((kind, max(rooms)))
            left[kind] -= 1
            placed += max(rooms)
        return chosen

    low_s, high_s = 0.0, max(place.step_s + place.head_s + place.hop_s for place in places)
    high_s += max(float(place.sums[-1] @ place.layer_s) for place in places)
    best = split(high_s)
    for _ in range(HALVINGS if best else 0):
        middle_s = (low_s + high_s) / 2
        found = split(middle_s)
        low_s, high_s = (middle_s, high_s) if found is None else (low_s, middle_s)
        best = found or best
    return best


def _room(layers: int, placed: int, place: _Place, limit_s: float) -> int:
    """Return how many of the layers not placed a stage may hold within a time."""
    stages = _following(layers, placed, place)
    return max((count for count, stage_s in stages if stage_s <= limit_s), default=0)


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
