"""Prediction of regression trees without the library that fitted them."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.records import Place
from llmpq_sim.latency.work import FloatArray

LEAF_UNIT = 1e-8
"""Leaves are stored as whole multiples of this, or of a unit of the trees' own: far below any
measurement's noise."""

LARGEST_LEAF = 10**9
PATHS_AT_ONCE = 2**20
"""Rows times trees that are walked together: bounds the memory, whatever is asked."""

SPLIT = "<"
DIGITS = re.compile("-?[0-9]{1,10}")

IntArray = NDArray[np.intp]


@dataclass(frozen=True)
class Trees:
    """A sum of trees over rows of features.

    Attributes:
        start: what every row gets before the first tree.
        threshold_features: for each question, the feature it asks about.
        threshold_values: for each question, the largest value that goes left.
        trees: each tree in depth-first order as words: ``<7`` asks question 7, its left branch
            follows, then its right one; a number is a leaf, in units of ``leaf_unit``.
        leaf_unit: what a leaf counts.
    """

    start: float
    threshold_features: tuple[int, ...]
    threshold_values: tuple[float, ...]
    trees: tuple[str, ...]
    leaf_unit: Annotated[float, Place.OPTIONAL] = LEAF_UNIT

    def predict(self, features: FloatArray) -> FloatArray:
        """Return one number per row of ``features`` (rows, features)."""
        if not self.trees:
            return np.full(len(features), self.start)
        rows_at_once = max(PATHS_AT_ONCE // len(self.trees), 1)
        parts = [
            self._predict_rows(features[first : first + rows_at_once])
            for first in range(0, max(len(features), 1), rows_at_once)
        ]
        return np.concatenate(parts)

    def check(self) -> None:
        """Raise ValueError, naming the tree, unless all trees are well formed."""
        _ = self._forest

    def _predict_rows(self, features: FloatArray) -> FloatArray:
        forest = self._forest
        asked = features[:, list(self.threshold_features)] <= np.asarray(self.threshold_values)
        first_answer = np.arange(len(features))[:, np.newaxis] * asked.shape[1]
        answers = asked.ravel()
        node = np.broadcast_to(forest.roots, (len(features), len(forest.roots)))
        for _ in range(forest.depth):
            goes_left = answers[first_answer + forest.question[node]]
            node = np.where(goes_left, forest.left[node], forest.right[node])
        total: FloatArray = self.start + forest.value[node].sum(axis=1)
        return total

    @cached_property
    def _forest(self) -> "_Forest":
        return _parse_forest(self.trees, len(self.threshold_values), self.leaf_unit)


@dataclass(frozen=True)
class _Forest:
    """All nodes of all trees as arrays; a leaf is its own left and right branch."""

    roots: IntArray
    question: IntArray
    left: IntArray
    right: IntArray
    value: FloatArray
    depth: int


def _parse_forest(trees: tuple[str, ...], questions: int, leaf_unit: float) -> _Forest:
    words = [text.split() for text in trees]
    roots = np.cumsum([0, *(len(tree) for tree in words)])
    question = np.zeros(roots[-1], np.intp)
    left = np.arange(roots[-1])
    right = left.copy()
    value = np.zeros(roots[-1])
    for index, (tree, root) in enumerate(zip(words, roots.tolist(), strict=False)):
        try:
            for i, branch in _right_branches(tree):
                question[root + i] = _bounded(tree[i][len(SPLIT) :], 0, questions - 1)
                left[root + i], right[root + i] = root + i + 1, root + branch
            for i, word in enumerate(tree):
                if not word.startswith(SPLIT):
                    value[root + i] = _bounded(word, -LARGEST_LEAF, LARGEST_LEAF) * leaf_unit
        except ValueError as error:
            raise ValueError(f"trees[{index}]: {error}") from None
    return _Forest(roots[:-1], question, left, right, value, _depth(left, right))


def _right_branches(words: list[str]) -> list[tuple[int, int]]:
    """Return the position of each split of a tree and of its right branch.

    ValueError if the words are not exactly one tree.
    """
    branches = []
    waiting = [-1]  # splits whose right branch is yet to come; -1 stands for the end of the tree
    for i, word in enumerate(words):
        if not waiting:
            raise ValueError(f"expected the end of the tree, got {word[:20]!r}")
        if word.startswith(SPLIT):
            waiting.append(i)
        else:
            branches.append((waiting.pop(), i + 1))
    if waiting:
        raise ValueError("expected a whole tree, but its end is missing")
    return branches[:-1]


def _bounded(word: str, least: int, most: int) -> int:
    number = int(word) if DIGITS.fullmatch(word) else None
    if number is None or not least <= number <= most:
        raise ValueError(f"expected a whole number from {least} to {most}, got {word[:20]!r}")
    return number


def _depth(left: IntArray, right: IntArray) -> int:
    """Return how many questions the longest path has; branches come after their split."""
    depth = np.zeros(len(left), np.intp)
    for i in np.flatnonzero(left != np.arange(len(left))).tolist():
        depth[left[i]] = depth[right[i]] = depth[i] + 1
    return int(depth.max(initial=0))
