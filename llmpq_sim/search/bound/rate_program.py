"""Linear program whose dual values are the multipliers of a limit on the rate, for HiGHS.

Its columns are the makespan, how many blocks of each item are at each place in each format and how
many fit nowhere, and of what is priced the share of its tokens that batches of one kind compute. A
kind of batch is a choice of tokens, of tokens held, and of whether these are attended to; what the
certificate proves holds for all batches.
"""

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.search.bound.program import SMALL_BUDGET
from llmpq_sim.search.bound.rate_certificate import RateInterval, token_prices_s
from llmpq_sim.search.bound.rate_problem import Choice, RateProblem, choices
from llmpq_sim.search.bound.rate_work import BlockWork
from llmpq_sim.search.bound.relaxation import LIMITED, SOLVED
from llmpq_sim.search.bound.schedule_terms import EMBEDDING
from llmpq_sim.search.deadline import check_time, solver_options

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

HELD_SHARES = np.concatenate([[0.0], 2.0 ** -np.arange(0.0, 6.0, 0.5)])
"""Tokens held in the kinds of batch of the program, as shares of what the cache holds."""

TOKEN_RATIO = 2.0
"""Of the tokens of one kind of batch to those of the next smaller one, to begin with."""

ROUNDS = 5
"""Times that an interval is solved, at most: each time with the batches that cost less than was
thought."""

EXCESS = 1e-3
"""Share of a token's price by which it may be too high for a batch that is left out."""

SHORTAGE = 1e4
"""Price of a block that fits nowhere, in the time unit of the program."""


class Batches(NamedTuple):
    """Kinds of batch of one block. Shape of each: (kinds,)."""

    seconds: FloatArray
    tokens: FloatArray
    held: FloatArray
    attended: FloatArray


class RateSolver:
    """Solves intervals of one problem, each with the batches that mattered before.

    Attributes:
        knots: of everything priced, the knots of the tokens that batches have, by position.
    """

    def __init__(self, problem: RateProblem) -> None:
        self.problem = problem
        self.knots = {choice: _first_knots(work) for choice, work in problem.works.items()}

    def multipliers(self, from_tokens: int, to_tokens: int) -> RateInterval:
        """Return the multipliers of the plans whose KV cache holds so many tokens.

        Raises:
            InfeasibleError: the solver failed, which shortages rule out for sane numbers.
            OutOfTime: the search's time limit passed.
        """
        for _ in range(ROUNDS):
            program = RateProgram(self.problem, from_tokens, to_tokens, self.knots)
            prices = _solved(program)
            interval = program.interval(prices)
            if not self._add_knots(interval, program.token_prices_s(prices)):
                break
        return interval

    def _add_knots(self, interval: RateInterval, token_s: dict[Choice, float]) -> bool:
        """Add the knots at which a token costs less than its price; return whether there are."""
        added = False
        attended_s = (*interval.attended_price_s, *(0.0,) * len(interval.held_price_s))
        for number, choice in enumerate(choices(self.problem)):
            work = self.problem.works.get(choice)
            if work is None:
                continue
            prices_s = interval.held_price_s[number], attended_s[number]
            busy, most = interval.busy[choice[1]], interval.to_tokens
            found_s = token_prices_s(work, busy, interval.held, most, prices_s)
            at = int(found_s.argmin())
            if found_s[at] < token_s[choice] * (1 - EXCESS) and at not in self.knots[choice]:
                self.knots[choice] = np.union1d(self.knots[choice], [at])
                added = True
        return added


def _solved(program: "RateProgram") -> FloatArray:
    """Return the dual values of the rows that limit."""
    from scipy.optimize import linprog

    solved = linprog(
        program.objective(),
        A_ub=program.upper.matrix(program.columns),
        b_ub=program.upper_limit,
        A_eq=program.equal.matrix(program.columns),
        b_eq=[float(item.count) for item in program.problem.items],
        method="highs",
        options=solver_options(),
    )
    if solved.status == LIMITED:
        check_time()
    if solved.status != SOLVED:
        raise InfeasibleError(f"search: HiGHS could not limit the rate: {solved.message}")
    return -np.asarray(solved.ineqlin.marginals)


