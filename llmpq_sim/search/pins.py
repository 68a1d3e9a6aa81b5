"""Pins of a plan: the layers of each device, and perhaps their formats, as the user decided."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from llmpq_sim.core.errors import InfeasibleError, InputError
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.layers import LayerKind
from llmpq_sim.core.memory import StageMemory, layer_cache_bytes, layer_weight_bytes, plan_memory
from llmpq_sim.core.plan import MicroBatching, Plan, Stage
from llmpq_sim.core.units import gib_apart
from llmpq_sim.search.bound.feasibility import smallest
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.shortage import held_text


@dataclass(frozen=True)
class Pins:
    """A pipeline that is decided already.

    Attributes:
        devices: names of the devices, the first stage's first.
        layers: layers of each, at least one.
        formats: format of each layer of the model, or None where they are to be chosen.
    """

    devices: tuple[str, ...]
    layers: tuple[int, ...]
    formats: tuple[str, ...] | None = None

    def order(self, task: PlanningTask) -> list[int]:
        """Return the positions of the devices in the cluster."""
        cluster = task.costs.scenario.cluster
        return [cluster.index(name, "--device-order") for name in self.devices]

    def plan(self, formats: Sequence[str], micro_batching: MicroBatching) -> Plan:
        """Return the plan whose layers have these formats."""
        stops = list(accumulate(self.layers))
        stages = tuple(
            Stage(device, tuple(formats[stop - count : stop]))
            for device, count, stop in zip(self.devices, self.layers, stops, strict=True)
        )
        return Plan(stages, micro_batching)

    def keeps(self, plan: Plan) -> bool:
        """Return whether a plan is as it was decided."""
        return (
            tuple(stage.device for stage in plan.stages) == self.devices
            and tuple(len(stage.formats) for stage in plan.stages) == self.layers
            and self.formats in (None, plan.layer_formats)
        )


def check_pins(pins: Pins, task: PlanningTask) -> None:
    """Check that devices run the formats that they are given, and have room for their layers.

    Raises:
        InputError: a device cannot run a format, or there is none that it may run.
        InfeasibleError: even one request at a time does not fit; the message says which device is
            short of memory, for what, and by how much. Or the formats lose too much.
    """
    _check_formats(pins, task)
    least = pins.plan(least_formats(pins, task), smallest(task))
    shortage = _shortage(least, task)
    if shortage is not None:
        raise InfeasibleError(f"--layers: {shortage[1]}")
    loss = task.quality.plan_loss(least.layer_formats)
    if pins.formats is not None and loss > task.allowed_loss:
        raise InfeasibleError(
            f"--layer-formats: lose {loss:.4g} {task.quality.measure}, more than the "
            f"{task.budget:.4g} allowed; give others, or allow more with --quality-at-least"
        )


def explain_pins(pins: Pins, task: PlanningTask, batchings: Sequence[MicroBatching]) -> str:
    """Return why none of some micro-batchings has formats that fit within the quality budget.

    Where formats are free, memory is that of the smallest one in which all layers keep the budget.
    """
    formats = pins.formats
    if formats is None:
        kept = [each for each in task.formats if _keeps_budget(each, task)]
        least = min(kept, key=lambda name: FORMATS[name].stored_bits, default=None)
        formats = None if least is None else (least,) * sum(pins.layers)
    shortages = (
        [] if formats is None else [_shortage(pins.plan(formats, each), task) for each in batchings]
    )
    known = [each for each in shortages if each is not None]
    why = min(known)[1] if known else "whole layers are too coarse for it"
    if pins.formats is not None:
        return f"--layers: {why}"
    return (
        f"--layers: no formats of these layers fit the memory within a quality loss of "
        f"{task.budget:.4g} {task.quality.measure}: {why}"
    )


def _keeps_budget(name: str, task: PlanningTask) -> bool:
    return task.quality.uniform_loss(name) <= task.allowed_loss


def _check_formats(pins: Pins, task: PlanningTask) -> None:
    members = task.costs.scenario.cluster.devices
    stops = accumulate(pins.layers)
    for position, count, stop in zip(pins.order(task), pins.layers, stops, strict=True):
        member, runs = members[position], members[position].device.formats
        asked = task.formats if pins.formats is None else pins.formats[stop - count : stop]
        lacking = [name for name in dict.fromkeys(asked) if name not in runs]
        if len(lacking) == len(set(asked)) or (pins.formats is not None and lacking):
            option = "--formats" if pins.formats is None else "--layer-formats"
            raise InputError(
                f"{option}: {member.name} ({member.device.name}) cannot run {lacking[0]}; it runs "
                f"{', '.join(runs)}"
            )


def least_formats(pins: Pins, task: PlanningTask) -> tuple[str, ...]:
    """Return the decided formats, or for each device the smallest that it may run."""
    if pins.formats is not None:
        return pins.formats
    model, members = task.costs.scenario.model, task.costs.scenario.cluster.devices
    formats: list[str] = []
    for position, count in zip(pins.order(task), pins.layers, strict=True):
        runs = [name for name in task.formats if name in members[position].device.formats]
        layers = range(len(formats), len(formats) + count)
        formats += [
            min(runs, key=partial(_weight_bytes, model.layer_kind(each))) for each in layers
        ]
    return tuple(formats)


def _weight_bytes(kind: LayerKind, format_name: str) -> int:
    return layer_weight_bytes(kind, FORMATS[format_name])


def _shortage(plan: Plan, task: PlanningTask) -> tuple[int, str] | None:
    """Return how many bytes the fullest stage is short of, and for what; None where all fit."""
    memory = plan_memory(plan, task.costs.scenario)
    short = [stage.total_bytes - stage.limit_bytes for stage in memory]
    number = max(range(len(memory)), key=lambda each: short[each])
    if short[number] <= 0:
        return None
    room = _room(plan, number, memory[number], task)
    text = _shortage_text(plan.stages[number], memory[number], plan.micro_batching, room)
    return short[number], text


def _room(plan: Plan, number: int, memory: StageMemory, task: PlanningTask) -> int:
    """Return how many of a stage's layers, its first ones, fit its device."""
    scenario = task.costs.scenario
    first, formats = plan.first_layers()[number], plan.stages[number].formats
    kinds = [scenario.model.layer_kind(layer) for layer in range(first, first + len(formats))]
    taken = accumulate(
        layer_weight_bytes(kind, FORMATS[name])
        + layer_cache_bytes(kind, scenario.workload, plan.micro_batching)
        for kind, name in zip(kinds, formats, strict=True)
    )
    left = memory.weights_bytes + memory.kv_bytes - (memory.total_bytes - memory.limit_bytes)
    return bisect_right(list(taken), left)


def _shortage_text(stage: Stage, memory: StageMemory, batching: MicroBatching, room: int) -> str:
    short = memory.total_bytes - memory.limit_bytes
    needs, has, short_gib = gib_apart(memory.total_bytes, memory.limit_bytes, short)
    rows = (
        "one request at a time"
        if (batching.prefill, batching.decode, batching.groups_in_flight) == (1, 1, 1)
        else f"micro-batches of {batching.prefill} and {batching.decode}, "
        f"{batching.groups_in_flight} in flight"
    )
    formats = " and ".join(dict.fromkeys(stage.formats))
    return (
        f"{stage.device} has no room for {_layers(len(stage.formats))} of {formats} with {rows}: "
        f"needs {needs} GiB, has {has} ({held_text(memory)}); {short_gib} GiB are short; "
        + (f"at most {_layers(room)} would fit" if room > 0 else "no layer would fit")
    )


def _layers(count: int) -> str:
    return f"{count} layer{'' if count == 1 else 's'}"
