"""Loads that a single device may carry under caps, and their costs at given prices.

A load says how many layers of each format and of each kind a device holds, and whether it holds the
embedding and the LM head. Loads are whole numbers and fit the device's memory exactly, which the
linear relaxation ignores; pricing all of them is the inner problem of a Dantzig-Wolfe bound. Where
layers cost or lose differently, which of them have which format is a choice of its own: layers pay
for a format and a place what loads are worth there.
"""

from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np

from llmpq_sim.search.bound.parts import BYTES, parts_of
from llmpq_sim.search.bound.problem import BoolArray, FloatArray, Problem
from llmpq_sim.search.bound.runs import runs_by_ends
from llmpq_sim.search.bound.schedule_terms import EMBEDDING, HEAD, TERMS, ScheduleTerms

MOST_LOADS = 400_000
"""Beyond so many loads of one device the refinement is not tried."""

LAYER = 0
"""A layer by its format alone, in what blocks use."""

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
        layers: layers of main kinds per format. Shape: (loads, formats).
        kinds: layers per kind. Shape: (loads, kinds).
        embedding, head: whether the load includes them, 0 or 1.
        spread_s: seconds that count for every stage: its least prefill step.
        decode_least_s, decode_path_s: the decode terms that sum over stages.
        prefill_rest_s, decode_rest_s: the terms of which the largest over stages counts.
        loss: quality loss of the layers.
    """

    layers: FloatArray
    kinds: FloatArray
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
        """Layers of all kinds."""
        return _row_sums(self.kinds)


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
        problem: the planning problem with its waves added up to one.
        parts: what its layers cost, as loads add it up.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = one_wave(problem)
        self.parts = parts_of(self.problem)
        self._runs = runs_by_ends(problem.kind_of_layer)

    @property
    def is_plain(self) -> bool:
        """Whether all layers are alike in all: a load then says what its layers lose."""
        return len(self.problem.items) == 3

    @cached_property
    def allowed(self) -> BoolArray:
        """Where layers of main kinds may be in which format. Shape: (places, formats)."""
        items = [item for item in self.problem.items if item.is_layer]
        main = [item.allowed for item in items if self.parts.main[item.block]]
        return np.asarray(np.any(main, axis=0))

    def within(self, place: int, cell: Cell) -> Loads | None:
        """Return every load of a place within a cell, or None if they are too many."""
        cases = []
        for embedding, head in END_CASES:
            if embedding and head and self.problem.ends_apart:
                continue
            counts = self._counts(place, cell, embedding, head)
            if counts is None:
                return None
            cases.append(self._loads(place, *counts, embedding, head))
        return Loads(
            *(
                np.concatenate([getattr(case, name) for case in cases])
                for name in Loads.__dataclass_fields__
            )
        )

    def _counts(
        self, place: int, cell: Cell, embedding: bool, head: bool
    ) -> tuple[FloatArray, FloatArray] | None:
        """Return the layers per format and per kind that memory and the cell's caps allow."""
        uses, of_kinds, limits = self._uses(place, cell)
        left = limits - embedding * uses[EMBEDDING, :, 0] - head * uses[HEAD, :, 0]
        runs = self._runs[embedding, head]
        if (left < 0).any():  # a device may always be left out
            empty = int(not embedding and not head)
            return np.zeros((empty, len(self.problem.formats))), np.zeros((empty, runs.shape[1]))
        least = uses[LAYER] + of_kinds[:, self.parts.main > 0].min(axis=1)[:, None]
        layers = self._layer_counts(place, least, left)
        return None if layers is None else self._with_kinds(layers, runs, uses, of_kinds, left)

    def _layer_counts(self, place: int, use_of: FloatArray, left: FloatArray) -> FloatArray | None:
        """Return the layers per format that leave no limit exceeded if each uses so much."""
        counts = np.zeros((1, len(self.problem.formats)))
        room = [np.array([each]) for each in left]
        for column in range(len(self.problem.formats)):
            if not self.allowed[place, column]:
                continue
            use = use_of[:, column]
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

    def _with_kinds(
        self,
        layers: FloatArray,
        runs: FloatArray,
        uses: FloatArray,
        of_kinds: FloatArray,
        left: FloatArray,
    ) -> tuple[FloatArray, FloatArray] | None:
        """Return the counts with each run that has as many layers of main kinds, if it fits too."""
        if runs.shape[1] == 1:
            return layers, _row_sums(layers)[:, None]
        by_main = runs @ self.parts.main
        order = np.argsort(by_main, kind="stable")
        counts = _row_sums(layers)
        first = np.searchsorted(by_main[order], counts, side="left")
        runs_of = np.searchsorted(by_main[order], counts, side="right") - first
        if int(runs_of.sum()) > MOST_LOADS:
            return None
        parent = np.repeat(np.arange(len(layers)), runs_of)
        offsets = np.arange(len(parent)) - np.repeat(np.cumsum(runs_of) - runs_of, runs_of)
        kinds = runs[order][first[parent] + offsets]
        used = layers[parent] @ uses[LAYER].T + kinds @ of_kinds.T
        fits = (used <= left * (1 + 1e-9)).all(axis=1)
        return layers[parent][fits], kinds[fits]

    def _uses(self, place: int, cell: Cell) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return what blocks and kinds use of bytes, layers and capped times, and what is left.

        Shapes: (3 blocks, 5 limits, formats), of a layer by its format alone; (5 limits, kinds),
        what its kind adds; and (5 limits,).
        """
        terms, problem, parts = self.problem.waves[0], self.problem, self.parts
        alone = TERMS[:4]  # the path's steps are among the others

        def of_blocks(name: str, ends: FloatArray) -> FloatArray:
            return np.concatenate([parts.of_formats[name][None, place], ends])

        by_name = {name: of_blocks(name, getattr(terms, name)[EMBEDDING:, place]) for name in alone}
        layers = np.zeros((3, len(problem.formats)))
        layers[LAYER] = 1.0
        uses = np.stack(
            [
                of_blocks(BYTES, problem.block_bytes[EMBEDDING:]),
                layers,
                by_name["prefill_rest"],
                by_name["decode_rest"],
                sum(by_name[name] for name in alone),
            ],
            axis=1,
        )
        of_kinds = {name: parts.of_kinds[name][place] for name in (*alone, BYTES)}
        added = np.stack(
            [
                of_kinds[BYTES],
                1.0 - parts.main,
                of_kinds["prefill_rest"],
                of_kinds["decode_rest"],
                sum(of_kinds[name] for name in alone),
            ]
        )
        prefill_least_s, prefill_rest_s, decode_least_s, decode_rest_s, _ = terms.step_s[:, place]
        limits = np.array(
            [
                problem.capacity_bytes[place],
                float(len(problem.kind_of_layer)),
                cell.prefill_most_s - prefill_rest_s,
                cell.decode_most_s - decode_rest_s,
                cell.makespan_s - prefill_least_s - prefill_rest_s - decode_least_s - decode_rest_s,
            ]
        )
        return uses, added, limits

    def _loads(
        self, place: int, layers: FloatArray, kinds: FloatArray, embedding: bool, head: bool
    ) -> Loads:
        terms, parts = self.problem.waves[0], self.parts
        is_used = (_row_sums(kinds) > 0) | embedding | head

        def total(name: str) -> FloatArray:
            at = getattr(terms, name)[:, place]
            ends = embedding * at[EMBEDDING, 0] + head * at[HEAD, 0]
            steps_s = is_used * terms.step_s[TERMS.index(name), place]
            of_layers = layers @ parts.of_formats[name][place] + ends + steps_s
            return np.asarray(of_layers + kinds @ parts.of_kinds[name][place])

        return Loads(
            layers=layers,
            kinds=kinds,
            embedding=np.full(len(layers), float(embedding)),
            head=np.full(len(layers), float(head)),
            spread_s=total("prefill_least"),
            decode_least_s=total("decode_least"),
            decode_path_s=total("decode_path"),
            prefill_rest_s=total("prefill_rest"),
            decode_rest_s=total("decode_rest"),
            loss=layers @ self.problem.items[0].loss if self.is_plain else np.zeros(len(layers)),
        )
