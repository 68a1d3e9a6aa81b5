"""Fit of boosted trees, and their export from scikit-learn.

scikit-learn shows the trees of its histogram boosting through no public attribute: its own
predictions aside there are only ``_predictors`` and ``_baseline_prediction``, which its ONNX
converters read too. Its other boosting shows its trees but grows other ones, and profiles that
ship would change. So both are read here, in one function, and every fit is held to the library's
own predictions: a release that keeps trees otherwise is an error, never a wrong profile.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmpq_sim.latency.trees import LEAF_UNIT, SPLIT, Trees
from llmpq_sim.latency.work import FloatArray


@dataclass(frozen=True)
class Growth:
    """How trees grow.

    Attributes:
        loss: what they lessen, as the library calls it.
        iterations: number of trees.
        leaves: of each tree, at most.
        leaf_rows: rows that a leaf holds at least.
        learning_rate: share of what is left that a tree takes away.
        leaf_unit: leaves are rounded to multiples of this.
    """

    loss: str
    iterations: int
    leaves: int
    leaf_rows: int
    learning_rate: float
    leaf_unit: float = LEAF_UNIT


SINGLE_READINGS = Growth(
    "absolute_error", iterations=200, leaves=24, leaf_rows=5, learning_rate=0.1
)
"""For noisy rows of many shapes. Absolute rather than squared, because single readings of
quantized kernels have outliers. Chosen on held-out shapes of three devices; 300 trees of 31 leaves
gain 0.1 points and take twice the space."""

REPEATED_READINGS = Growth(
    "squared_error", iterations=50, leaves=31, leaf_rows=1, learning_rate=0.25
)
"""For medians of repeats on the very shapes that will be served: followed closely."""

CHECKED_ROWS = 256
"""Rows of a fit on which exported trees are compared with the library's."""

THRESHOLD_DECIMALS = 7
"""One more than features have: a rounded threshold stays between the values it separates."""


def fit_trees(
    features: FloatArray, target: FloatArray, seed: int, growth: Growth = SINGLE_READINGS
) -> Trees:
    """Return boosted trees with the least error.

    One thread: the result does not depend on the machine, and the data are small.

    Args:
        features: of each row, rounded to six decimals.
        target: what is to be predicted.
        seed: of the library's draws.
        growth: how trees grow.

    Raises:
        RuntimeError: this release of scikit-learn keeps trees in an unknown form.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # noqa: PLC0415

    regressor = HistGradientBoostingRegressor(
        loss=growth.loss,
        learning_rate=growth.learning_rate,
        max_iter=growth.iterations,
        max_leaf_nodes=growth.leaves,
        min_samples_leaf=growth.leaf_rows,
        early_stopping=False,
        random_state=seed,
    )
    with threadpool_limits(limits=1):
        regressor.fit(features, target)
        trees = exported_trees(regressor, growth.leaf_unit)
        _check_export(trees, regressor, features[:CHECKED_ROWS])
    return trees


def _check_export(trees: Trees, regressor: Any, features: FloatArray) -> None:
    """Raise RuntimeError where exported trees do not predict what the library predicts."""
    off = np.abs(trees.predict(features) - regressor.predict(features)).max()
    limit = trees.leaf_unit * (len(trees.trees) + 1)
    if not off <= limit:
        raise RuntimeError(
            f"trees exported from scikit-learn are off by {off:.2g}, at most {limit:.2g} are due "
            "to rounding; this release of scikit-learn keeps them in another form"
        )


def exported_trees(regressor: Any, leaf_unit: float = LEAF_UNIT) -> Trees:
    """Return what a fitted HistGradientBoostingRegressor learned, leaves rounded to a unit."""
    nodes = [predictors[0].nodes for predictors in regressor._predictors]
    questions = sorted({question for tree in nodes for question in _questions(tree)})
    number = {question: i for i, question in enumerate(questions)}
    return Trees(
        start=float(regressor._baseline_prediction.item()),
        threshold_features=tuple(feature for feature, _ in questions),
        threshold_values=tuple(value for _, value in questions),
        trees=tuple(" ".join(_words(tree, 0, number, leaf_unit)) for tree in nodes),
        leaf_unit=leaf_unit,
    )


def _questions(nodes: Any) -> list[tuple[int, float]]:
    return [_question(node) for node in nodes if not node["is_leaf"]]


def _question(node: Any) -> tuple[int, float]:
    return int(node["feature_idx"]), round(float(node["num_threshold"]), THRESHOLD_DECIMALS)


def _words(
    nodes: Any, position: int, number: dict[tuple[int, float], int], unit: float
) -> list[str]:
    """Return a subtree in depth-first order, as ``Trees`` describes."""
    node = nodes[position]
    if node["is_leaf"]:
        return [str(round(float(node["value"]) / unit))]
    left = _words(nodes, int(node["left"]), number, unit)
    right = _words(nodes, int(node["right"]), number, unit)
    return [f"{SPLIT}{number[_question(node)]}", *left, *right]
