"""Linear and integer programs of a planning problem, for HiGHS."""

import numpy as np

from llmpq_sim.search.bound.certificate import Multipliers, ScheduleMultipliers
from llmpq_sim.search.bound.problem import BoolArray, FloatArray, Problem
from llmpq_sim.search.bound.runs import run_counts
from llmpq_sim.search.bound.schedule_terms import EMBEDDING, HEAD

ONE_KIND = 3
"""Blocks where layers are of one kind: these, the embedding and the LM head."""

SMALL_BUDGET = 1e-4
"""Budgets from here to its inverse are as they are: HiGHS keeps rows to an absolute 1e-7."""


class Program:
    """The matrices of a planning problem.

    Columns: blocks of each item at each place in each format, two maxima per wave (the end of
    prefill, the length of decode), where layers are of several kinds the runs of each place, and a
    shortage per item, whose price is so high that there is none where everything fits. Rows: the
    terms under the maxima, the budget, the memories, the devices that runs are on; and the layers
    of each kind, which those of the runs are.

    Attributes:
        shape: of the block columns: (items, places, formats).
        block_count: how many block columns there are.
        losses: quality loss of each column, in the budget's unit where that is very small or large.
        objective, upper, upper_limit, equal, equal_value, bounds: as HiGHS takes them.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        items, places, formats = len(problem.items), len(problem.places), len(problem.formats)
        self.shape = (items, places, formats)
        self.block_count = items * places * formats
        self.runs = _runs(problem)
        self.first_run = self.block_count + 2 * len(problem.waves)
        self.columns = self.first_run + places * len(self.runs) + items
        self.objective = np.zeros(self.columns)
        self.objective[-items:] = shortage_price_s(problem)
        rows = [self._wave_rows(number) for number in range(len(problem.waves))]
        self.losses = self._spread(self._losses()) / self._loss_scale()
        rows.append((self.losses[None, :], np.array([problem.budget]) / self._loss_scale()))
        rows += [self._memory_rows(), self._device_rows()]
        self.upper = np.concatenate([matrix for matrix, _ in rows])
        self.upper_limit = np.concatenate([limit for _, limit in rows])
        run_rows = self._run_rows()
        self.equal = np.concatenate([self._counting_rows(), run_rows])
        counts = [float(item.count) for item in problem.items]
        self.equal_value = np.array(counts + [0.0] * len(run_rows))
        self.bounds = np.stack([np.zeros(self.columns), self._most()], axis=1)

    def multipliers(self, prices: FloatArray, values: FloatArray) -> Multipliers:
        """Return the dual values of the upper and of the equal rows as multipliers."""
        places, counts = len(self.problem.places), self.problem.place_counts
        waves, position = [], 0
        for terms in self.problem.waves:
            part = prices[position : position + 2 * places + 1] / terms.count
            prefill, decode = part[:places] / counts, part[places : 2 * places] / counts
            waves.append(
                ScheduleMultipliers(
                    tuple(prefill.tolist()), tuple(decode.tolist()), float(part[-1])
                )
            )
            position += 2 * places + 1
        byte_price = prices[position + 1 : position + 1 + places] / self._byte_scale()
        loss_price_s = float(prices[position]) / self._loss_scale()
        run_price_s = tuple((-values[len(self.problem.items) :]).tolist())
        return Multipliers(tuple(waves), loss_price_s, tuple(byte_price.tolist()), run_price_s)

    def device_counts(self) -> FloatArray:
        """Return how many devices share the blocks of each column; 1 for the other columns."""
        counts = np.ones(self.columns)
        of_places = self.problem.place_counts[None, :, None]
        counts[: self.block_count] = np.broadcast_to(of_places, self.shape).ravel()
        runs = np.repeat(self.problem.place_counts, len(self.runs))
        counts[self.first_run : self.first_run + len(runs)] = runs
        return counts

    def pipeline_rows(self) -> tuple[FloatArray, FloatArray]:
        """Return rows that make single devices a pipeline: its ends hold layers and lie apart."""
        places, rows = len(self.problem.places), []
        for place in range(places):
            rows += [
                self._at(place, {EMBEDDING: 1.0, HEAD: 1.0}),
                self._at(place, {EMBEDDING: 1.0}, of_layers=-1.0),
                self._at(place, {HEAD: 1.0}, of_layers=-1.0),
            ]
        matrix = np.array([self._spread(row) for row in rows])
        return matrix, np.array([1.0, 0.0, 0.0] * places)

    def _at(self, place: int, factors: dict[int, float], *, of_layers: float = 0.0) -> FloatArray:
        row = np.zeros(self.shape)
        for number, item in enumerate(self.problem.items):
            row[number, place, :] = of_layers if item.is_layer else factors.get(item.block, 0.0)
        return row

    def _wave_rows(self, number: int) -> tuple[FloatArray, FloatArray]:
        """Each term is at most the wave's maximum, which the objective counts."""
        terms, places = self.problem.waves[number], len(self.problem.places)
        prefill_column = self.block_count + 2 * number
        self.objective[prefill_column : prefill_column + 2] = terms.count
        matrix = np.zeros((2 * places + 1, self.columns))
        for place in range(places):
            share = np.zeros((1, places, 1))
            share[0, place, 0] = 1.0 / self.problem.place_counts[place]
            prefill = terms.prefill_least + share * terms.prefill_rest
            decode = terms.decode_least + share * terms.decode_rest
            matrix[place] = self._spread(self._by_item(prefill))
            matrix[places + place] = self._spread(self._by_item(decode))
        matrix[-1] = self._spread(self._by_item(terms.decode_path))
        matrix[:places, prefill_column] = -1.0
        matrix[places:, prefill_column + 1] = -1.0
        limit = np.zeros(2 * places + 1)
        prefill_s, slowest_s, path_s = terms.least_step_s.tolist()
        limit[:places] = -terms.prefill_links_s - prefill_s
        limit[places : 2 * places] = -slowest_s
        limit[-1] = -terms.path_links_s - path_s
        return matrix, limit

    def _memory_rows(self) -> tuple[FloatArray, FloatArray]:
        places, scale = len(self.problem.places), self._byte_scale()
        matrix = np.zeros((places, self.columns))
        for place in range(places):
            used = np.zeros((len(self.problem.block_bytes), places, len(self.problem.formats)))
            used[:, place, :] = self.problem.block_bytes / scale
            matrix[place] = self._spread(self._by_item(used))
        return matrix, self.problem.place_counts * self.problem.capacity_bytes / scale

    def _device_rows(self) -> tuple[FloatArray, FloatArray]:
        """Each device of a place holds a run at most."""
        places, runs = len(self.problem.places), len(self.runs)
        matrix = np.zeros((places if runs else 0, self.columns))
        for place in range(len(matrix)):
            first = self.first_run + place * runs
            matrix[place, first : first + runs] = 1.0
        return matrix, self.problem.place_counts[: len(matrix)]

    def _run_rows(self) -> FloatArray:
        """The layers of each kind at each place are those of its runs."""
        if not len(self.runs):
            return np.zeros((0, self.columns))
        places, kinds = len(self.problem.places), self.runs.shape[1]
        matrix = np.zeros((places * kinds, self.columns))
        blocks = np.array([item.block for item in self.problem.items])
        for place in range(places):
            first = self.first_run + place * len(self.runs)
            for kind in range(kinds):
                row = matrix[place * kinds + kind]
                row[: self.block_count].reshape(self.shape)[blocks == kind, place] = 1.0
                row[first : first + len(self.runs)] = -self.runs[:, kind]
        return matrix

    def _counting_rows(self) -> FloatArray:
        items = len(self.problem.items)
        matrix = np.zeros((items, self.columns))
        per_item = self.shape[1] * self.shape[2]
        for number in range(items):
            matrix[number, number * per_item : (number + 1) * per_item] = 1.0
            matrix[number, self.columns - items + number] = 1.0
        return matrix

    def _most(self) -> FloatArray:
        most = np.full(self.columns, np.inf)
        most[: self.block_count] = np.where(self._allowed().ravel(), np.inf, 0.0)
        return most

    def _allowed(self) -> BoolArray:
        return np.array([item.allowed for item in self.problem.items])

    def _by_item(self, per_block: FloatArray) -> FloatArray:
        return per_block[[item.block for item in self.problem.items]]

    def _losses(self) -> FloatArray:
        losses = np.zeros(self.shape)
        for number, item in enumerate(self.problem.items):
            losses[number] = item.loss
        return losses

    def _loss_scale(self) -> float:
        """The unit of losses: the budget, where losses as they are would be lost in tolerances."""
        budget = self.problem.budget
        return 1.0 if budget == 0.0 or SMALL_BUDGET <= budget <= 1.0 / SMALL_BUDGET else budget

    def _byte_scale(self) -> float:
        """Bytes counted in the size of a large layer, so that the solver sees small numbers."""
        return float(self.problem.block_bytes.max())

    def _spread(self, per_item: FloatArray) -> FloatArray:
        """Return the values of block columns as a row of the program."""
        row = np.zeros(self.columns)
        row[: self.block_count] = per_item.ravel()
        return row


def _runs(problem: Problem) -> FloatArray:
    """Return the counts of each kind that runs have; none where layers are of one kind."""
    if problem.is_partition or len(problem.block_bytes) == ONE_KIND:
        return np.zeros((0, 0))
    return run_counts(problem.kind_of_layer)


def shortage_price_s(problem: Problem) -> float:
    """Return the price of leaving out one block: more than the slowest plan would take."""
    slowest = sum(
        terms.count
        * float(
            (
                terms.prefill_least
                + terms.prefill_rest
                + terms.decode_least
                + terms.decode_rest
                + terms.decode_path
            ).max()
        )
        for terms in problem.waves
    )
    return 10.0 * slowest * sum(item.count for item in problem.items)
