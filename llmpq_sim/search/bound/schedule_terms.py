"""Terms of the bound from blocks, links and bare steps of one step graph.

The terms are those of `certificate`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.cluster import Link
from llmpq_sim.core.schedule import BatchSchedule
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.simulator.static.simulate import HIDDEN_BYTES, TOKEN_BYTES

FloatArray = NDArray[np.float64]

LAYER, EMBEDDING, HEAD = range(3)
"""The three kinds of block, the first axis of every array below."""

TERMS = ("prefill_least", "prefill_rest", "decode_least", "decode_rest", "decode_path")
"""Fields of ScheduleTerms that add up over the blocks of a stage, as ``step_s`` numbers them."""


@dataclass(frozen=True)
class ScheduleTerms:
    """Seconds that each block adds to the terms of the bound for one wave shape.

    Every array has the shape (3 blocks, places, formats).

    Attributes:
        count: how many waves have this shape.
        prefill_least: its shortest prefill step.
        prefill_rest: its other prefill steps together.
        decode_least: its shortest decode step.
        decode_rest: its decode steps that follow the end of prefill, less the shortest.
        decode_path: its steps in the rounds of one group, one after another.
        prefill_links_s, path_links_s: what the links add at least to a prefill and to those rounds.
        step_s: what a device adds to each of the five terms by being visited at all. Shape:
            (5 terms, places).
        least_step_s: what such steps add at least to the end of prefill, to the length of decode
            by the slowest stage, and to the rounds of the path. Shape: (3,).
    """

    count: int
    prefill_least: FloatArray
    prefill_rest: FloatArray
    decode_least: FloatArray
    decode_rest: FloatArray
    decode_path: FloatArray
    prefill_links_s: float
    path_links_s: float
    step_s: FloatArray
    least_step_s: FloatArray


def schedule_terms(
    costs: LayerCosts,
    kinds: Sequence[str],
    formats: Sequence[str],
    shape: BatchSchedule,
    count: int,
    devices: int,
) -> ScheduleTerms:
    """Return the terms of one wave shape.

    Args:
        costs: block times of the scenario.
        kinds: kind of device of each place.
        formats: allowed weight formats.
        shape: the micro-batches of a wave.
        count: waves of this shape.
        devices: how many devices any plan uses at least.
    """
    distinct = list(dict.fromkeys(kinds))
    wave = _Schedule.of(shape)
    arrays = np.zeros((5, 3, len(distinct), len(formats)))
    for number, kind in enumerate(distinct):
        for column, name in enumerate(formats):
            if name in costs.devices[kind].formats:
                arrays[:, LAYER, number, column] = _layer_terms(costs, wave, kind, name)
        arrays[:, EMBEDDING, number, 0] = _end_terms(costs, wave, kind, EMBEDDING)
        arrays[:, HEAD, number, 0] = _end_terms(costs, wave, kind, HEAD)
    links = _fastest_links(costs, devices)
    prefill_links_s, path_links_s = _link_terms_s(costs, wave, links)
    step_s = np.stack([_step_terms(costs, wave, kind) for kind in distinct], axis=1)
    of_places = [distinct.index(kind) for kind in kinds]
    least, rest, decode_least, decode_rest, path = arrays[:, :, of_places]
    return ScheduleTerms(
        count=count,
        prefill_least=least,
        prefill_rest=rest,
        decode_least=decode_least,
        decode_rest=decode_rest,
        decode_path=path,
        prefill_links_s=prefill_links_s,
        path_links_s=path_links_s,
        step_s=step_s[:, of_places],
        least_step_s=_least_step_s(step_s, devices),
    )


@dataclass(frozen=True)
class _Schedule:
    """A wave shape with what is asked of it for every kind and format.

    Attributes:
        shape: the micro-batches.
        prefill_sizes: rows of its prefill micro-batches, each size once.
        decode_sizes: rows of its decode steps, each size once.
        first: the turn from which each group's decode steps follow the end of prefill. It is 0
            for groups whose last prompt the last prefill micro-batch holds. All prefills pass the
            last stage before any decode step does, so that others return there in turn 1 at least.
        path: the group with the most rows to decode after the end of prefill.
    """

    shape: BatchSchedule
    prefill_sizes: frozenset[int]
    decode_sizes: frozenset[int]
    first: list[int]
    path: int

    @classmethod
    def of(cls, shape: BatchSchedule) -> "_Schedule":
        """Return a wave shape with these."""
        released = set(shape.releases()[-1])
        first = [int(group not in released) for group in range(len(shape.decode_rows))]
        work = [sum(rows[start:]) for rows, start in zip(shape.decode_rows, first, strict=True)]
        path = max(range(len(work)), key=lambda group: (work[group], group))
        decode_sizes = frozenset(rows for group in shape.decode_rows for rows in group)
        return cls(shape, frozenset(shape.prefill_rows), decode_sizes, first, path)


def _step_terms(costs: LayerCosts, wave: _Schedule, kind: str) -> FloatArray:
    step_s = costs.step_s(kind)
    decode_s = [np.full(len(rows), step_s) for rows in wave.shape.decode_rows]
    return _terms(wave, [step_s] * len(wave.shape.prefill_rows), decode_s)


def _least_step_s(step_s: FloatArray, devices: int) -> FloatArray:
    """Return what the steps of any pipeline of at least so many devices add to its times.

    The least counts for each device; what is added to the slowest stage is no less than the least
    of all kinds.
    """
    least, rest, decode_least, decode_rest, path = step_s.min(axis=1)
    return np.array([devices * least + rest, devices * decode_least + decode_rest, devices * path])


def _layer_terms(costs: LayerCosts, wave: _Schedule, kind: str, name: str) -> FloatArray:
    prefill_s = {rows: costs.prefill_layer_s(kind, name, rows) for rows in wave.prefill_sizes}
    decode_s = {rows: costs.decode_layer_s(kind, name, rows) for rows in wave.decode_sizes}
    return _block_terms(wave, prefill_s, decode_s)


def _end_terms(costs: LayerCosts, wave: _Schedule, kind: str, block: int) -> FloatArray:
    prompt = costs.scenario.workload.prompt_tokens
    sizes = wave.prefill_sizes
    if block == EMBEDDING:
        prefill_s = {rows: costs.embedding_s(kind, rows * prompt) for rows in sizes}
    else:
        prefill_s = {rows: costs.head_s(kind, rows) for rows in sizes}
    decode = costs.embedding_s if block == EMBEDDING else costs.head_s
    decode_s = {rows: np.full(costs.rounds, decode(kind, rows)) for rows in wave.decode_sizes}
    return _block_terms(wave, prefill_s, decode_s)


def _block_terms(
    wave: _Schedule, prefill_s: dict[int, float], decode_s: dict[int, FloatArray]
) -> FloatArray:
    """Return the five terms of a block, given its time in each size of micro-batch."""
    steps_s = [_steps_s(rows, decode_s) for rows in wave.shape.decode_rows]
    return _terms(wave, [prefill_s[rows] for rows in wave.shape.prefill_rows], steps_s)


def _steps_s(rows_by_round: tuple[int, ...], by_rows: dict[int, FloatArray]) -> FloatArray:
    """Return a group's step in each of its rounds, whose rows may become fewer."""
    rows = np.array(rows_by_round, dtype=int)
    steps_s = np.zeros(len(rows))
    for size, round_s in by_rows.items():
        chosen = np.flatnonzero(rows == size)
        steps_s[chosen] = round_s[chosen]
    return steps_s


