"""Terms of the bound from blocks, links and bare steps of one step graph.

The terms are those of `certificate`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import inf

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.cluster import Link
from llmpq_sim.core.schedule import BatchSchedule, PrefillStep
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.simulator.static.simulate import HIDDEN_BYTES, TOKEN_BYTES

FloatArray = NDArray[np.float64]

EMBEDDING, HEAD = -2, -1
"""The last two blocks of the first axis of every array below; before them are the kinds of layer,
by their numbers."""

STEP = -3
"""What each step of a stage costs beside blocks, where the terms of a block are asked for."""

Layer = tuple[int, str]
"""A layer by the number of its kind and the name of its format."""

TERMS = ("prefill_least", "prefill_rest", "decode_least", "decode_rest", "decode_path")
"""Fields of ScheduleTerms that add up over the blocks of a stage, as ``step_s`` numbers them."""


@dataclass(frozen=True)
class ScheduleTerms:
    """Seconds that each block adds to the terms of the bound for one wave shape.

    Every array has the shape (blocks, places, formats), with the blocks as `EMBEDDING` says.

    Attributes:
        count: how many waves have this shape.
        prefill_least: its shortest prefill step; for the LM head that is 0 where prompts are cut.
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
    layer_kinds = range(len(costs.scenario.model.kinds))
    arrays = np.zeros((5, len(layer_kinds) + 2, len(distinct), len(formats)))
    for number, kind in enumerate(distinct):
        for (column, name), layer_kind in product(enumerate(formats), layer_kinds):
            if name in costs.devices[kind].formats:
                layer = layer_kind, name
                arrays[:, layer_kind, number, column] = _terms(costs, wave, kind, layer)
        arrays[:, EMBEDDING, number, 0] = _terms(costs, wave, kind, EMBEDDING)
        arrays[:, HEAD, number, 0] = _terms(costs, wave, kind, HEAD)
    links = _fastest_links(costs, devices)
    prefill_links_s, path_links_s = _link_terms_s(costs, wave, links)
    step_s = np.stack([_terms(costs, wave, kind, STEP) for kind in distinct], axis=1)
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


@dataclass(frozen=True, eq=False)
class _Rounds:
    """The decode steps of a wave shape; the same object for all waves that decode alike.

    Attributes:
        rows: for each group the rows still generating in each round.
        sizes: rows of its steps, each size once.
        first: the turn from which each group's decode steps follow the end of prefill. It is 0
            for groups whose last prompt the last prefill micro-batch holds. All prefills pass the
            last stage before any decode step does, so that others return there in turn 1 at least.
        path: the group with the most rows to decode after the end of prefill.
    """

    rows: tuple[tuple[int, ...], ...]
    sizes: frozenset[int]
    first: tuple[int, ...]
    path: int


@lru_cache(maxsize=1024)
def _rounds(rows: tuple[tuple[int, ...], ...], first: tuple[int, ...]) -> _Rounds:
    work = [sum(of_group[start:]) for of_group, start in zip(rows, first, strict=True)]
    path = max(range(len(work)), key=lambda group: (work[group], group))
    return _Rounds(rows, frozenset(size for of_group in rows for size in of_group), first, path)


@dataclass(frozen=True, eq=False)
class _Prefill:
    """The prefill steps of a wave shape, in order, and each different one once."""

    steps: tuple[PrefillStep, ...]
    different: frozenset[PrefillStep]


@lru_cache(maxsize=1024)
def _prefill(steps: tuple[PrefillStep, ...]) -> _Prefill:
    return _Prefill(steps, frozenset(steps))


@dataclass(frozen=True)
class _Schedule:
    """A wave shape with what is asked of it for every kind and format.

    Attributes:
        shape: the micro-batches.
        prefill: its prefill steps; the same object for all wave shapes that prefill alike.
        rounds: its decode steps.
    """

    shape: BatchSchedule
    prefill: _Prefill
    rounds: _Rounds

    @classmethod
    def of(cls, shape: BatchSchedule) -> "_Schedule":
        """Return a wave shape with these."""
        released = set(shape.releases()[-1])
        first = tuple(int(group not in released) for group in range(len(shape.decode_rows)))
        return cls(shape, _prefill(shape.prefill_steps), _rounds(shape.decode_rows, first))


