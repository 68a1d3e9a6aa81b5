"""Certificate: a lower bound on the makespan that multipliers prove by arithmetic.

For a wave, let P and D be the prefill and decode times of the stages. Every stage is a FIFO server
and all prompts wait at the first stage, so each stage serves all prefill steps before any decode
step, and

  prefill ends     >= sum_i least P_i + max_j (rest of P_j)
  decode takes     >= sum_i path D_i                                 (one group's rounds in turn)
  decode takes     >= sum_i least D_i + max_j (later D_j - least D_j) (one stage's later steps)

where *later* leaves out what may overlap the end of prefill: round 1 of the groups that do not wait
for the last prefill micro-batch. With weights on the stages
(w for prefill, v for decode, sum v = 1 - alpha, alpha on the path) every maximum becomes a weighted
sum; with a price per unit of loss and per byte of each device the constraints join the sum; then
each block may be placed where it is cheapest, and the total can only be too low:

  makespan >= sum over blocks of min over places and formats of their weighted, priced times
              + link times + what steps cost beside blocks, on the fewest devices
              - loss price x budget - sum byte prices x capacities.

It uses no order and no contiguity, so it holds for every partition and device order. Where layers
are of several kinds, a device cannot hold those that suit it best: it holds a run. So a price may
be put on each layer at each place, by its kind, if what the dearest run costs is given back for
each device. The best
multipliers are the dual solution of the linear program in `relaxation`; checking needs no solver.
Source: the Lagrangian bound of planning theory (Geoffrion 1974) applied to LLM-PQ's objective
(arXiv:2403.01136, sec. 4) with its decode term corrected.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from llmpq_sim.core.errors import CertificateError, InputError
from llmpq_sim.core.fields import Fields, one_of
from llmpq_sim.core.records import Codec, Finite, NotNegative, Place, from_dict, to_dict
from llmpq_sim.search.bound.loads import Cell, Loads, LoadTable
from llmpq_sim.search.bound.problem import FloatArray, Problem
from llmpq_sim.search.bound.runs import most_of_a_run
from llmpq_sim.search.bound.schedule_terms import EMBEDDING, ScheduleTerms

DEEPEST = 40
"""Cuts of a cell, one in another, at most."""

LOADS_AT_ONCE = 4096
"""Loads priced together: nine arrays of so many numbers stay in a processor's cache."""


@dataclass(frozen=True)
class ScheduleMultipliers:
    """Weights of one wave shape's terms.

    Attributes:
        prefill: weight of one device of each place; with the device counts they sum to 1.
        decode: likewise, summing to 1 - path.
        path: weight of the rounds of one group, between 0 and 1.
    """

    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    path: Finite


@dataclass(frozen=True)
class Multipliers:
    """What proves a bound for one micro-batching.

    Attributes:
        waves: weights of each different wave shape.
        loss_price_s: seconds per unit of quality loss.
        byte_price_s: seconds per byte on a device of each place.
        run_price_s: seconds per layer of each kind, for one place after the other; none where
            layers are of one kind.
    """

    waves: tuple[ScheduleMultipliers, ...]
    loss_price_s: Finite
    byte_price_s: tuple[float, ...]
    run_price_s: Annotated[tuple[float, ...], Place.OPTIONAL] = ()


