"""Draws of lengths."""

import numpy as np
import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.workloads.lengths import (
    BatchShare,
    LengthTable,
    Lognormal,
    RequestLengths,
    Uniform,
    independent,
    lengths_from_text,
)
from tests.traces import rng


def test_a_table_interpolates_the_logarithm_of_tokens() -> None:
    table = LengthTable(((0.0, 1.0), (0.5, 100.0), (1.0, 400.0)))
    shares = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    assert table.quantile(shares).tolist() == [1, 10, 100, 200, 400]


def test_what_is_drawn_from_a_table_has_its_quantiles() -> None:
    drawn = LengthTable(((0.0, 4.0), (0.3, 50.0), (1.0, 900.0))).draw(100_000, rng())
    assert np.mean(drawn <= 50) == pytest.approx(0.3, abs=0.01)
    assert (drawn.min(), drawn.max()) == (4, 900)


@pytest.mark.parametrize(
    "knots",
    [
        ((0.0, 5.0),),
        ((0.1, 5.0), (1.0, 6.0)),
        ((0.0, 5.0), (0.9, 6.0)),
        ((0.0, 5.0), (0.5, 4.0), (1.0, 6.0)),
        ((0.0, 5.0), (0.5, 5.0), (0.5, 6.0), (1.0, 6.0)),
    ],
)
def test_knots_that_do_not_rise_are_refused(knots: tuple[tuple[float, float], ...]) -> None:
    message = "expected knots that rise in probability from 0 to 1 and in tokens"
    with pytest.raises(InputError, match=message):
        LengthTable(knots)


def test_outputs_follow_the_law_of_their_prompt() -> None:
    fixed = {below: Uniform(tokens, tokens) for below, tokens in ((10, 1), (20, 2), (None, 3))}
    lengths = RequestLengths(Uniform(5, 30), tuple(fixed.items()))
    prompts, outputs = lengths.draw(1000, rng())
    assert outputs.tolist() == [1 + (p >= 10) + (p >= 20) for p in prompts.tolist()]


def test_a_lognormal_law_is_cut_at_its_end() -> None:
    drawn = Lognormal(5.0, 2.0, 1000).draw(10_000, rng())
    assert drawn.max() == 1000
    assert np.median(drawn) == pytest.approx(np.exp(5.0), rel=0.1)


def test_a_batch_draws_one_share_for_all_its_requests() -> None:
    drawn = {tuple(BatchShare(100, 0.6).draw(3, rng(seed))) for seed in range(50)}
    assert all(len(set(batch)) == 1 and 60 <= batch[0] <= 100 for batch in drawn)
    assert len(drawn) > 10


def test_options_describe_fixed_normal_and_uniform_lengths() -> None:
    assert lengths_from_text("D(512,100)") == independent(Uniform(512, 512), Uniform(100, 100))
    assert lengths_from_text("U(1, 8)/(2, 4)") == independent(Uniform(1, 8), Uniform(2, 4))
    prompts, outputs = lengths_from_text("N(480,240)/(300,0)").draw(100_000, rng())
    assert prompts.mean() == pytest.approx(480, rel=0.03)
    assert set(outputs.tolist()) == {300}
    assert prompts.min() == 1


@pytest.mark.parametrize("text", ["", "512", "D(1)", "D(1,2,3)", "N(1,2)", "X(1,2)/(3,4)"])
def test_other_notations_are_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        lengths_from_text(text)
    assert str(caught.value) == (
        "--lengths: expected D(in,out), N(mean,deviation)/(mean,deviation) or "
        f"U(least,most)/(least,most), got {text!r}"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("D(0,5)", "lengths of 1 to 10000000 tokens"),
        ("N(0,5)/(1,1)", "lengths of 1 to 10000000 tokens"),
        ("U(8,1)/(2,4)", "whole tokens, the least first"),
        ("D(1.5,2)", "whole tokens, the least first"),
    ],
)
def test_lengths_that_cannot_be_are_refused(text: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        lengths_from_text(text)
    assert str(caught.value) == f"--lengths: expected {expected}, got {text!r}"
