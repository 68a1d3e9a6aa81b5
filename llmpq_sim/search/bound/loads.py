"""Loads that a single device may carry under caps, and their costs at given prices.

A load says how many layers of each format a device holds, and whether it holds the embedding and
the LM head. Loads are whole numbers and fit the device's memory exactly, which the linear
relaxation ignores; pricing all of them is the inner problem of a Dantzig-Wolfe bound.
"""

from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np

from llmpq_sim.search.bound.problem import FloatArray, Problem
from llmpq_sim.search.bound.schedule_terms import EMBEDDING, HEAD, TERMS, ScheduleTerms

MOST_LOADS = 400_000
"""Beyond so many loads of one device the refinement is not tried."""

LAYER = 0
"""The only kind of layer where loads describe a problem."""

END_CASES = ((False, False), (True, False), (False, True), (True, True))


@dataclass(frozen=True)
class Cell:
    """Limits of the slowest stage: seconds of its prefill rest and its decode rest.

    Plans are sorted into cells by their slowest stages; `makespan_s` leaves out every plan that is
    slower as a whole.
    """

    prefill_least_s: float
    prefill_most_s: float
    decode_least_s: float
    decode_most_s: float
    makespan_s: float


@dataclass(frozen=True)
class Loads:
    """The loads of one place within a cell; each array has one entry per load.

    Attributes:
        layers: layers per format. Shape: (loads, formats).
        embedding, head: whether the load includes them, 0 or 1.
        spread_s: seconds that count for every stage: its least prefill step.
        decode_least_s, decode_path_s: the decode terms that sum over stages.
        prefill_rest_s, decode_rest_s: the terms of which the largest over stages counts.
        loss: quality loss of the layers.
    """

    layers: FloatArray
    embedding: FloatArray
    head: FloatArray
    spread_s: FloatArray
    decode_least_s: FloatArray
    decode_path_s: FloatArray
    prefill_rest_s: FloatArray
    decode_rest_s: FloatArray
    loss: FloatArray

    @cached_property
    def layer_count(self) -> FloatArray:
        """Layers of all formats."""
        return _row_sums(self.layers)


def _row_sums(layers: FloatArray) -> FloatArray:
    """Return the sum of each row; column by column, since NumPy is slow along short rows."""
    return np.asarray(sum(layers[:, column] for column in range(layers.shape[1])))


def one_wave(problem: Problem) -> Problem:
    """Return the problem with all waves added up to one, whose bound holds for it too.

    The largest of sums over waves is at most the sum of the largest, so nothing too much is
    proven; waves of nearly equal shape lose little.
    """

    def total(name: str) -> Any:
        return sum(terms.count * getattr(terms, name) for terms in problem.waves)

    names = [name for name in ScheduleTerms.__dataclass_fields__ if name != "count"]
    return replace(problem, waves=(ScheduleTerms(1, *(total(name) for name in names)),))


class LoadTable:
    """The coefficients of loads at each place of a problem.

    Attributes:
        problem: the planning problem with its waves added up to one; its layers are all alike.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = one_wave(problem)
        self._layer = problem.items[0]

    @staticmethod
    def applies_to(problem: Problem) -> bool:
        """Whether loads describe the problem: its layers are all alike."""
        return len(problem.items) == 3

    def within(self, place: int, cell: Cell) -> Loads | None:
        """Return every load of a place within a cell, or None if they are too many."""
        cases = []
        for embedding, head in END_CASES:
            if embedding and head and self.problem.ends_apart:
                continue
            layers = self._layer_counts(place, cell, embedding, head)
            if layers is None:
                return None
            cases.append(self._loads(place, layers, embedding, head))
        return Loads(
            *(
                np.concatenate([getattr(case, name) for case in cases])
                for name in Loads.__dataclass_fields__
            )
        )

    def _layer_counts(
        self, place: int, cell: Cell, embedding: bool, head: bool
    ) -> FloatArray | None:
        """Return the layer counts per format that memory and the cell's caps allow."""
        uses, limits = self._uses(place, cell)
        left = limits - embedding * uses[EMBEDDING, :, 0] - head * uses[HEAD, :, 0]
        if (left < 0).any():  # a device may always be left out
            empty = not embedding and not head
            return np.zeros((int(empty), len(self.problem.formats)))
        counts = np.zeros((1, len(self.problem.formats)))
        room = [np.array([each]) for each in left]
        for column in range(len(self.problem.formats)):
            if not self._layer.allowed[place, column]:
                continue
            use = uses[LAYER, :, column]
            times = [left / used for left, used in zip(room, use, strict=True) if used > 0]
            most = np.floor(reduce(np.minimum, times) + 1e-9).astype(int)
            most = np.maximum(most, 0)
            if int((most + 1).sum()) > MOST_LOADS:
                return None
            parent = np.repeat(np.arange(len(counts)), most + 1)
            chosen = np.arange(len(parent)) - np.repeat(np.cumsum(most + 1) - most - 1, most + 1)
            counts = counts[parent]
            counts[:, column] = chosen
            if column < len(self.problem.formats) - 1:  # the largest array: nothing asks for it
                room = [left[parent] - chosen * used for left, used in zip(room, use, strict=True)]
        return counts

    def _uses(self, place: int, cell: Cell) -> tuple[FloatArray, FloatArray]:
        """Return what each block uses of bytes, layers and capped times, and what is left for them.

        Shapes: (3 blocks, 5 limits, formats) and (5 limits,).
        """
        terms, problem = self.problem.waves[0], self.problem
        layers = np.zeros((3, len(problem.formats)))
        layers[LAYER] = 1.0
        alone_s = terms.prefill_least + terms.prefill_rest + terms.decode_least + terms.decode_rest
        uses = np.stack(
            [
                problem.block_bytes,
                layers,
                terms.prefill_rest[:, place],
                terms.decode_rest[:, place],
                alone_s[:, place],
            ],
            axis=1,
        )
        prefill_least_s, prefill_rest_s, decode_least_s, decode_rest_s, _ = terms.step_s[:, place]
        limits = np.array(
            [
                problem.capacity_bytes[place],
                float(self._layer.count),
                cell.prefill_most_s - prefill_rest_s,
                cell.decode_most_s - decode_rest_s,
                cell.makespan_s - prefill_least_s - prefill_rest_s - decode_least_s - decode_rest_s,
            ]
        )
        return uses, limits

    def _loads(self, place: int, layers: FloatArray, embedding: bool, head: bool) -> Loads:
        terms = self.problem.waves[0]
        is_used = (_row_sums(layers) > 0) | embedding | head

        def total(name: str) -> FloatArray:
            at = getattr(terms, name)[:, place]
            ends = embedding * at[EMBEDDING, 0] + head * at[HEAD, 0]
            steps_s = is_used * terms.step_s[TERMS.index(name), place]
            return np.asarray(layers @ at[LAYER] + ends + steps_s)

        return Loads(
            layers=layers,
            embedding=np.full(len(layers), float(embedding)),
            head=np.full(len(layers), float(head)),
            spread_s=total("prefill_least"),
            decode_least_s=total("decode_least"),
            decode_path_s=total("decode_path"),
            prefill_rest_s=total("prefill_rest"),
            decode_rest_s=total("decode_rest"),
            loss=np.asarray(layers @ self._layer.loss),
        )
