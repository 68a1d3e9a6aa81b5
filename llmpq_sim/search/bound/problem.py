"""Planning problem of one micro-batching, as arrays: times, bytes and losses.

Layers of a kind cost the same time and memory; only their quality losses differ. So a plan is
judged by how many layers of each kind and quality class are at each place in each format. A place
is a kind of device (for the bound), a device (for the integer program) or a stage of a given
pipeline (to choose its formats). The embedding and the LM head are two more blocks; where any place
may hold them, the arrays, and the bound built on them, do not depend on the order of the pipeline.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.memory import (
    available_bytes,
    embedding_bytes,
    head_bytes,
    layer_cache_bytes,
    layer_weight_bytes,
    logits_bytes,
)
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.core.schedule import counted_batch_schedules
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.quality.table import QualityTable
from llmpq_sim.search.bound.runs import longest_run
from llmpq_sim.search.bound.schedule_terms import (
    EMBEDDING,
    HEAD,
    ScheduleTerms,
    schedule_terms,
)

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

MOST_SINGLE_DEVICES = 12
"""Devices up to which each is a place of its own in integer programs."""

BUDGET_TOLERANCE = 1e-9
"""Relative excess of a quality budget that counts as rounding, for plans and bounds alike."""


@dataclass(frozen=True)
class PlanningTask:
    """Everything a search is asked: block times, losses, formats and the quality budget.

    Attributes:
        costs: block times of the scenario.
        quality: losses per layer and format.
        formats: allowed formats, in the order of FORMATS.
        budget: largest allowed loss, in the quality table's measure.
    """

    costs: LayerCosts
    quality: QualityTable
    formats: tuple[str, ...]
    budget: float

    @property
    def allowed_loss(self) -> float:
        """The budget with what counts as rounding."""
        return self.budget * (1 + BUDGET_TOLERANCE)


@dataclass(frozen=True)
class BlockPlace:
    """Where blocks may be: so many devices of one kind, alike."""

    name: str
    kind: str
    count: int


@dataclass(frozen=True)
class BlockItem:
    """Blocks that are alike in time, memory, quality loss and where they may be.

    Attributes:
        block: number of a kind of layer, EMBEDDING or HEAD.
        count: how many there are.
        loss: quality loss of one of them per format. Shape: (formats,).
        allowed: where they may be in which format. Shape: (places, formats).
    """

    block: int
    count: int
    loss: FloatArray
    allowed: BoolArray

    @property
    def is_layer(self) -> bool:
        """Whether the blocks are layers."""
        return self.block >= 0


@dataclass(frozen=True)
class Problem:
    """The planning problem of one micro-batching.

    Attributes:
        micro_batching: how the batch is cut.
        places: where blocks may be.
        capacity_bytes: what one device of a place has for blocks. Shape: (places,).
        formats: names of the allowed formats.
        block_bytes: bytes of a block, KV cache included. Shape: (blocks, formats).
        items: the blocks to place.
        kind_of_layer: number of the kind of each layer, in the order of the model.
        budget: largest allowed quality loss.
        ends_apart: whether no device holds both the embedding and the LM head.
        waves: the terms of the bound.
        is_partition: whether it is known which layers each place holds.
    """

    micro_batching: MicroBatching
    places: tuple[BlockPlace, ...]
    capacity_bytes: FloatArray
    formats: tuple[str, ...]
    block_bytes: FloatArray
    items: tuple[BlockItem, ...]
    kind_of_layer: tuple[int, ...]
    budget: float
    ends_apart: bool
    waves: tuple[ScheduleTerms, ...]
    is_partition: bool = False

    @property
    def holds_whole_layers(self) -> bool:
        """Whether the devices have room for all layers when each holds whole ones only.

        A device may hold any run of layers that takes no more than it has in their smallest
        formats; which runs go together is not looked at.
        """
        least = np.full((len(self.block_bytes) - 2, len(self.places)), np.inf)
        for item in self.items:
            if item.is_layer:
                of_item = np.where(item.allowed, self.block_bytes[item.block], np.inf).min(axis=1)
                least[item.block] = np.minimum(least[item.block], of_item)
        room = [
            longest_run(least[list(self.kind_of_layer), place], capacity * (1 + 1e-12))
            for place, capacity in enumerate(self.capacity_bytes)
        ]
        return bool((np.array(room) * self.place_counts).sum() >= len(self.kind_of_layer))

    @property
    def place_counts(self) -> FloatArray:
        """Devices of each place. Shape: (places,)."""
        return np.array([place.count for place in self.places], dtype=float)


def kinds_of(task: PlanningTask) -> tuple[BlockPlace, ...]:
    """Return the kinds of device of the cluster as places."""
    counts = Counter(member.device.name for member in task.costs.scenario.cluster.devices)
    return tuple(BlockPlace(kind, kind, count) for kind, count in counts.items())


def device_groups(task: PlanningTask) -> tuple[tuple[int, ...], ...]:
    """Return the devices, by number, in groups whose members integer programs load alike.

    In a small cluster each is a group of its own. In a larger one those of a kind are halved until
    two are left, so that a kind of n devices makes about log2 n groups, and any number of layers
    can be divided over them. Devices that stand side by side, as in a node, share a group.
    """
    members = task.costs.scenario.cluster.devices
    if len(members) <= MOST_SINGLE_DEVICES:
        return tuple((number,) for number in range(len(members)))
    of_kind: dict[str, list[int]] = {}
    for number, member in enumerate(members):
        of_kind.setdefault(member.device.name, []).append(number)
    groups = []
    for numbers in of_kind.values():
        while numbers:
            half = max(len(numbers) // 2, 1)
            groups.append(tuple(numbers[:half]))
            del numbers[:half]
    return tuple(groups)


def group_places(task: PlanningTask) -> tuple[BlockPlace, ...]:
    """Return the groups of `device_groups` as places."""
    members = task.costs.scenario.cluster.devices
    return tuple(
        BlockPlace(members[group[0]].name, members[group[0]].device.name, len(group))
        for group in device_groups(task)
    )


def build_problem(
    task: PlanningTask,
    micro_batching: MicroBatching,
    places: tuple[BlockPlace, ...],
    *,
    ends_apart: bool = False,
) -> Problem:
    """Return the arrays of one micro-batching where every block may be at every place.

    Args:
        task: what is planned.
        micro_batching: how the batch is cut.
        places: where blocks may be.
        ends_apart: whether embedding and LM head are known to be on different devices. They are
            too where no device holds the model alone; otherwise a tied matrix counts once, as if
            one device held both.
    """
    costs, scenario = task.costs, task.costs.scenario
    capacity = [
        available_bytes(
            costs.devices[place.kind], scenario.model, scenario.workload, micro_batching
        )
        for place in places
    ]
    capacity_bytes = np.maximum(np.array(capacity, dtype=float), 0.0)
    block_bytes = _block_bytes(task, micro_batching, ends_apart)
    devices = _fewest_devices(task, places, capacity_bytes, block_bytes)
    if devices > 1 and not ends_apart:
        ends_apart = True
        block_bytes = _block_bytes(task, micro_batching, ends_apart)
        devices = _fewest_devices(task, places, capacity_bytes, block_bytes)
    kinds = [place.kind for place in places]
    return Problem(
        micro_batching=micro_batching,
        places=places,
        capacity_bytes=capacity_bytes,
        formats=task.formats,
        block_bytes=block_bytes,
        items=block_items(task, places),
        kind_of_layer=scenario.model.kind_of_layer,
        budget=task.allowed_loss,
        ends_apart=ends_apart,
        waves=tuple(
            schedule_terms(costs, kinds, task.formats, shape, count, devices)
            for shape, count in counted_batch_schedules(scenario.workload, micro_batching)
        ),
    )


def _fewest_devices(
    task: PlanningTask,
    places: tuple[BlockPlace, ...],
    capacity_bytes: FloatArray,
    block_bytes: FloatArray,
) -> int:
    """Return how many devices any plan must use for its memory alone, at least."""
    layers = np.array(task.costs.scenario.model.layers_by_kind)
    needed = layers @ block_bytes[:EMBEDDING].min(axis=1)
    needed += block_bytes[EMBEDDING, 0] + block_bytes[HEAD, 0]
    repeated = np.repeat(capacity_bytes, [place.count for place in places])
    held = np.cumsum(np.sort(repeated)[::-1])
    return min(int(np.searchsorted(held, needed)) + 1, len(repeated))


def _block_bytes(task: PlanningTask, micro_batching: MicroBatching, ends_apart: bool) -> FloatArray:
    """Return the bytes per block and format. Shape: (blocks, formats)."""
    scenario = task.costs.scenario
    model = scenario.model
    embedding = embedding_bytes(model)
    if model.tied_embeddings and not ends_apart:
        embedding -= head_bytes(model)
    head = head_bytes(model) + logits_bytes(model, micro_batching)
    layers = []
    for kind in model.kinds:
        kept = layer_cache_bytes(kind, scenario.workload, micro_batching)
        layers.append([layer_weight_bytes(kind, FORMATS[name]) + kept for name in task.formats])
    width = len(task.formats)
    return np.array([*layers, [embedding] * width, [head] * width], dtype=float)


def block_items(task: PlanningTask, places: tuple[BlockPlace, ...]) -> tuple[BlockItem, ...]:
    """Return layers grouped by kind and equal losses, then embedding and head, which lose nothing.

    A format in which one layer alone exceeds the budget is not allowed to it. Embedding and head
    have one format, entered in the first column.
    """
    none = np.zeros(len(task.formats))
    layers = layer_items(task, places, range(task.costs.scenario.model.layers))
    end_allowed = np.zeros((len(places), len(task.formats)), dtype=bool)
    end_allowed[:, 0] = True
    ends = [BlockItem(block, 1, none, end_allowed) for block in (EMBEDDING, HEAD)]
    return (*layers, *ends)


def layer_items(
    task: PlanningTask, places: tuple[BlockPlace, ...], layers: range
) -> list[BlockItem]:
    """Return some layers grouped by kind and equal losses."""
    kinds = task.costs.scenario.model.kind_of_layer
    losses = [task.quality.losses[name] for name in task.formats]
    classes = Counter(
        (kinds[layer], *(of_format[layer] for of_format in losses)) for layer in layers
    )
    return [
        _layer_item(task, places, int(kind), loss, count)
        for (kind, *loss), count in classes.items()
    ]


def _layer_item(
    task: PlanningTask,
    places: tuple[BlockPlace, ...],
    layer_kind: int,
    loss: Sequence[float],
    count: int,
) -> BlockItem:
    """Return so many layers with these losses per format, allowed what runs and is in budget.

    An infinite loss is never allowed; it is written as twice the budget, since programs and prices
    take finite numbers.
    """
    runs = [task.costs.devices[place.kind].formats for place in places]
    known = np.array([[name in names for name in task.formats] for names in runs])
    losses = np.array(loss)
    finite = np.where(np.isfinite(losses), losses, 2.0 * task.allowed_loss)
    return BlockItem(layer_kind, count, finite, np.asarray(known & (losses <= task.allowed_loss)))