class _Entries:
    """The entries of a sparse matrix, as they come."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._parts: list[tuple[IntArray, IntArray, FloatArray]] = []

    def add(self, row: int, columns: IntArray | int, values: FloatArray | float) -> None:
        """Add entries of one row."""
        at, value = np.broadcast_arrays(np.atleast_1d(columns), np.atleast_1d(values))
        self._parts.append((np.full(len(at), row), at, value))

    def matrix(self, columns: int) -> "csr_array":
        """Return the matrix with so many columns."""
        from scipy.sparse import coo_array

        rows, at, values = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        return coo_array((values, (rows, at)), shape=(self.rows, columns)).tocsr()


class RateProgram:
    """The matrices of the program of one interval.

    Rows that limit: the busy time of each place, the tokens held over time, for everything priced
    the tokens computed, held and attended to, the memory of each place, and the loss. Times count
    in ``unit_s``, bytes in the size of a layer, tokens in what the workload asks for.

    Attributes:
        columns: how many there are.
        upper, upper_limit, equal: as HiGHS takes them.
    """

    def __init__(
        self,
        problem: RateProblem,
        from_tokens: int,
        to_tokens: int,
        knots: dict[Choice, IntArray],
    ) -> None:
        self.problem = problem
        self.from_tokens, self.to_tokens = from_tokens, to_tokens
        self.priced = choices(problem)
        self.places = len(problem.places)
        self.memory_row = self.places + 1 + 3 * len(self.priced)
        self.block_bytes = problem.block_bytes.copy()
        self.block_bytes[:EMBEDDING] += problem.kv_bytes[:, None] * from_tokens
        self.byte_unit = float(self.block_bytes.max())
        budget = problem.budget
        is_plain = budget == 0.0 or SMALL_BUDGET <= budget <= 1.0 / SMALL_BUDGET
        self.loss_unit = 1.0 if is_plain else budget
        self.unit_s = _unit_s(problem)
        self.upper = _Entries(self.memory_row + self.places + 1)
        self.equal = _Entries(len(problem.items))
        self.shortages: list[int] = []
        self.columns = 1
        self._limit_makespan()
        self._add_blocks()
        for number, choice in enumerate(self.priced):
            if choice in problem.works:
                kinds = _batches(problem.works[choice], to_tokens, knots[choice])
                self._add_batches(number, kinds, choice)

    @property
    def upper_limit(self) -> FloatArray:
        """What rows may be at most."""
        problem = self.problem
        limit = np.zeros(self.upper.rows)
        capacity = problem.place_counts * problem.capacity_bytes / self.byte_unit
        limit[self.memory_row : -1] = capacity
        limit[-1] = problem.budget / self.loss_unit
        return limit

    def objective(self) -> FloatArray:
        """Return the price of each column: of the makespan, and of what fits nowhere."""
        prices = np.zeros(self.columns)
        prices[0] = 1.0
        prices[self.shortages] = SHORTAGE
        return prices

    def interval(self, prices: FloatArray) -> RateInterval:
        """Return the dual values of the upper rows as multipliers."""
        problem, unit_s = self.problem, self.unit_s
        workload, places = problem.workload, self.places
        of_tokens = prices[places + 1 : self.memory_row].reshape(-1, 3) * unit_s
        layers = problem.block_bytes[:EMBEDDING].size * places
        held_price_s = of_tokens[:, 1] / max(workload.held_tokens, 1)
        attended_price_s = of_tokens[:layers, 2] / max(workload.attended_contexts, 1)
        byte_price_s = prices[self.memory_row : -1] * unit_s / self.byte_unit
        return RateInterval(
            from_tokens=self.from_tokens,
            to_tokens=self.to_tokens,
            busy=tuple(prices[:places].tolist()),
            held=float(prices[places]) / self.to_tokens,
            loss_price_s=float(prices[-1]) * unit_s / self.loss_unit,
            byte_price_s=tuple(byte_price_s.tolist()),
            held_price_s=tuple(held_price_s.tolist()),
            attended_price_s=tuple(attended_price_s.tolist()),
        )

    def token_prices_s(self, prices: FloatArray) -> dict[Choice, float]:
        """Return what a token of everything priced costs by these dual values."""
        of_tokens = prices[self.places + 1 : self.memory_row : 3] * self.unit_s
        return {
            choice: price / self.problem.works[choice].units
            for choice, price in zip(self.priced, of_tokens.tolist(), strict=True)
            if choice in self.problem.works
        }

    def _limit_makespan(self) -> None:
        for place, count in enumerate(self.problem.place_counts.tolist()):
            self.upper.add(place, 0, -count)
        self.upper.add(self.places, 0, -1.0)

    def _add_blocks(self) -> None:
        """Add how many blocks of each item are where, and how many are nowhere."""
        number_of = {choice: number for number, choice in enumerate(self.priced)}
        for row, item in enumerate(self.problem.items):
            for place, column in np.argwhere(item.allowed).tolist():
                choice = (item.block, place, column)
                self._add_block(number_of[choice], choice, float(item.loss[column]))
                self.equal.add(row, self.columns, 1.0)
                self.columns += 1
            self.equal.add(row, self.columns, 1.0)
            self.shortages.append(self.columns)
            self.columns += 1

    def _add_block(self, number: int, choice: Choice, loss: float) -> None:
        block, place, column = choice
        work, first = self.problem.works[choice], self.places + 1 + 3 * number
        asked = (1.0, float(self.problem.workload.held_tokens > 0), float(work.attended > 0))
        for row, value in enumerate(asked):
            self.upper.add(first + row, self.columns, value)
        self.upper.add(place, self.columns, work.fixed_s / self.unit_s)
        used = float(self.block_bytes[block, column]) / self.byte_unit
        self.upper.add(self.memory_row + place, self.columns, used)
        self.upper.add(self.upper.rows - 1, self.columns, loss / self.loss_unit)

    def _add_batches(self, number: int, kinds: Batches, choice: Choice) -> None:
        """Add the kinds of batch of what is priced, each as the share of its tokens."""
        work, place = self.problem.works[choice], choice[1]
        batches = work.units / kinds.tokens  # of one kind, if all were of it
        columns = self.columns + np.arange(len(batches), dtype=np.intp)
        self.columns += len(batches)
        workload, first = self.problem.workload, self.places + 1 + 3 * number
        took = batches * kinds.seconds / self.unit_s
        self.upper.add(place, columns, took)
        self.upper.add(self.places, columns, took * kinds.held / self.to_tokens)
        self.upper.add(first, columns, -1.0)
        self.upper.add(first + 1, columns, -batches * kinds.held / max(workload.held_tokens, 1))
        if work.attended:
            self.upper.add(first + 2, columns, -batches * kinds.attended / work.attended)
            # computed anew instead, so that no price is above the limit
            limit_s = work.attention.limit_s * work.attended
            self.upper.add(first + 2, self.columns, -1.0)
            self.upper.add(place, self.columns, limit_s / self.unit_s)
            self.columns += 1


def _unit_s(problem: RateProblem) -> float:
    """Return what all layers take at least where they are fastest, in the largest batches."""
    least_s: dict[int, float] = {}
    for (block, _, _), work in problem.works.items():
        taken_s = work.units * float((work.seconds / work.tokens).min())
        least_s[block] = min(least_s.get(block, taken_s), taken_s)
    layers = Counter[int]()
    for item in problem.items:
        if item.is_layer:
            layers[item.block] += item.count
    return sum(count * least_s[block] for block, count in layers.items())


def _first_knots(work: BlockWork) -> IntArray:
    """Return knots of growing tokens, and the one where a token takes least."""
    last = float(work.tokens[-1])
    wanted = np.geomspace(1.0, last, int(np.log(last) / np.log(TOKEN_RATIO)) + 2)
    at = np.searchsorted(work.tokens, wanted).clip(max=len(work.tokens) - 1)
    return np.union1d(at, [int(np.argmin(work.seconds / work.tokens))])


def _batches(work: BlockWork, most_held: int, knots: IntArray) -> Batches:
    """Return the kinds of batch with tokens at some knots and beyond: of ever fewer tokens held."""
    far = 64.0 * work.tokens[-1]
    tokens = np.append(work.tokens[knots], far)
    far_s = work.seconds[-1] + work.slope_s * (far - work.tokens[-1])
    seconds = np.append(work.seconds[knots], far_s)
    held = HELD_SHARES * most_held
    attended = np.zeros(len(held))
    if work.attended:
        bend = work.attention.wide_from
        some = np.union1d(held[1:], [bend] if bend < most_held else [])
        kinds = np.array([(each, to) for each in some for to in {min(each, bend), each}])
        held, attended = np.append(held, kinds[:, 0]), np.append(attended, kinds[:, 1])
    all_tokens, all_held = (each.ravel() for each in np.meshgrid(tokens, held, indexing="ij"))
    all_attended = np.tile(attended, len(tokens))
    all_seconds = np.repeat(seconds, len(held)) + work.attention.seconds(all_attended)
    return Batches(all_seconds, all_tokens, all_held, all_attended)
