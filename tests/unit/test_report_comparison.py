"""Comparisons of a plan: with baselines, with one device less, and along its front."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.report.comparison import (
    FrontRow,
    Mark,
    comparison_rows,
    front_marks,
    front_rows,
    scatter_lines,
    thinned,
    what_if_rows,
)
from tests.reports import small_outcome, small_task


def test_the_plan_found_comes_first_and_every_other_says_how_much_slower_it_is() -> None:
    outcome = small_outcome(small_task())
    found, uniform, _ = comparison_rows(outcome)
    assert (found.name, found.speedup) == ("this plan", None)
    assert (uniform.name, uniform.notes) == ("uniform", ["12 x int4"])
    assert found.tokens_per_s is not None
    assert uniform.tokens_per_s is not None
    assert uniform.speedup == pytest.approx(found.tokens_per_s / uniform.tokens_per_s)


def test_a_baseline_that_is_not_feasible_says_why() -> None:
    row = comparison_rows(small_outcome(small_task()))[2]
    assert row.notes == ["does not fit: stage 0 on t4-0 needs 2 GiB, has 1"]
    assert row.figures == ("", "", "")


def test_what_if_rows_say_how_much_would_change() -> None:
    slower, never = what_if_rows(small_outcome(small_task()))
    assert slower.label == "without one p100-12g"
    assert slower.change_fraction == pytest.approx(-0.5)
    assert slower.figures[1] == "-50.0 %"
    assert never.figures == ("", "no plan")


positive = st.floats(1e-3, 1e5)


def test_the_front_is_listed_the_fastest_first() -> None:
    rows = front_rows(small_outcome(small_task(), wants_front=True))
    assert [row.formats for row in rows] == [["2 x fp16", "8 x int8", "2 x int4"], ["12 x int4"]]
    assert rows[0].tokens_per_s > rows[1].tokens_per_s
    assert [row.stages for row in rows] == [2, 1]


def test_baselines_lie_under_the_front() -> None:
    marks = front_marks(small_outcome(small_task(), wants_front=True))
    assert [mark.symbol for mark in marks] == ["+", "o", "o"]


def test_a_long_front_is_thinned_but_keeps_its_ends() -> None:
    rows = [FrontRow(100.0 - number, 0.1 + number, None, [], 1) for number in range(50)]
    kept = thinned(rows, 7)
    assert (len(kept), kept[0], kept[-1]) == (7, rows[0], rows[-1])
    assert thinned(rows[:7], 7) == rows[:7]


def test_a_scatter_puts_loss_to_the_right_and_speed_upwards() -> None:
    marks = [Mark(0.0, 10.0, "+"), Mark(0.5, 20.0, "o")]
    assert scatter_lines(marks, 30, 5, "nominal nats") == [
        "20.0 │                       o",
        "     │",
        "10.0 │+",
        "     └────────────────────────",
        "      0  nominal nats   0.5000",
    ]


@given(st.lists(st.builds(Mark, positive, positive, st.just("o")), min_size=1))
def test_a_scatter_keeps_its_size_and_shows_something(marks: list[Mark]) -> None:
    lines = scatter_lines(marks, 60, 12, "nats of KL per token")
    assert len(lines) == 12
    assert all(len(line) <= 60 for line in lines)
    assert sum(line.split("│")[-1].count("o") for line in lines[:-2]) <= len(marks)
    assert any("o" in line for line in lines[:-2])
