"""What the planner must decide for one micro-batching, as arrays: times, bytes and losses.

All layers cost the same time and memory; only their quality losses differ. So a plan is judged by
how many layers of each quality class are at each place in each format. A place is a kind of device
(for the bound), a device (for the integer program) or a stage of a given pipeline (to choose its
formats). The embedding and the LM head are two more blocks; where any place may hold them, the
arrays, and the bound built on them, do not depend on the order of the pipeline.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.cluster import Link
from llmpq_sim.formats import FORMATS
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.memory import (
    available_bytes,
    embedding_bytes,
    head_bytes,
    layer_kv_bytes,
    layer_weight_bytes,
    logits_bytes,
)
from llmpq_sim.plan import MicroBatching
from llmpq_sim.quality.table import QualityTable
from llmpq_sim.schedule import WaveShape, counted_wave_shapes
from llmpq_sim.simulator.static import HIDDEN_BYTES, TOKEN_BYTES

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

BUDGET_TOLERANCE = 1e-9
"""Relative excess of a quality budget that counts as rounding, for plans and bounds alike."""

LAYER, EMBEDDING, HEAD = range(3)
"""The three kinds of block, the first axis of every array below."""


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
class Place:
    """Where blocks may be: so many devices of one kind, alike."""

    name: str
    kind: str
    count: int


@dataclass(frozen=True)
class BlockItem:
    """Blocks that are alike in time, memory, quality loss and where they may be.

    Attributes:
        block: LAYER, EMBEDDING or HEAD.
        count: how many there are.
        loss: quality loss of one of them per format. Shape: (formats,).
        allowed: where they may be in which format. Shape: (places, formats).
    """

    block: int
    count: int
    loss: FloatArray
    allowed: BoolArray


@dataclass(frozen=True)
class WaveTerms:
    """Seconds that each block adds to the terms of the bound for one wave shape.

    Every array has the shape (3 blocks, places, formats).

    Attributes:
        count: how many waves have this shape.
        prefill_least: its shortest prefill visit.
        prefill_rest: its other prefill visits together.
        decode_least: its shortest decode visit.
        decode_rest: its decode visits that follow the end of prefill, less the shortest.
        decode_path: its visits in the rounds of one group, one after another.
        prefill_links_s, path_links_s: what the links add at least to a prefill and to those rounds.
    """

    count: int
    prefill_least: FloatArray
    prefill_rest: FloatArray
    decode_least: FloatArray
    decode_rest: FloatArray
    decode_path: FloatArray
    prefill_links_s: float
    path_links_s: float


@dataclass(frozen=True)
class Problem:
    """The planning problem of one micro-batching.

    Attributes:
        micro_batching: how the batch is cut.
        places: where blocks may be.
        capacity_bytes: what one device of a place has for blocks. Shape: (places,).
        formats: names of the allowed formats.
        block_bytes: bytes of a block, KV cache included. Shape: (3 blocks, formats).
        items: the blocks to place.
        budget: largest allowed quality loss.
        ends_apart: whether no device holds both the embedding and the LM head.
        waves: the terms of the bound.
    """

    micro_batching: MicroBatching
    places: tuple[Place, ...]
    capacity_bytes: FloatArray
    formats: tuple[str, ...]
    block_bytes: FloatArray
    items: tuple[BlockItem, ...]
    budget: float
    ends_apart: bool
    waves: tuple[WaveTerms, ...]

    @property
    def holds_whole_layers(self) -> bool:
        """Whether the devices have room for all layers when each holds whole ones only."""
        layers = [item for item in self.items if item.block == LAYER]
        allowed = np.any([item.allowed for item in layers], axis=0)
        least = np.where(allowed, self.block_bytes[LAYER], np.inf).min(axis=1)
        room = np.floor(self.capacity_bytes / least * (1 + 1e-12))
        return bool((room * self.place_counts).sum() >= sum(item.count for item in layers))

    @property
    def place_counts(self) -> FloatArray:
        """Devices of each place. Shape: (places,)."""
        return np.array([place.count for place in self.places], dtype=float)


def kinds_of(task: PlanningTask) -> tuple[Place, ...]:
    """Return the kinds of device of the cluster as places."""
    counts = Counter(member.device.name for member in task.costs.scenario.cluster.devices)
    return tuple(Place(kind, kind, count) for kind, count in counts.items())


def build_problem(
    task: PlanningTask,
    micro_batching: MicroBatching,
    places: tuple[Place, ...],
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
    return Problem(
        micro_batching=micro_batching,
        places=places,
        capacity_bytes=capacity_bytes,
        formats=task.formats,
        block_bytes=block_bytes,
        items=_items(task, places),
        budget=task.allowed_loss,
        ends_apart=ends_apart,
        waves=tuple(
            _wave_terms(task, places, shape, count, devices)
            for shape, count in counted_wave_shapes(scenario.workload, micro_batching)
        ),
    )


def _fewest_devices(
    task: PlanningTask,
    places: tuple[Place, ...],
    capacity_bytes: FloatArray,
    block_bytes: FloatArray,
) -> int:
    """Return how many devices any plan must use for its memory alone, at least."""
    layers = task.costs.scenario.model.layers
    needed = layers * block_bytes[LAYER].min() + block_bytes[EMBEDDING, 0] + block_bytes[HEAD, 0]
    repeated = np.repeat(capacity_bytes, [place.count for place in places])
    held = np.cumsum(np.sort(repeated)[::-1])
    return min(int(np.searchsorted(held, needed)) + 1, len(repeated))


def _block_bytes(task: PlanningTask, micro_batching: MicroBatching, ends_apart: bool) -> FloatArray:
    """Return the bytes per block and format. Shape: (3 blocks, formats)."""
    scenario = task.costs.scenario
    model = scenario.model
    kv_bytes = layer_kv_bytes(model, scenario.workload, micro_batching)
    embedding = embedding_bytes(model)
    if model.tied_embeddings and not ends_apart:
        embedding -= head_bytes(model)
    head = head_bytes(model) + logits_bytes(model, micro_batching)
    layer = [layer_weight_bytes(model, FORMATS[name]) + kv_bytes for name in task.formats]
    width = len(task.formats)
    return np.array([layer, [embedding] * width, [head] * width], dtype=float)


def _items(task: PlanningTask, places: tuple[Place, ...]) -> tuple[BlockItem, ...]:
    """Return layers grouped by equal losses, then embedding and head, which lose nothing.

    A format in which one layer alone exceeds the budget is not allowed to it. Embedding and head
    have one format, entered in the first column.
    """
    losses = [task.quality.losses[name] for name in task.formats]
    classes = Counter(zip(*losses, strict=True))
    none = np.zeros(len(task.formats))
    layers = [
        BlockItem(LAYER, count, np.array(loss), layer_allowed(task, places, loss))
        for loss, count in classes.items()
    ]
    end_allowed = np.zeros((len(places), len(task.formats)), dtype=bool)
    end_allowed[:, 0] = True
    ends = [BlockItem(block, 1, none, end_allowed) for block in (EMBEDDING, HEAD)]
    return (*layers, *ends)


def layer_allowed(
    task: PlanningTask, places: tuple[Place, ...], loss: Sequence[float]
) -> BoolArray:
    """Return where a layer with these losses may be in which format: what runs and is in budget."""
    runs = [task.costs.devices[place.kind].formats for place in places]
    known = np.array([[name in names for name in task.formats] for names in runs])
    return np.asarray(known & (np.array(loss) <= task.allowed_loss))


def _wave_terms(
    task: PlanningTask, places: tuple[Place, ...], shape: WaveShape, count: int, devices: int
) -> WaveTerms:
    arrays = np.zeros((5, 3, len(places), len(task.formats)))
    for number, place in enumerate(places):
        kind = place.kind
        for column, name in enumerate(task.formats):
            if name in task.costs.devices[kind].formats:
                arrays[:, LAYER, number, column] = _layer_terms(task.costs, shape, kind, name)
        arrays[:, EMBEDDING, number, 0] = _end_terms(task.costs, shape, kind, EMBEDDING)
        arrays[:, HEAD, number, 0] = _end_terms(task.costs, shape, kind, HEAD)
    links = _fastest_links(task, devices)
    prefill_links_s, path_links_s = link_terms_s(task.costs, shape, links)
    least, rest, decode_least, decode_rest, path = arrays
    return WaveTerms(
        count, least, rest, decode_least, decode_rest, path, prefill_links_s, path_links_s
    )


def _layer_terms(costs: LayerCosts, shape: WaveShape, kind: str, name: str) -> FloatArray:
    prefill_s = [costs.prefill_layer_s(kind, name, rows) for rows in shape.prefill_rows]
    sizes = {rows for group in shape.decode_rows for rows in group}
    by_rows = {rows: costs.decode_layer_s(kind, name, rows) for rows in sizes}
    decode_s = [_visits_s(rows, by_rows) for rows in shape.decode_rows]
    return _terms(shape, prefill_s, decode_s)


def _end_terms(costs: LayerCosts, shape: WaveShape, kind: str, block: int) -> FloatArray:
    prompt = costs.scenario.workload.prompt_tokens
    if block == EMBEDDING:
        prefill_s = [costs.embedding_s(kind, rows * prompt) for rows in shape.prefill_rows]
    else:
        prefill_s = [costs.head_s(kind, rows) for rows in shape.prefill_rows]
    decode = costs.embedding_s if block == EMBEDDING else costs.head_s
    sizes = {rows for group in shape.decode_rows for rows in group}
    by_rows = {rows: np.full(costs.rounds, decode(kind, rows)) for rows in sizes}
    decode_s = [_visits_s(rows, by_rows) for rows in shape.decode_rows]
    return _terms(shape, prefill_s, decode_s)


def _visits_s(rows_by_round: tuple[int, ...], by_rows: dict[int, FloatArray]) -> FloatArray:
    """Return a group's visit in each of its rounds, whose rows may become fewer."""
    rows = np.array(rows_by_round, dtype=int)
    visits_s = np.zeros(len(rows))
    for size, round_s in by_rows.items():
        chosen = np.flatnonzero(rows == size)
        visits_s[chosen] = round_s[chosen]
    return visits_s


