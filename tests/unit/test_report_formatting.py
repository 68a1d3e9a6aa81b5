import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.report.formatting import (
    bar,
    folded,
    format_counts,
    format_parts,
    joined,
    loss_text,
    percent_text,
    rate_text,
    seconds_text,
    span_text,
)


def test_rates_have_one_decimal_unless_they_are_small() -> None:
    assert [rate_text(rate) for rate in (1234.56, 10.0, 9.96, 0.1234)] == [
        "1234.6",
        "10.0",
        "10.0",
        "0.123",
    ]


def test_small_losses_keep_two_digits() -> None:
    losses = (0.058, 0.001, 0.000176, 0.0000084, 0.0, 3e-9)
    assert [loss_text(loss) for loss in losses] == [
        "0.0580",
        "0.0010",
        "0.00018",
        "0.0000084",
        "0",
        "3.0e-09",
    ]


def test_times_take_the_unit_that_suits_them() -> None:
    times_s = (0.0123, 0.9, 4.2, 18.21, 119.0, 125.4, 7321.0)
    assert [seconds_text(time_s) for time_s in times_s] == [
        "12.3 ms",
        "900 ms",
        "4.20 s",
        "18.2 s",
        "119 s",
        "2 min 5 s",
        "2 h 2 min",
    ]


def test_shares_are_percentages() -> None:
    assert (percent_text(0.926), percent_text(0.0071, 1)) == ("93 %", "0.7 %")


def test_spans_and_lists_read_as_words() -> None:
    assert [span_text(sizes) for sizes in ([8, 8], [5, 6], [9, 1])] == ["8", "5 or 6", "1 to 9"]
    assert [joined(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]


def test_formats_are_counted_the_widest_first() -> None:
    layers = ("int4", "int4", "fp16", "int4")
    assert format_counts(layers) == {"fp16": 1, "int4": 3}
    assert format_parts(layers) == ["1 x fp16", "3 x int4"]


@pytest.mark.parametrize(
    ("share", "drawn"), [(0.0, "░░░░"), (0.5, "██░░"), (1.0, "████"), (1.7, "████")]
)
def test_a_bar_is_as_full_as_its_share(share: float, drawn: str) -> None:
    assert bar(share, 4) == drawn


@given(st.lists(st.text("ab", min_size=1, max_size=30)), st.integers(1, 40))
def test_folding_keeps_every_part_whole_and_in_order(parts: list[str], width: int) -> None:
    lines = folded(parts, width)
    assert [part for line in lines for part in line.split(" · ")] == parts
    assert all(len(line) <= width or line in parts for line in lines)