def _least_step_s(step_s: FloatArray, devices: int) -> FloatArray:
    """Return what the steps of any pipeline of at least so many devices add to its times.

    The least counts for each device; what is added to the slowest stage is no less than the least
    of all kinds.
    """
    least, rest, decode_least, decode_rest, path = step_s.min(axis=1)
    return np.array([devices * least + rest, devices * decode_least + decode_rest, devices * path])


def _terms(costs: LayerCosts, wave: _Schedule, kind: str, block: Layer | int) -> FloatArray:
    """Return the five terms of ScheduleTerms for one block on one kind.

    Args:
        costs: block times of the scenario.
        wave: a wave shape.
        kind: of device.
        block: EMBEDDING, HEAD or STEP, or a layer.
    """
    prefill = _prefill_terms(costs, wave.prefill, kind, block)
    return np.array([*prefill, *_decode_terms(costs, wave.rounds, kind, block)])


def _prefill_s(costs: LayerCosts, kind: str, block: Layer | int, step: PrefillStep) -> float:
    """Return the time of a block in a prefill step; only the last chunk has the LM head."""
    if isinstance(block, tuple):
        layer_kind, name = block
        return costs.prefill_step_s(kind, name, step, layer_kind)
    if block == EMBEDDING:
        return costs.embedding_s(kind, step.step_tokens)
    if block == STEP:
        return costs.step_s(kind)
    return costs.head_s(kind, step.rows) if step.is_last else 0.0


def _decode_s(costs: LayerCosts, kind: str, block: Layer | int, rows: int) -> FloatArray:
    """Return the time of a block in each decode round."""
    if isinstance(block, tuple):
        layer_kind, name = block
        return costs.decode_layer_s(kind, name, rows, layer_kind)
    if block == STEP:
        return np.full(costs.rounds, costs.step_s(kind))
    ends_s = costs.embedding_s if block == EMBEDDING else costs.head_s
    return np.full(costs.rounds, ends_s(kind, rows))


@lru_cache(maxsize=4096)
def _prefill_terms(
    costs: LayerCosts, prefill: _Prefill, kind: str, block: Layer | int
) -> tuple[float, float]:
    """Return the least and the rest of a block; all ways to decode share them."""
    by_step = {step: _prefill_s(costs, kind, block, step) for step in prefill.different}
    prefill_s = [by_step[step] for step in prefill.steps]
    least_s = min(prefill_s)
    return least_s, sum(prefill_s) - least_s


@lru_cache(maxsize=4096)
def _decode_terms(
    costs: LayerCosts, rounds: _Rounds, kind: str, block: Layer | int
) -> tuple[float, float, float]:
    """Return the least, the rest and the path of a block; all sizes of prefill share them."""
    by_rows = {rows: _decode_s(costs, kind, block, rows) for rows in rounds.sizes}
    alike: dict[tuple[tuple[int, ...], int], tuple[float, float]] = {}  # least and later of a group
    for rows, start in zip(rounds.rows, rounds.first, strict=True):
        if (rows, start) not in alike:
            steps_s = _steps_s(rows, by_rows)
            alike[rows, start] = float(steps_s.min(initial=inf)), float(steps_s[start:].sum())
    groups = [alike[group] for group in zip(rounds.rows, rounds.first, strict=True)]
    later_s = sum(later_s for _, later_s in groups)
    least_s = min(least_s for least_s, _ in groups) if later_s > 0 else 0.0
    return least_s, later_s - least_s, groups[rounds.path][1]


def _steps_s(rows_by_round: tuple[int, ...], by_rows: dict[int, FloatArray]) -> FloatArray:
    """Return a group's step in each of its rounds, whose rows may become fewer."""
    steps_s, end = np.zeros(len(rows_by_round)), 0
    for size, rounds in Counter(rows_by_round).items():  # they never become more
        steps_s[end : end + rounds] = by_rows[size][end : end + rounds]
        end += rounds
    return steps_s


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
    shape, group = wave.shape, wave.rounds.path
    start = wave.rounds.first[group]
    hidden = HIDDEN_BYTES * costs.scenario.model.hidden_size
    present = [link for link in links if link is not None]
    if not present:
        return 0.0, 0.0
    *forward, back = present
    prefill_bytes = min(step.step_tokens for step in wave.prefill.different) * hidden
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
