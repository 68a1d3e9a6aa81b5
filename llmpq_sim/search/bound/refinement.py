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
from llmpq_sim.search.bound.problem import FloatArray, Problem
from llmpq_sim.search.deadline import OutOfTime, check_time, solver_options, time_left_s

ROUNDS = 60
"""Rounds of column generation in a cell, at most."""

SHORTAGE_PRICE = 4.0
"""Price of a missing block, in targets: so high that a cell without a plan exceeds the target."""


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

    None where loads do not describe the problem or are too many. A time limit ends it with what is
    proven until then.

    Raises:
        OutOfTime: the time limit passed before anything was proven.
    """
    if not LoadTable.applies_to(problem):
        return None
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
        problem = self.table.problem
        columns = [_first_columns(load) for load in loads]
        proven = [(cell_bound_s(problem, loads, each, cell), each) for each in known]
        cut = None
        for _ in range(ROUNDS):
            master = _Master(problem, loads, columns, cell, self.target_s)
            priced = price_loads(problem, loads, master.multipliers)
            bound_s = cell_bound_s(problem, loads, master.multipliers, cell, priced)
            proven.append((bound_s, master.multipliers))
            cut = master.cut()
            if bound_s >= self.target_s or not self._add_columns(master, priced, columns):
                break
        best_s, multipliers = max(proven, key=lambda each: each[0])
        return _Leaf(cell, best_s, multipliers, cut)

    def _add_columns(
        self, master: "_Master", priced: list[FloatArray], columns: list[list[int]]
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


class _Master:
    """The linear program over the columns generated so far, and its dual values."""

    def __init__(
        self,
        problem: Problem,
        loads: list[Loads],
        columns: list[list[int]],
        cell: Cell,
        target_s: float,
    ) -> None:
        from scipy.optimize import linprog

        self.problem, self.loads, self.columns, self.cell = problem, loads, columns, cell
        self.width = sum(len(chosen) for chosen in columns)
        objective, upper, limit, equal, value = self._program(target_s)
        solved = linprog(
            objective,
            A_ub=upper,
            b_ub=limit,
            A_eq=equal,
            b_eq=value,
            method="highs",
            options=solver_options(),
        )
        if solved.x is None:
            check_time()
        self.solution = np.asarray(solved.x)
        self.device_price_s = np.asarray(solved.eqlin.marginals)[3:]
        self.multipliers = self._multipliers(
            -np.asarray(solved.ineqlin.marginals), np.asarray(solved.eqlin.marginals)
        )

    def _program(
        self, target_s: float
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """Columns: loads, then the two maxima, the decode length and three shortages."""
        terms, places = self.problem.waves[0], len(self.problem.places)
        total = self.width + 6
        prefill, slowest, decode = self.width, self.width + 1, self.width + 2
        objective = np.zeros(total)
        objective[: self.width] = self._row("spread_s")
        objective[[prefill, decode]] = 1.0
        objective[decode + 1 :] = SHORTAGE_PRICE * target_s
        upper, limit = np.zeros((2 * places + 5, total)), np.zeros(2 * places + 5)
        for place in range(places):
            upper[place, : self.width] = self._row("prefill_rest_s", place)
            upper[places + place, : self.width] = self._row("decode_rest_s", place)
        upper[:places, prefill] = upper[places : 2 * places, slowest] = -1.0
        rows = 2 * places
        upper[rows, prefill] = upper[rows + 1, slowest] = -1.0
        limit[rows : rows + 2] = -self.cell.prefill_least_s, -self.cell.decode_least_s
        upper[rows + 2, : self.width] = self._row("decode_path_s")
        upper[rows + 3, : self.width] = self._row("decode_least_s")
        upper[rows + 3, slowest] = 1.0
        upper[rows + 2 : rows + 4, decode] = -1.0
        limit[rows + 2] = -terms.path_links_s
        upper[rows + 4, : self.width] = self._row("loss")
        limit[rows + 4] = self.problem.budget
        equal, value = self._counts(total)
        return objective, upper, limit, equal, value

    def _counts(self, total: int) -> tuple[FloatArray, FloatArray]:
        places = len(self.problem.places)
        equal = np.zeros((3 + places, total))
        for number, name in enumerate(("layer_count", "embedding", "head")):
            equal[number, : self.width] = self._row(name)
            equal[number, self.width + 3 + number] = 1.0
        start = 0
        for place, chosen in enumerate(self.columns):
            equal[3 + place, start : start + len(chosen)] = 1.0
            start += len(chosen)
        layers = float(self.problem.items[0].count)
        return equal, np.concatenate([[layers, 1.0, 1.0], self.problem.place_counts])

    def _row(self, name: str, only: int | None = None) -> FloatArray:
        """Return a quantity of every column; of one place alone, its average over devices."""
        parts = []
        for place, chosen in enumerate(self.columns):
            values = getattr(self.loads[place], name)[chosen]
            if only is not None:
                values = values / self.problem.place_counts[place] * (place == only)
            parts.append(values)
        return np.concatenate(parts)

    def _multipliers(self, upper: FloatArray, equal: FloatArray) -> CellMultipliers:
        places = len(self.problem.places)
        per_device = upper[: 2 * places].reshape(2, places) / self.problem.place_counts
        own = upper[2 * places : 2 * places + 2]
        return CellMultipliers(
            prefill=(*per_device[0].tolist(), float(own[0])),
            decode=(*per_device[1].tolist(), float(own[1])),
            path=float(upper[2 * places + 2]),
            loss_price_s=float(upper[2 * places + 4]),
            values_s=(float(equal[0]), float(equal[1]), float(equal[2])),
        )

    def cut(self) -> tuple[str, float] | None:
        """Return where to cut the cell: between a maximum and the largest load that it averages.

        The decode maximum counts only from where it exceeds the path, so the cut lies above that.
        """
        used = self.solution[: self.width] > 1e-6
        least_s = float(self._row("decode_least_s") @ self.solution[: self.width])
        counted_s = float(self.solution[self.width + 2]) - least_s
        found = []
        for term, name, held_s in (
            ("prefill", "prefill_rest_s", float(self.solution[self.width])),
            ("decode", "decode_rest_s", counted_s),
        ):
            largest_s = float(self._row(name)[used].max(initial=0.0))
            excess_s = largest_s - max(held_s, 0.0)
            if excess_s > 1e-6 * largest_s:
                found.append((excess_s, term, largest_s - excess_s / 2))
        return max(found)[1:] if found else None
