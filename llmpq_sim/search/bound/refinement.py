"""Refinement of a bound where the linear relaxation, which cuts layers in pieces, is loose.

Plans are sorted into cells by their slowest stages. In a cell, each device carries one of finitely
many whole loads; a linear program over loads (Dantzig-Wolfe, solved by column generation) gives
multipliers, and the cell whose bound is lowest is cut in two until every cell is proven to hold
nothing faster than the target. The cuts and the multipliers are the certificate.
"""

import heapq
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from llmpq_sim.search.bound.certificate import (
    DEEPEST,
    CellMultipliers,
    Split,
    cell_bound_s,
    halves,
    price_loads,
    whole_cell,
)
from llmpq_sim.search.bound.loads import END_CASES, Cell, Loads, LoadTable
from llmpq_sim.search.bound.master import Master
from llmpq_sim.search.bound.problem import FloatArray, Problem
from llmpq_sim.search.bound.unlike import UnlikeMaster
from llmpq_sim.search.deadline import OutOfTime, check_time, time_left_s

ROUNDS = 60
"""Rounds of column generation in a cell, at most."""


@dataclass(frozen=True)
class Proof:
    """A certified bound: no plan is faster, as the tree of cells shows.

    Attributes:
        bound_s: the proven makespan.
        target_s: the limit of the whole cell; nothing slower was looked at.
        tree: cuts and multipliers.
        cells: how many cells were bounded.
    """

    bound_s: float
    target_s: float
    tree: Split | CellMultipliers
    cells: int


@dataclass
class _Leaf:
    """A cell with its best bound so far, and where it would be cut."""

    cell: Cell
    bound_s: float
    multipliers: CellMultipliers
    cut: tuple[str, float] | None
    depth: int = 0
    parts: "tuple[_Leaf, _Leaf] | None" = None


def refine(problem: Problem, target_s: float, cells: int) -> Proof | None:
    """Return a proof that no plan is faster than the target, as far as so many cells get.

    None where loads are too many. A time limit ends it with what is
    proven until then.

    Raises:
        OutOfTime: the time limit passed before anything was proven.
    """
    search = _CellSearch(LoadTable(problem), target_s)
    root = search.leaf(whole_cell(target_s))
    if root is None:
        return None
    waiting, number = [(root.bound_s, 0, root)], 0
    while number + 2 < cells and waiting[0][0] < target_s and waiting[0][2].cut is not None:
        leaf = waiting[0][2]
        leaf.parts = search.split(leaf) if time_left_s() else None
        if leaf.parts is None:
            break
        heapq.heappop(waiting)
        for part in leaf.parts:
            number += 1
            heapq.heappush(waiting, (part.bound_s, number, part))
    return Proof(min(waiting[0][0], target_s), target_s, _tree(root), number + 1)


def _tree(leaf: _Leaf) -> Split | CellMultipliers:
    if leaf.parts is None or leaf.cut is None:
        return leaf.multipliers
    below, above = leaf.parts
    return Split(leaf.cut[0], leaf.cut[1], _tree(below), _tree(above))


class _CellSearch:
    """Bounds cells of one problem by column generation."""

    def __init__(self, table: LoadTable, target_s: float) -> None:
        self.table = table
        self.target_s = target_s
        self._master = Master if table.is_plain else UnlikeMaster

    def split(self, leaf: _Leaf) -> tuple[_Leaf, _Leaf] | None:
        """Return the two parts of a leaf, or None if one has too many loads or takes too long."""
        term, at_s = leaf.cut or ("", 0.0)
        parts = halves(leaf.cell, term, at_s)
        try:
            below, above = (self.leaf(cell, leaf.multipliers) for cell in parts)
        except OutOfTime:
            return None
        if below is None or above is None:
            return None
        for part in (below, above):
            part.depth = leaf.depth + 1
            if part.depth == DEEPEST:
                part.cut = None
        return below, above

    def leaf(self, cell: Cell, known: CellMultipliers | None = None) -> _Leaf | None:
        """Return the bound of a cell, or None if it has too many loads.

        It is no lower than what the known multipliers, those of a larger cell, prove.
        """
        loads: list[Loads] = []
        for place in range(len(self.table.problem.places)):
            check_time()
            within = self.table.within(place, cell)
            if within is None:
                return None
            loads.append(within)
        return self._generate(cell, loads, [] if known is None else [known])

    def _generate(self, cell: Cell, loads: list[Loads], known: list[CellMultipliers]) -> _Leaf:
        problem, table = self.table.problem, self.table
        columns = [_first_columns(load) for load in loads]
        proven = [(cell_bound_s(table, loads, each, cell), each) for each in known]
        cut = None
        for _ in range(ROUNDS):
            master = self._master(table, loads, columns, cell, self.target_s)
            priced = price_loads(problem, loads, master.multipliers)
            bound_s = cell_bound_s(table, loads, master.multipliers, cell, priced)
            proven.append((bound_s, master.multipliers))
            cut = master.cut()
            if bound_s >= self.target_s or not self._add_columns(master, priced, columns):
                break
        best_s, multipliers = max(proven, key=lambda each: each[0])
        return _Leaf(cell, best_s, multipliers, cut)

    def _add_columns(
        self, master: Master, priced: list[FloatArray], columns: list[list[int]]
    ) -> bool:
        """Add the best load of each place to the program; say whether one was better."""
        added = False
        for place, prices in enumerate(priced):
            best = int(prices.argmin())
            improves = prices[best] < master.device_price_s[place] - 1e-7 * self.target_s
            if improves and best not in columns[place]:
                columns[place].append(best)
                added = True
        return added


def _first_columns(load: Loads) -> list[int]:
    """Return the empty load, and the fullest with each combination of ends."""
    first = [0]
    case = load.embedding + 2 * load.head  # rises: loads are listed in the order of END_CASES
    starts = np.searchsorted(case, range(len(END_CASES) + 1)).tolist()
    for start, end in pairwise(starts):
        if start < end:
            first.append(start + int(load.layer_count[start:end].argmax()))
    return sorted(set(first))
