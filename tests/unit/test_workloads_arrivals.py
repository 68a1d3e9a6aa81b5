"""Arrival processes against what is known of them."""

import numpy as np
import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.workloads.arrivals import (
    BurstArrivals,
    GammaArrivals,
    LognormalDelay,
    Modulation,
    PoissonBursts,
    arrivals_from_text,
)
from tests.traces import dispersion, gap_variation, rng

REQUESTS = 40_000
WANDERING = Modulation(window_s=60, variation=0.25, persistence=0.85)


def test_a_shape_of_one_is_a_poisson_process() -> None:
    instants_s = GammaArrivals(5.0).draw(REQUESTS, rng())
    assert REQUESTS / instants_s[-1] == pytest.approx(5.0, rel=0.02)
    assert gap_variation(instants_s) == pytest.approx(1, abs=0.02)
    assert dispersion(instants_s, 10.0) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("shape", [0.25, 0.5, 4.0])
def test_gaps_vary_by_one_over_the_root_of_the_shape(shape: float) -> None:
    instants_s = GammaArrivals(2.0, shape).draw(REQUESTS, rng())
    assert gap_variation(instants_s) == pytest.approx(shape**-0.5, rel=0.05)


def test_a_wandering_rate_shows_in_long_windows_only() -> None:
    instants_s = GammaArrivals(5.0, modulation=WANDERING).draw(REQUESTS, rng())
    assert dispersion(instants_s, 1.0) < 2
    # in windows of 60 s: variance/mean = 1 + mean count x cv^2 = 1 + 300 x 0.0625
    assert dispersion(instants_s, 60.0) == pytest.approx(1 + 300 * 0.25**2, rel=0.3)


def test_factors_have_mean_one_and_the_stated_variation_and_persistence() -> None:
    scores = WANDERING.scores(200_000, 0.0, rng())
    factors = WANDERING.level(scores)
    assert factors.mean() == pytest.approx(1, abs=0.01)
    assert factors.std() == pytest.approx(0.25, abs=0.01)
    assert np.corrcoef(scores[1:], scores[:-1])[0, 1] == pytest.approx(0.85, abs=0.01)


def test_a_normalized_process_has_exactly_its_rate() -> None:
    process = GammaArrivals(5.0, 0.9, WANDERING, normalized=True)
    assert 1000 / process.draw(1000, rng())[-1] == pytest.approx(5.0, rel=1e-12)


def test_the_hour_profile_repeats_every_day() -> None:
    profile = (3.0,) + (0.5,) * 23
    instants_s = GammaArrivals(0.5, hour_profile=profile).draw(100_000, rng())
    hours = (instants_s // 3600).astype(int) % 24
    days = instants_s[-1] / 86400
    assert (hours == 0).sum() / days / 3600 == pytest.approx(1.5, rel=0.1)
    assert (hours == 7).sum() / days / 3600 == pytest.approx(0.25, rel=0.1)


def test_a_trend_rises_from_below_the_mean_to_as_far_above() -> None:
    instants_s = GammaArrivals(5.0, trend=0.5, normalized=True).draw(REQUESTS, rng())
    span_s = instants_s[-1]
    first, last = (instants_s < span_s / 4).sum(), (instants_s > span_s * 3 / 4).sum()
    # the mean over a quarter: 1 -/+ 0.5 x 3/4
    assert first / (REQUESTS / 4) == pytest.approx(0.625, abs=0.03)
    assert last / (REQUESTS / 4) == pytest.approx(1.375, abs=0.03)


def test_poisson_bursts_have_the_known_index_of_dispersion() -> None:
    instants_s = PoissonBursts(20.0, 8.0).draw(200_000, rng())
    assert 200_000 / instants_s[-1] == pytest.approx(20.0, rel=0.05)
    assert dispersion(instants_s, 1.0) == pytest.approx(2 * 8 - 1, rel=0.1)


def test_bursts_keep_their_sizes_pauses_and_delays() -> None:
    pause = LognormalDelay(median_s=100.0, sigma=0.0, most_s=1e9, least_s=1.0)
    delay = LognormalDelay(median_s=0.5, sigma=0.0, most_s=1.0)
    bursts = BurstArrivals(3.0, 0.0, 600, pause, ((1.0, delay),))
    gaps = np.diff(bursts.draw(7, rng()))
    assert gaps.tolist() == [0.5, 0.5, 101.0, 0.5, 0.5, 101.0]


def test_every_process_begins_at_zero_in_order_and_repeats_itself() -> None:
    for text in ("poisson", "gamma(0.3)", "burst(5)"):
        process = arrivals_from_text(text, 3.0)
        instants_s = process.draw(500, rng(7))
        assert instants_s[0] == 0
        assert (np.diff(instants_s) >= 0).all()
        assert np.array_equal(instants_s, process.draw(500, rng(7)))
        assert process.draw(1, rng()).tolist() == [0.0]


def test_a_rate_too_low_to_hold_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        GammaArrivals(1e-9, modulation=WANDERING).draw(1000, rng())
    assert str(caught.value) == (
        "expected 1000 requests within 1048576 windows of 60 s, got a rate too low for that"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("uniform", "poisson, gamma(shape) or burst(n)"),
        ("gamma", "poisson, gamma(shape) or burst(n)"),
        ("gamma(-1)", "poisson, gamma(shape) or burst(n)"),
        ("gamma(0)", "a shape of 0.01 to 1000"),
        ("burst(0.5)", "bursts of 1 to 100000 requests"),
    ],
)
def test_other_processes_are_refused(text: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        arrivals_from_text(text)
    assert str(caught.value) == f"--arrivals: expected {expected}, got {text!r}"