def _terms(wave: _Schedule, prefill_s: list[float], decode_s: list[FloatArray]) -> FloatArray:
    """Return the five terms of ScheduleTerms for one block on one kind in one format."""
    least_s = min(prefill_s)
    first, group = wave.first, wave.path
    steps_s = np.concatenate(decode_s)
    later_s = sum(
        float(times_s[start:].sum()) for times_s, start in zip(decode_s, first, strict=True)
    )
    decode_least_s = float(steps_s.min()) if later_s > 0 else 0.0
    return np.array(
        [
            least_s,
            sum(prefill_s) - least_s,
            decode_least_s,
            later_s - decode_least_s,
            float(decode_s[group][first[group] :].sum()),
        ]
    )


def link_terms_s(
    costs: LayerCosts, shape: BatchSchedule, links: Sequence[Link | None]
) -> tuple[float, float]:
    """Return what a pipeline's links add to the end of prefill and to the rounds of the path.

    Args:
        costs: block times of the scenario.
        shape: the micro-batches of a wave.
        links: the link behind each stage, the last one back to the first; None on one device.
    """
    return _link_terms_s(costs, _Schedule.of(shape), links)


def _link_terms_s(
    costs: LayerCosts, wave: _Schedule, links: Sequence[Link | None]
) -> tuple[float, float]:
    shape, group = wave.shape, wave.path
    start = wave.first[group]
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


def _fastest_links(costs: LayerCosts, devices: int) -> list[Link | None]:
    """Return a pipeline of so many devices whose links are each as fast as any."""
    links = costs.scenario.cluster.links.values()
    if devices < 2:
        return [None]
    fastest = Link(min(link.latency_s for link in links), max(link.bytes_per_s for link in links))
    return [fastest] * devices