def bound_s(problem: Problem, multipliers: Multipliers) -> float:
    """Return the makespan below which no plan with this micro-batching can be.

    Any multipliers give a true bound: negative ones count as 0 and weights are scaled to their
    sums, so a wrong certificate proves less, never too much.
    """
    seconds = np.zeros((len(problem.block_bytes), len(problem.places), len(problem.formats)))
    links_s = 0.0
    for terms, weights in zip(problem.waves, multipliers.waves, strict=True):
        wave_s, wave_links_s = _weighted(problem, terms, weights)
        seconds += terms.count * wave_s
        links_s += terms.count * wave_links_s
    byte_price_s = np.maximum(np.array(multipliers.byte_price_s), 0.0)
    loss_price_s = max(multipliers.loss_price_s, 0.0)
    seconds += problem.block_bytes[:, None, :] * byte_price_s[None, :, None]
    total_s = links_s
    if multipliers.run_price_s:
        run_price_s = np.reshape(multipliers.run_price_s, (len(problem.places), -1))
        seconds[:EMBEDDING] += run_price_s.T[:, :, None]
        total_s -= _dearest_runs_s(problem, run_price_s)
    for item in problem.items:
        priced = seconds[item.block] + loss_price_s * item.loss
        total_s += item.count * float(priced[item.allowed].min(initial=np.inf))
    held = float((byte_price_s * problem.place_counts * problem.capacity_bytes).sum())
    return total_s - loss_price_s * problem.budget - held


def _dearest_runs_s(problem: Problem, run_price_s: FloatArray) -> float:
    """Return what the runs of all devices cost at most, by the prices of kinds at each place."""
    of_layers = run_price_s[:, list(problem.kind_of_layer)]
    dearest = [most_of_a_run(of_place) for of_place in of_layers]
    return float(np.array(dearest) @ problem.place_counts)


def _weighted(
    problem: Problem, terms: ScheduleTerms, weights: ScheduleMultipliers
) -> tuple[FloatArray, float]:
    """Return each block's weighted seconds in one wave, and those of links and bare steps."""
    path = min(max(weights.path, 0.0), 1.0)
    prefill = _scaled(weights.prefill, problem.place_counts, 1.0)[None, :, None]
    decode = _scaled(weights.decode, problem.place_counts, 1.0 - path)[None, :, None]
    wave_s = (
        terms.prefill_least
        + prefill * terms.prefill_rest
        + path * terms.decode_path
        + (1.0 - path) * terms.decode_least
        + decode * terms.decode_rest
    )
    prefill_s, slowest_s, path_s = terms.least_step_s.tolist()
    fixed_s = terms.prefill_links_s + prefill_s
    fixed_s += path * (terms.path_links_s + path_s) + (1.0 - path) * slowest_s
    return wave_s, fixed_s


def _scaled(weights: tuple[float, ...], counts: FloatArray, total: float) -> FloatArray:
    """Return weights at least 0 whose sum over all devices is the total."""
    positive = np.maximum(np.array(weights, dtype=float), 0.0)
    found = float((positive * counts).sum())
    if found <= 0.0:
        positive, found = np.ones(len(counts)), float(counts.sum())
    return np.asarray(positive / found * total)


def _values_s(fields: Fields, key: str) -> tuple[float, float, float]:
    values = fields.numbers(key)
    if len(values) != 3:
        raise InputError(f"{fields.where}.{key}: expected 3 numbers, got {len(values)}")
    return values[0], values[1], values[2]


@dataclass(frozen=True)
class CellMultipliers:
    """What proves a bound for the plans of one cell.

    Attributes:
        prefill: weight of one device of each place, and last the weight of the cell's own least.
        decode: likewise for the decode rest; with ``path`` they sum to 1.
        path: weight of the rounds of one group, between 0 and 1.
        loss_price_s: seconds per unit of quality loss.
        values_s: what a layer, the embedding and the LM head are worth; a layer 0 where layers are
            not all alike.
        format_values_s: what a layer of a main kind is worth in each format, for one place after
            the other; none where all layers are alike.
        kind_values_s: what a layer of each kind is worth besides, for one place after the other.
    """

    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    path: Finite
    loss_price_s: Finite
    values_s: Annotated[tuple[float, float, float], Codec(_values_s, list)]
    format_values_s: Annotated[tuple[float, ...], Place.OPTIONAL] = ()
    kind_values_s: Annotated[tuple[float, ...], Place.OPTIONAL] = ()


