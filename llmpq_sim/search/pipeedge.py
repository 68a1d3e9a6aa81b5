"""How PipeEdge would cut a model: the contiguous split whose slowest decode stage is fastest."""

from collections.abc import Iterator
from dataclasses import dataclass

from llmpq_sim.formats import FORMATS
from llmpq_sim.memory import (
    available_bytes,
    ends_bytes,
    layer_kv_bytes,
    layer_weight_bytes,
    logits_bytes,
)
from llmpq_sim.plan import MicroBatching
from llmpq_sim.search.problem import PlanningTask, kinds_of
from llmpq_sim.simulator.static import HIDDEN_BYTES

Used = tuple[int, ...]


@dataclass(frozen=True)
class _Kind:
    """What one device of a kind can do with layers of one format."""

    layer_s: float
    head_s: float
    step_s: float
    free_bytes: int


@dataclass(frozen=True)
class _Step:
    """A best way to have placed some layers: its slowest stage, and its last stage."""

    slowest_s: float
    kind: int
    layers: int


def pipeedge_layers(
    task: PlanningTask, cuts: MicroBatching, format_name: str
) -> tuple[list[int], list[int]] | None:
    """Return devices in order and the layers of each, or None if nothing fits.

    Dynamic program over layers placed and devices of each kind used; a stage costs the larger of
    its decode time and the transfer to the next. It ignores prefill and pipeline fill.
    Source: PipeEdge (Hu et al., DSD 2022), restated for layers that are all alike.
    """
    kinds = [_kind(task, place.kind, cuts, format_name) for place in kinds_of(task)]
    limits = tuple(place.count for place in kinds_of(task))
    table = _fill(task, kinds, limits, cuts, format_name)
    layers = task.costs.scenario.model.layers
    ends = [(steps[layers].slowest_s, used) for used, steps in table.items() if layers in steps]
    if not ends:
        return None
    return _unwind(task, table, min(ends)[1], layers)


def _kind(task: PlanningTask, kind: str, cuts: MicroBatching, format_name: str) -> _Kind:
    costs, scenario = task.costs, task.costs.scenario
    decode_s = costs.decode_layer_s(kind, format_name, cuts.decode)
    free = available_bytes(costs.devices[kind], scenario.model, scenario.workload, cuts)
    return _Kind(float(decode_s.mean()), costs.head_s(kind, cuts.decode), costs.step_s(kind), free)


def _fill(
    task: PlanningTask,
    kinds: list[_Kind],
    limits: Used,
    cuts: MicroBatching,
    format_name: str,
) -> dict[Used, dict[int, _Step]]:
    """Return, per devices used and layers placed, the step that ended there best."""
    stages = _Stages(task, cuts, format_name)
    start: Used = (0,) * len(limits)
    table: dict[Used, dict[int, _Step]] = {start: {0: _Step(0.0, -1, 0)}}
    frontier = [start]
    for used in frontier:
        for kind in range(len(limits)):
            if used[kind] == limits[kind]:
                continue
            following = (*used[:kind], used[kind] + 1, *used[kind + 1 :])
            if following not in table:
                table[following] = {}
                frontier.append(following)
            for placed, step in table[used].items():
                for count, stage_s in stages.from_layer(placed, kinds[kind]):
                    slowest_s = max(step.slowest_s, stage_s)
                    best = table[following].get(placed + count)
                    if best is None or slowest_s < best.slowest_s:
                        table[following][placed + count] = _Step(slowest_s, kind, count)
    return table


class _Stages:
    """The stages that may start at a layer: how many layers, and at what cost."""

    def __init__(self, task: PlanningTask, cuts: MicroBatching, format_name: str) -> None:
        scenario = task.costs.scenario
        model = scenario.model
        self._layer_bytes = layer_weight_bytes(model, FORMATS[format_name])
        self._layer_bytes += layer_kv_bytes(model, scenario.workload, cuts)
        self._model = model
        self._logits_bytes = logits_bytes(model, cuts)
        message = cuts.decode * HIDDEN_BYTES * model.hidden_size
        links = scenario.cluster.links.values()
        self._hop_s = min((link.transfer_s(message) for link in links), default=0.0)

    def from_layer(self, placed: int, kind: _Kind) -> Iterator[tuple[int, float]]:
        """Yield how many layers fit a device of a kind, and the time of that stage."""
        for count in range(1, self._model.layers - placed + 1):
            is_last = placed + count == self._model.layers
            needed = count * self._layer_bytes + is_last * self._logits_bytes
            if needed + ends_bytes(self._model, placed == 0, is_last) > kind.free_bytes:
                return
            stage_s = kind.step_s + count * kind.layer_s + is_last * kind.head_s
            yield count, stage_s if is_last else max(stage_s, self._hop_s)


def _unwind(
    task: PlanningTask, table: dict[Used, dict[int, _Step]], used: Used, layers: int
) -> tuple[list[int], list[int]]:
    """Return the devices and layer counts of the steps that led here, first stage first."""
    free: dict[str, list[int]] = {place.kind: [] for place in kinds_of(task)}
    for number, member in enumerate(task.costs.scenario.cluster.devices):
        free[member.device.name].append(number)
    names = list(free)
    chosen: list[tuple[int, int]] = []
    while layers:
        step = table[used][layers]
        chosen.append((step.kind, step.layers))
        used = (*used[: step.kind], used[step.kind] - 1, *used[step.kind + 1 :])
        layers -= step.layers
    chosen.reverse()
    order = [free[names[kind]].pop(0) for kind, _ in chosen]
    return order, [count for _, count in chosen]
