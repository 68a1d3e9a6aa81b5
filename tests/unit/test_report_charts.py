"""Charts: within their width, with extremes where they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.report.charts import (
    MEDIAN,
    TAIL,
    Chart,
    FloatArray,
    distribution,
    over_time,
    side_by_side,
)

times = st.lists(st.floats(0, 1e5), min_size=1, max_size=60).map(np.array)


@given(times, st.integers(30, 88), st.integers(3, 12))
def test_a_chart_fits_its_width_and_height(value_s: FloatArray, width: int, height: int) -> None:
    arrival_s = np.arange(float(len(value_s)))
    for chart in (
        over_time("a", arrival_s, value_s, width, height),
        distribution("a", value_s, width, height),
    ):
        lines = chart.lines()
        assert len(lines) == height + 3
        assert max(map(len, lines)) <= width


def test_median_and_tail_are_where_they_are_in_time() -> None:
    arrival_s = np.linspace(0, 100, 1000)
    value_s = np.where(arrival_s < 50, 1.0, 10.0)
    chart = over_time("a", arrival_s, value_s, 40, 11)
    half = len(chart.rows[0]) // 2
    assert set(chart.rows[0][half + 1 :]) == {MEDIAN}
    assert MEDIAN not in chart.rows[0][: half - 1]
    assert set(chart.rows[9][: half - 1]) == {MEDIAN}
    assert TAIL not in "".join(chart.rows)
    assert (chart.first, chart.last, chart.ticks[0]) == ("0", "100 s", "10.0 s")


def test_a_distribution_ends_at_all_requests() -> None:
    chart: Chart = distribution("a", np.array([0.1, 1.0, 10.0]), 40, 5)
    assert chart.rows[0].endswith("•")
    assert (chart.first, chart.last) == ("100 ms", "10.0 s")


def test_blocks_stand_beside_each_other() -> None:
    assert side_by_side(["a", "bb"], ["c", ""], 4) == ["a   c", "bb"]
    with pytest.raises(ValueError, match="zip"):
        side_by_side(["a"], [], 4)