@dataclass(frozen=True)
class Split:
    """A cell cut in two: plans whose slowest stage is below a limit, and the others.

    Attributes:
        term: ``prefill`` or ``decode``, the rest that is limited.
        at_s: the limit.
        below, above: proofs of the two parts.
    """

    term: Annotated[str, one_of(("prefill", "decode"))]
    at_s: NotNegative
    below: "CellTree"
    above: "CellTree"


def _read_tree(fields: Fields, key: str, depth: int = 0) -> Split | CellMultipliers:
    part = fields.fields(key)
    if depth > DEEPEST:
        raise InputError(f"{part.where}: expected at most {DEEPEST} cuts, one in another")
    if not part.has("term"):
        return from_dict(CellMultipliers, part)
    below = _read_tree(part, "below", depth + 1)
    return from_dict(Split, part, below=below, above=_read_tree(part, "above", depth + 1))


CellTree = Annotated[Split | CellMultipliers, Codec(_read_tree, to_dict)]
"""The proof of a cell's bound: a tree of cells."""


def proof_bound_s(table: LoadTable, proof: Split | CellMultipliers, cell: Cell) -> float:
    """Return the makespan below which no plan of the cell can be, at most the cell's own limit.

    Raises:
        CertificateError: the proof needs more loads than can be checked.
    """
    if isinstance(proof, Split):
        below, above = halves(cell, proof.term, proof.at_s)
        return min(
            proof_bound_s(table, proof.below, below), proof_bound_s(table, proof.above, above)
        )
    loads = [table.within(place, cell) for place in range(len(table.problem.places))]
    if any(listed is None for listed in loads):
        raise CertificateError("certificate: a cell has too many loads to check")
    listed = [entry for entry in loads if entry is not None]
    return min(cell_bound_s(table, listed, proof, cell), cell.makespan_s)


def whole_cell(makespan_s: float) -> Cell:
    """Return the cell of every plan at least as fast as a makespan."""
    return Cell(0.0, makespan_s, 0.0, makespan_s, makespan_s)


def halves(cell: Cell, term: str, at_s: float) -> tuple[Cell, Cell]:
    """Return the parts of a cell below and above a limit of its prefill or decode rest."""
    if term == "prefill":
        return replace(cell, prefill_most_s=at_s), replace(cell, prefill_least_s=at_s)
    return replace(cell, decode_most_s=at_s), replace(cell, decode_least_s=at_s)


def cell_bound_s(
    table: LoadTable,
    loads: list[Loads],
    multipliers: CellMultipliers,
    cell: Cell,
    priced: list[FloatArray] | None = None,
) -> float:
    """Return the makespan below which no plan of a cell can be, given its loads per place.

    Args:
        table: of the planning problem.
        loads: every load of each place in the cell.
        multipliers: the weights and prices.
        cell: limits of the slowest stage.
        priced: what `price_loads` says of these, where it is known.
    """
    problem = table.problem
    priced = price_loads(problem, loads, multipliers) if priced is None else priced
    terms, counts = problem.waves[0], problem.place_counts
    path = min(max(multipliers.path, 0.0), 1.0)
    prefill = _shares(multipliers.prefill, counts, 1.0)
    decode = _shares(multipliers.decode, counts, 1.0 - path)
    total_s = (
        terms.prefill_links_s
        + path * terms.path_links_s
        + prefill[-1] * cell.prefill_least_s
        + decode[-1] * cell.decode_least_s
    )
    layer_s, embedding_s, head_s = multipliers.values_s
    if table.is_plain:
        total_s += layer_s * problem.items[0].count + embedding_s + head_s
    else:
        total_s += _chosen_s(table, multipliers) + embedding_s + head_s
    total_s -= max(multipliers.loss_price_s, 0.0) * problem.budget
    for count, price in zip(counts, priced, strict=True):
        total_s += float(count) * float(price.min(initial=np.inf))
    return float(total_s)


