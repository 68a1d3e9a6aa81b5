"""Linear program over loads of devices (Dantzig-Wolfe), and its dual values as multipliers."""

import numpy as np

from llmpq_sim.search.bound.certificate import CellMultipliers
from llmpq_sim.search.bound.loads import Cell, Loads, LoadTable
from llmpq_sim.search.bound.problem import FloatArray
from llmpq_sim.search.deadline import check_time, solver_options

SHORTAGE_PRICE = 4.0
"""Price of a missing block, in targets: so high that a cell without a plan exceeds the target."""


class Master:
    """The linear program over the columns generated so far, and its dual values."""

    def __init__(
        self,
        table: LoadTable,
        loads: list[Loads],
        columns: list[list[int]],
        cell: Cell,
        target_s: float,
    ) -> None:
        from scipy.optimize import linprog

        self.table, self.problem = table, table.problem
        self.loads, self.columns, self.cell = loads, columns, cell
        self.width = sum(len(chosen) for chosen in columns)
        objective, upper, limit, equal, value = self._program(target_s)
        solved = linprog(
            objective,
            A_ub=upper,
            b_ub=limit,
            A_eq=equal,
            b_eq=value,
            bounds=self._bounds(len(objective)),
            method="highs",
            options=solver_options(),
        )
        if solved.x is None:
            check_time()
        self.solution = np.asarray(solved.x)
        self.device_price_s = self._device_prices_s(np.asarray(solved.eqlin.marginals))
        self.multipliers = self._multipliers(
            -np.asarray(solved.ineqlin.marginals), np.asarray(solved.eqlin.marginals)
        )

    def _bounds(self, columns: int) -> FloatArray:
        """Return the least and the most of each column."""
        return np.array([[0.0, np.inf]] * columns)

    def _device_prices_s(self, equal: FloatArray) -> FloatArray:
        """Return the dual value of the devices of each place."""
        return equal[3:]

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