def _terms(shape: WaveShape, prefill_s: list[float], decode_s: list[FloatArray]) -> FloatArray:
    """Return the five terms of WaveTerms for one block on one kind in one format."""
    least_s = min(prefill_s)
    first, group = _first_rounds(shape), _path(shape)
    visits_s = np.concatenate(decode_s)
    later_s = sum(
        float(times_s[start:].sum()) for times_s, start in zip(decode_s, first, strict=True)
    )
    decode_least_s = float(visits_s.min()) if later_s > 0 else 0.0
    return np.array(
        [
            least_s,
            sum(prefill_s) - least_s,
            decode_least_s,
            later_s - decode_least_s,
            float(decode_s[group][first[group] :].sum()),
        ]
    )


def _first_rounds(shape: WaveShape) -> list[int]:
    """Return the turn from which each group's decode visits follow the end of prefill.

    It is turn 0 for groups whose last prompt the last prefill micro-batch holds. All prefills pass
    the last stage before any decode visit does, so that others return there in turn 1 at least.
    """
    released = shape.releases()[-1]
    return [int(group not in released) for group in range(len(shape.decode_rows))]


def _path(shape: WaveShape) -> int:
    """Return the group with the most rows to decode after the end of prefill."""
    first = _first_rounds(shape)
    work = [sum(rows[start:]) for rows, start in zip(shape.decode_rows, first, strict=True)]
    return max(range(len(work)), key=lambda group: (work[group], group))


