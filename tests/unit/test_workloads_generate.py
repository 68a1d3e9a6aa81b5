"""Synthetic workloads put together."""

from dataclasses import replace

import numpy as np
import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.presets import load_preset, preset_names
from llmpq_sim.workloads.arrivals import GammaArrivals
from llmpq_sim.workloads.generate import (
    Preset,
    RequestClass,
    arriving,
    preset_from_options,
    synthesize,
)
from llmpq_sim.workloads.lengths import Uniform, independent
from llmpq_sim.workloads.randomness import Streams
from tests.traces import columns, requests, rng, same


def test_the_same_seed_draws_the_same_workload_and_another_seed_another() -> None:
    for name in preset_names():
        preset = load_preset(name)
        drawn = [synthesize(preset, 40, None, rng(seed)) for seed in (3, 3)]
        assert same(*drawn)
    assert not same(
        synthesize(load_preset("azure-conv"), 40, None, rng(1)),
        synthesize(load_preset("azure-conv"), 40, None, rng(2)),
    )


def test_a_rate_that_is_asked_for_is_exact_and_scales_every_gap_alike() -> None:
    preset = load_preset("azure-code")
    own, asked = (synthesize(preset, 500, rate, rng()) for rate in (None, 7.0))
    assert asked.rate_per_s == pytest.approx(7.0, rel=1e-12)
    factor = own.span_s / asked.span_s
    assert asked.arrival_s * factor == pytest.approx(own.arrival_s)
    assert columns(asked)[1:] == columns(own)[1:]


def test_offline_presets_are_present_at_the_start() -> None:
    workload = synthesize(load_preset("llmpq-default"), 32, None, rng())
    assert columns(workload) == ([0.0] * 32, [512] * 32, [100] * 32)


def test_a_rate_of_requests_that_do_not_arrive_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        synthesize(load_preset("llmpq-short"), 32, 2.0, rng())
    assert str(caught.value) == (
        "llmpq-short: all requests are present at the start, so it has no rate to set; "
        "give --arrivals"
    )


def test_options_make_a_preset() -> None:
    offline = synthesize(preset_from_options("D(64,8)", None), 3, None, rng())
    assert columns(offline) == ([0.0] * 3, [64] * 3, [8] * 3)
    online = synthesize(preset_from_options("D(64,8)", "gamma(0.5)"), 300, 4.0, rng())
    assert online.name == "D(64,8) gamma(0.5)"
    assert online.rate_per_s == pytest.approx(4.0)


def test_requests_of_an_offline_workload_can_be_given_arrivals() -> None:
    offline = requests([0.0, 0.0, 0.0], [10, 20, 30])
    online = arriving(offline, GammaArrivals(2.0), rng())
    assert columns(online)[1:] == columns(offline)[1:]
    assert 0 == online.arrival_s[0] < online.arrival_s[1] < online.arrival_s[2]
    assert online.notes == ("arrival times are made up",)


def two_classes(slow_per_s: float = 1.0) -> Preset:
    kinds = [
        RequestClass(name, independent(Uniform(size, size), Uniform(1, 1)), GammaArrivals(rate))
        for name, size, rate in (("slow", 10, slow_per_s), ("fast", 20, 3.0))
    ]
    return Preset("two", "this test", 100, tuple(kinds))


def test_classes_are_laid_over_each_other_in_proportion_to_their_rates() -> None:
    workload = synthesize(two_classes(), 20_000, None, rng())
    assert workload.requests == 20_000
    assert workload.rate_per_s == pytest.approx(4.0, rel=0.03)
    assert np.mean(workload.prompt_tokens == 10) == pytest.approx(0.25, abs=0.01)


def test_a_class_that_changes_does_not_shift_what_the_other_draws() -> None:
    drawn = [synthesize(two_classes(rate), 2000, None, rng()) for rate in (1.0, 0.5)]
    gaps = [np.diff(each.arrival_s[each.prompt_tokens == 20])[:500] for each in drawn]
    assert gaps[0] == pytest.approx(gaps[1])


def test_instants_are_rounded_down_to_the_resolution() -> None:
    workload = synthesize(replace(two_classes(), resolution_s=0.5), 500, None, rng())
    assert set((workload.arrival_s * 2 % 1).tolist()) == {0.0}


def test_one_request_needs_no_rate() -> None:
    assert columns(synthesize(two_classes(), 1, 5.0, rng()))[0] == [0.0]


@pytest.mark.parametrize("count", [0, -1, 50_000_001])
def test_a_number_of_requests_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(InputError) as caught:
        synthesize(two_classes(), count, None, rng())
    assert str(caught.value) == f"two: expected 1 to 50000000 requests, got {count}"


def test_a_synthetic_workload_says_that_it_is_none_recorded() -> None:
    assert synthesize(two_classes(), 9, None, rng()).notes == (
        "synthetic, not a recording; source: this test",
    )


def test_named_streams_do_not_depend_on_each_other() -> None:
    streams = Streams(rng(5))
    first = streams.named("arrivals").random(3)
    streams.named("lengths").random(100)
    assert (streams.named("arrivals").random(3) == first).all()
    assert (streams.named("lengths").random(3) != first).all()
    assert (Streams(rng(6)).named("arrivals").random(3) != first).all()
