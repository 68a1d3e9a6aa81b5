"""Runs of consecutive layers: what any stage of a pipeline holds.

Of layers of several kinds a device cannot take those that suit it: its layers follow each other.
Which counts of each kind a run may have, and the most that a run adds up to, is all that bounds
need of it.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

MOST_RUNS = 400
"""Different counts that a program is given, at most; bounds are true with any of them."""


def most_of_a_run(amounts: FloatArray) -> float:
    """Return the largest sum of consecutive amounts; 0 where none is positive (Kadane)."""
    sums = np.concatenate([[0.0], np.cumsum(amounts)])
    return float((sums - np.minimum.accumulate(sums)).max())


def longest_run(amounts: FloatArray, most: float) -> int:
    """Return how many consecutive amounts, at most, add up to no more than a limit."""
    sums = np.concatenate([[0.0], np.cumsum(np.minimum(amounts, most + 1.0))])
    stops = np.searchsorted(sums, sums[:-1] + most, side="right") - 1
    return int((stops - np.arange(len(amounts))).max(initial=0))


@lru_cache(maxsize=64)
def runs_by_ends(kind_of_layer: tuple[int, ...]) -> dict[tuple[bool, bool], FloatArray]:
    """Return the different counts of each kind that runs have. Shapes: (runs, kinds).

    The keys say whether they have the first and the last layer; the empty run has neither. Of
    layers of one kind, any count is possible in any case.
    """
    layers, kinds = len(kind_of_layer), max(kind_of_layer) + 1
    if kinds == 1:
        alike = np.arange(layers + 1.0)[:, None]
        return {(first, last): alike for first in (False, True) for last in (False, True)}
    of_kind = np.eye(kinds)[list(kind_of_layer)]
    sums = np.concatenate([np.zeros((1, kinds)), np.cumsum(of_kind, axis=0)])
    inner = sums[1:-1]
    starts, stops = np.triu_indices(len(inner))
    return {
        (False, False): np.unique(inner[stops] - inner[starts], axis=0),
        (True, False): np.unique(inner, axis=0),
        (False, True): np.unique(sums[-1] - inner, axis=0),
        (True, True): sums[-1:],
    }


@lru_cache(maxsize=64)
def run_counts(kind_of_layer: tuple[int, ...]) -> FloatArray:
    """Return the different counts of each kind that runs of layers have. Shape: (runs, kinds).

    Of very many, those of runs between layers that are some layers apart.
    """
    layers, kinds = len(kind_of_layer), max(kind_of_layer) + 1
    of_kind = np.eye(kinds)[list(kind_of_layer)]
    sums = np.concatenate([np.zeros((1, kinds)), np.cumsum(of_kind, axis=0)])
    for apart in range(1, layers + 1):
        cuts = sums[np.unique(np.append(np.arange(0, layers, apart), layers))]
        starts, stops = np.triu_indices(len(cuts), k=1)
        found = np.unique(cuts[stops] - cuts[starts], axis=0)
        if len(found) <= MOST_RUNS:
            break
    return np.asarray(found)