def link_terms_s(
    costs: LayerCosts, shape: WaveShape, links: Sequence[Link | None]
) -> tuple[float, float]:
    """Return what a pipeline's links add to the end of prefill and to the rounds of the path.

    Args:
        costs: block times of the scenario.
        shape: the micro-batches of a wave.
        links: the link behind each stage, the last one back to the first; None on one device.
    """
    group = _path(shape)
    start = _first_rounds(shape)[group]
    hidden = HIDDEN_BYTES * costs.scenario.model.hidden_size
    prompt = costs.scenario.workload.prompt_tokens
    present = [link for link in links if link is not None]
    if not present:
        return 0.0, 0.0
    *forward, back = present
    prefill_bytes = min(shape.prefill_rows) * prompt * hidden
    prefill_s = sum(link.transfer_s(prefill_bytes) for link in forward)
    rows_by_round = shape.decode_rows[group]
    returned = (shape.prefill_rows[-1], *rows_by_round)[start : len(rows_by_round)]
    path_s = 0.0
    for rows, rounds in Counter(rows_by_round[start:]).items():
        path_s += rounds * sum(link.transfer_s(rows * hidden) for link in forward)
    for rows, rounds in Counter(returned).items():
        path_s += rounds * back.transfer_s(rows * TOKEN_BYTES)
    return prefill_s, path_s


def _fastest_links(task: PlanningTask, devices: int) -> list[Link | None]:
    """Return a pipeline of so many devices whose links are each as fast as any."""
    links = task.costs.scenario.cluster.links.values()
    if devices < 2:
        return [None]
    fastest = Link(min(link.latency_s for link in links), max(link.bytes_per_s for link in links))
    return [fastest] * devices
