"""Errors, rankings, speed-ups and fronts, from results by plain arithmetic."""

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.paper.findings import (
    error_fraction,
    front,
    geometric_mean,
    low_bit_share,
    measured_results,
    rankings,
    reached_by_weights,
    speedups,
)

rates = st.floats(min_value=0.1, max_value=1e3)


def result(
    method: str, tokens_per_s: float | None, measured: float | None = None, **changes: Any
) -> dict[str, Any]:
    content: dict[str, Any] = {
        "cluster": 3,
        "workload": "main",
        "gamma": 0.8,
        "kernels": "gptq-2023",
        "method": method,
        "feasible": tokens_per_s is not None,
        "tokens_per_s": tokens_per_s,
        "quality_loss": 0.01,
        "solver_s": 1.0,
        "gap_fraction": None,
        "measured_tokens_per_s": measured,
        "plan": None,
    }
    return content | changes


def test_an_error_is_relative_to_the_measurement() -> None:
    assert error_fraction(result("uniform", 12.0, 10.0)) == pytest.approx(0.2)
    assert error_fraction(result("uniform", None, 10.0)) is None


def test_a_ranking_counts_pairs_in_the_measured_order_and_no_ties() -> None:
    results = [
        result("uniform", 3.0, 10.0),
        result("pipeedge", 2.0, 10.1),  # measured alike: no pair with uniform
        result("adabits", 4.0, 20.0),
        result("llm-pq-ilp", 3.5, 30.0),  # predicted below adabits
        result("llmpq", 9.0),
    ]
    (ranking,) = rankings(results)
    assert (ranking.cluster, ranking.pairs, ranking.right) == (3, 5, 4)
    assert len(measured_results(results)) == 4


def test_what_is_not_feasible_comes_last() -> None:
    (ranking,) = rankings([result("uniform", None, 1.0), result("adabits", 0.1, 2.0)])
    assert (ranking.pairs, ranking.right) == (1, 1)


@given(st.lists(st.tuples(rates, rates), min_size=2, max_size=4))
def test_a_ranking_does_not_depend_on_the_unit_of_predictions(
    pairs: list[tuple[float, float]],
) -> None:
    some = [result(f"method {i}", rate, measured) for i, (rate, measured) in enumerate(pairs)]
    scaled = [one | {"tokens_per_s": 4.0 * one["tokens_per_s"]} for one in some]
    assert rankings(some) == rankings(scaled)
    assert all(one.right <= one.pairs for one in rankings(some))


def test_a_speedup_is_over_the_best_feasible_baseline() -> None:
    results = [
        result("uniform", None),
        result("pipeedge", 2.0),
        result("adabits", 4.0),
        result("llmpq", 6.0),
        result("llmpq", 6.0, cluster=4),  # no baseline there
    ]
    assert speedups(results) == [1.5]
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)


def test_the_share_of_low_bits_counts_layers() -> None:
    plan = {"stages": [{"layers": {"fp16": 3, "int4": 1}}, {"layers": {"int3": 1, "int8": 5}}]}
    assert low_bit_share([result("llmpq", 1.0, plan=plan)]) == pytest.approx(0.2)
    assert low_bit_share([result("adabits", 1.0, plan=plan)]) == 0.0


points = st.lists(
    st.tuples(st.integers(1, 48), st.integers(0, 30)),  # 1 / (1 / n) is n for these n
    max_size=7,
)


def at(time_s: int, loss: int) -> dict[str, Any]:
    return result("front", 1 / time_s, quality_loss=loss)


@given(points)
def test_a_front_has_all_that_nothing_else_beats(found: list[tuple[int, int]]) -> None:
    kept = front([at(*point) for point in found])
    best = {
        (time_s, loss)
        for time_s, loss in found
        if not any(a <= time_s and b <= loss and (a, b) != (time_s, loss) for a, b in found)
    }
    assert [(1 / one["tokens_per_s"], one["quality_loss"]) for one in kept] == sorted(best)
    assert front([result("front", None)]) == []


@given(points)
def test_weights_reach_what_lies_below_every_line(found: list[tuple[int, int]]) -> None:
    """A plan above the line between two others is beaten by one of them, whatever the weight."""
    plans = front([at(*point) for point in found])
    spots = [(1 / one["tokens_per_s"], one["quality_loss"]) for one in plans]
    beaten = {
        middle
        for (a, b), middle, (c, d) in combinations(spots, 3)
        if (middle[1] - b) * (c - a) >= (d - b) * (middle[0] - a)
    }
    reached = reached_by_weights(plans)
    assert [one for one, spot in zip(plans, spots, strict=True) if spot not in beaten] == reached
