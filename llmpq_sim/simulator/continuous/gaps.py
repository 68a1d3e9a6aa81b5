"""Distribution of the gaps between tokens, over more tokens than fit in memory."""

from array import array

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.result import Summary

EXACT_TOKENS = 2**22
"""Up to so many gaps percentiles are exact; beyond, gaps are rounded to bins of equal ratio."""

BINS_PER_OCTAVE = 512
"""A bin spans a factor of 2^(1/512) and stands for its middle: at most 0.07 % from any gap."""

FOLD_PAIRS = 2**17
"""Pairs of gap and count that are collected, at least, before equal gaps are folded into one."""


class Gaps:
    """Gaps with the number of sequences that shared each; sequences decode together.

    The summary depends on the gaps alone, not on their order or on how they were grouped.

    Attributes:
        values_s, counts: gaps not folded yet, to which whoever adds may append directly.
        fold_pairs: how many of them it pays to fold: at least as many as are left of earlier ones.
    """

    def __init__(self, exact_tokens: int = EXACT_TOKENS) -> None:
        self.values_s = array("d")
        self.counts = array("q")
        self.fold_pairs = FOLD_PAIRS
        self._exact_tokens = exact_tokens
        self._folded_s: NDArray[np.float64] = np.empty(0)
        self._folded_counts: NDArray[np.int64] = np.empty(0, np.int64)

    def fold(self) -> None:
        """Fold equal gaps into one."""
        values = np.concatenate([self._folded_s, np.frombuffer(self.values_s)])
        counts = np.concatenate([self._folded_counts, np.frombuffer(self.counts, np.int64)])
        self.values_s, self.counts = array("d"), array("q")
        if counts.sum() > self._exact_tokens:
            values = _rounded_s(values)
        if len(values):
            order = np.argsort(values)
            values = values[order]
            firsts = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
            self._folded_s = values[firsts]
            self._folded_counts = np.add.reduceat(counts[order], firsts)
        self.fold_pairs = max(FOLD_PAIRS, len(self._folded_s))

    def total(self) -> int:
        """Return how many gaps there were."""
        self.fold()
        return int(self._folded_counts.sum())

    def summary(self, mean_s: float) -> Summary:
        """Return percentiles interpolated linearly, beside a mean known from elsewhere."""
        self.fold()
        if not len(self._folded_s):
            return Summary.of([])
        return Summary(mean_s, *(self._percentile_s(percent) for percent in (50, 90, 95, 99)))

    def _percentile_s(self, percent: float) -> float:
        ends = np.cumsum(self._folded_counts)
        rank = percent / 100 * float(ends[-1] - 1)
        lower, upper = (
            float(self._folded_s[np.searchsorted(ends, index, side="right")])
            for index in (int(rank), min(int(rank) + 1, ends[-1] - 1))
        )
        return lower + (upper - lower) * (rank - int(rank))


def _rounded_s(values_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the middles of the bins that gaps lie in; zero stays zero, a middle itself."""
    rounded = np.zeros_like(values_s)
    positive = values_s > 0
    bins = np.floor(np.log2(values_s[positive]) * BINS_PER_OCTAVE)
    rounded[positive] = np.exp2((bins + 0.5) / BINS_PER_OCTAVE)
    return rounded
