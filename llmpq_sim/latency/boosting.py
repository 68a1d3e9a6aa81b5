"""How are boosted trees fitted, and taken out of the library that fits them?"""

from typing import Any

from llmpq_sim.latency.trees import LEAF_UNIT, SPLIT, Trees
from llmpq_sim.latency.work import FloatArray

ITERATIONS = 200
LEAVES = 24
LEARNING_RATE = 0.1
LEAF_ROWS = 5
"""Chosen on held-out shapes of three devices; 300 trees of 31 leaves gain 0.1 points and take
twice the space."""

THRESHOLD_DECIMALS = 7
"""One more than features have: a rounded threshold stays between the values it separates."""


def fit_trees(features: FloatArray, target: FloatArray, seed: int) -> Trees:
    """Return boosted trees with the least absolute error.

    Absolute rather than squared, because single readings of quantized kernels have outliers. One
    thread: the result does not depend on the machine, and the data are small.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # noqa: PLC0415

    regressor = HistGradientBoostingRegressor(
        loss="absolute_error",
        learning_rate=LEARNING_RATE,
        max_iter=ITERATIONS,
        max_leaf_nodes=LEAVES,
        min_samples_leaf=LEAF_ROWS,
        early_stopping=False,
        random_state=seed,
    )
    with threadpool_limits(limits=1):
        regressor.fit(features, target)
    return exported_trees(regressor)


def exported_trees(regressor: Any) -> Trees:
    """Return what a fitted HistGradientBoostingRegressor learned."""
    nodes = [predictors[0].nodes for predictors in regressor._predictors]
    questions = sorted({question for tree in nodes for question in _questions(tree)})
    number = {question: i for i, question in enumerate(questions)}
    return Trees(
        start=float(regressor._baseline_prediction.item()),
        threshold_features=tuple(feature for feature, _ in questions),
        threshold_values=tuple(value for _, value in questions),
        trees=tuple(" ".join(_words(tree, 0, number)) for tree in nodes),
    )


def _questions(nodes: Any) -> list[tuple[int, float]]:
    return [_question(node) for node in nodes if not node["is_leaf"]]


def _question(node: Any) -> tuple[int, float]:
    return int(node["feature_idx"]), round(float(node["num_threshold"]), THRESHOLD_DECIMALS)


def _words(nodes: Any, position: int, number: dict[tuple[int, float], int]) -> list[str]:
    """Return a subtree in depth-first order, as ``Trees`` describes."""
    node = nodes[position]
    if node["is_leaf"]:
        return [str(round(float(node["value"]) / LEAF_UNIT))]
    left = _words(nodes, int(node["left"]), number)
    right = _words(nodes, int(node["right"]), number)
    return [f"{SPLIT}{number[_question(node)]}", *left, *right]