def _chosen_s(table: LoadTable, multipliers: CellMultipliers) -> float:
    """Return what all layers pay where each has the place and format that cost it least.

    They pay what loads are worth, the rest of their times that loads leave out, and their losses.
    """
    problem, parts = table.problem, table.parts
    path = min(max(multipliers.path, 0.0), 1.0)
    prefill = _shares(multipliers.prefill, problem.place_counts, 1.0)[:-1, None]
    decode = _shares(multipliers.decode, problem.place_counts, 1.0 - path)[:-1, None]
    rest_s = (
        parts.rest["prefill_least"]
        + prefill * parts.rest["prefill_rest"]
        + path * parts.rest["decode_path"]
        + (1.0 - path) * parts.rest["decode_least"]
        + decode * parts.rest["decode_rest"]
    )
    of_formats = np.reshape(multipliers.format_values_s, rest_s.shape[1:])
    of_kinds = np.reshape(multipliers.kind_values_s, (len(problem.places), -1))
    total_s = 0.0
    for item in problem.items:
        if item.is_layer:
            priced = rest_s[item.block] + parts.main[item.block] * of_formats
            priced = priced + of_kinds[:, [item.block]]
            priced = priced + max(multipliers.loss_price_s, 0.0) * item.loss
            total_s += item.count * float(priced[item.allowed].min(initial=np.inf))
    return total_s


def price_loads(
    problem: Problem, loads: list[Loads], multipliers: CellMultipliers
) -> list[FloatArray]:
    """Return what each load of each place costs at the multipliers, less what it is worth.

    Loads are many: they are priced in pieces that a processor's cache holds, without a new array
    for each step.
    """
    counts = problem.place_counts
    path = min(max(multipliers.path, 0.0), 1.0)
    prefill = _shares(multipliers.prefill, counts, 1.0)
    decode = _shares(multipliers.decode, counts, 1.0 - path)
    layer_s, embedding_s, head_s = multipliers.values_s
    priced = []
    for place, load in enumerate(loads):
        costs = (
            (load.prefill_rest_s, float(prefill[place])),
            (load.decode_path_s, path),
            (load.decode_least_s, 1.0 - path),
            (load.decode_rest_s, float(decode[place])),
            (load.loss, max(multipliers.loss_price_s, 0.0)),
        )
        worth = [(load.embedding, embedding_s), (load.head, head_s)]
        worth += _worth(load, place, multipliers)
        prices_s = np.empty(len(load.loss))
        for first in range(0, len(prices_s), LOADS_AT_ONCE):
            piece = slice(first, first + LOADS_AT_ONCE)
            prices_s[piece] = load.spread_s[piece]
            worth_s = layer_s * load.layer_count[piece]
            scratch = np.empty(len(worth_s))
            for amounts, price in costs:
                if price:
                    prices_s[piece] += np.multiply(amounts[piece], price, out=scratch)
            for amounts, price in worth:
                worth_s += np.multiply(amounts[piece], price, out=scratch)
            prices_s[piece] -= worth_s
        priced.append(prices_s)
    return priced


def _worth(load: Loads, place: int, multipliers: CellMultipliers) -> list[tuple[FloatArray, float]]:
    """Return the counts of layers of each load, and what one is worth by its format or kind."""
    found: list[tuple[FloatArray, float]] = []
    for counts, values_s in (
        (load.layers, multipliers.format_values_s),
        (load.kinds, multipliers.kind_values_s),
    ):
        width = counts.shape[1] if values_s else 0
        of_place = values_s[place * width : (place + 1) * width]
        found += [(counts[:, column], value_s) for column, value_s in enumerate(of_place)]
    return found


def _shares(weights: tuple[float, ...], counts: FloatArray, total: float) -> FloatArray:
    """Return weights at least 0 whose sum over all devices and the cell is the total."""
    return _scaled(weights, np.append(counts, 1.0), total)
