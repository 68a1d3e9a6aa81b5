import pytest

from llmpq_sim.report.comparison import comparison_rows, what_if_rows
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
