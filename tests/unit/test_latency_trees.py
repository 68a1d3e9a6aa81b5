import re
from dataclasses import replace

import numpy as np
import pytest

from llmpq_sim.latency.fitting import boosting
from llmpq_sim.latency.fitting.boosting import (
    REPEATED_READINGS,
    SINGLE_READINGS,
    Growth,
    exported_trees,
    fit_trees,
)
from llmpq_sim.latency.trees import LEAF_UNIT, Trees

STUMP = Trees(start=1.0, threshold_features=(1,), threshold_values=(0.5,), trees=("<0 100 -200",))


def words(tree: str) -> Trees:
    return Trees(0.0, (0, 1), (0.0, 0.0), (tree,))


def test_a_row_goes_left_up_to_the_threshold() -> None:
    rows = np.array([[9.0, 0.4], [9.0, 0.5], [9.0, 0.6]])
    expected = 1 + LEAF_UNIT * np.array([100, 100, -200])
    assert STUMP.predict(rows).tolist() == expected.tolist()


def test_trees_add_up_and_nest() -> None:
    nested = Trees(0.0, (0, 1), (0.0, 0.0), ("<0 <1 1 2 <1 3 4", "10"))
    rows = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    assert (nested.predict(rows) / LEAF_UNIT).round().tolist() == [11, 12, 13, 14]


def test_no_trees_and_no_rows_are_fine() -> None:
    assert Trees(2.0, (), (), ()).predict(np.zeros((3, 2))).tolist() == [2, 2, 2]
    assert STUMP.predict(np.zeros((0, 2))).tolist() == []


def test_many_rows_are_predicted_in_parts() -> None:
    rows = np.random.default_rng(0).random((2**20 + 5, 2))
    assert STUMP.predict(rows)[-5:].tolist() == STUMP.predict(rows[-5:]).tolist()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ("<0 1", "trees[0]: expected a whole tree, but its end is missing"),
        ("", "trees[0]: expected a whole tree, but its end is missing"),
        ("<0 1 2 3", "trees[0]: expected the end of the tree, got '3'"),
        ("<2 1 2", "trees[0]: expected a whole number from 0 to 1, got '2'"),
        ("<-1 1 2", "trees[0]: expected a whole number from 0 to 1, got '-1'"),
        ("1.5", "trees[0]: expected a whole number from -1000000000 to 1000000000, got '1.5'"),
        (
            "9" * 30,
            f"trees[0]: expected a whole number from -1000000000 to 1000000000, got {'9' * 20!r}",
        ),
    ],
)
def test_a_malformed_tree_says_what_is_wrong(tree: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        words(tree).check()


def test_exported_trees_predict_what_the_library_predicts() -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor

    rng = np.random.default_rng(0)
    features = np.round(rng.normal(size=(2000, 5)) * 10, 6)
    target = np.sin(features[:, 0]) + features[:, 1] * features[:, 2] / 50
    regressor = HistGradientBoostingRegressor(loss="absolute_error", max_iter=60)
    regressor.fit(features, target)
    unseen = np.round(rng.normal(size=(3000, 5)) * 12, 6)
    difference = exported_trees(regressor).predict(unseen) - regressor.predict(unseen)
    assert np.abs(difference).max() < 1e-6


@pytest.mark.parametrize("growth", [SINGLE_READINGS, REPEATED_READINGS])
def test_every_fit_is_held_to_the_predictions_of_the_library(
    growth: Growth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a release of scikit-learn would have it whose leaves mean something else."""
    rng = np.random.default_rng(2)
    features, target = np.round(rng.random((400, 3)), 6), rng.normal(size=400)
    right = fit_trees(features, target, 0, growth)
    one_off = replace(right, trees=(*right.trees[:-1], "123456"))
    monkeypatch.setattr(boosting, "exported_trees", lambda *_: one_off)
    with pytest.raises(RuntimeError, match=r"^trees exported from scikit-learn are off by "):
        fit_trees(features, target, 0, growth)


def test_the_same_seed_gives_the_same_trees() -> None:
    rng = np.random.default_rng(1)
    features, target = np.round(rng.random((300, 3)), 6), rng.random(300)
    assert fit_trees(features, target, 3) == fit_trees(features, target, 3)
