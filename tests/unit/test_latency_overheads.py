from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.cluster import Link
from llmpq_sim.core.units import US
from llmpq_sim.io.models import load_model
from llmpq_sim.latency.fitting.overheads import (
    fit_link,
    fit_overhead,
    layer_overhead,
    timed_layers,
    with_layer_overhead,
)
from llmpq_sim.latency.models import Overhead
from llmpq_sim.latency.spec import spec_profile
from tests.measured import lab_device, measured

SPEC = load_model("llama-160m")
MODELS = {SPEC.name: SPEC}
PROFILE = spec_profile(lab_device())


@given(st.floats(0, 1e-2), st.floats(0, 1e-8))
def test_a_constant_and_a_rate_are_recovered(fixed_s: float, byte_s: float) -> None:
    moved = np.asarray([1e3, 1e4, 1e5, 1e6])
    rest_s = fixed_s + byte_s * moved
    found = fit_overhead(moved, rest_s, rest_s + 1e-3)
    assert found.time_s(moved) == pytest.approx(rest_s, rel=1e-4, abs=1e-9)


def test_what_is_below_its_kernels_adds_nothing() -> None:
    found = fit_overhead(np.asarray([1.0, 2.0]), np.asarray([-1.0, -2.0]), np.asarray([1.0, 1.0]))
    assert found == Overhead(0.0, 0.0)


def test_nothing_timed_adds_nothing() -> None:
    none = np.zeros(0)
    assert fit_overhead(none, none, none) == Overhead(0.0, 0.0)
    assert layer_overhead([]) == Overhead(0.0, 0.0)


def layer(overhead: Overhead, quant: str, phase: str, batch: int, seq: int) -> dict[str, Any]:
    """Return a layer that takes this much beside the kernels of PROFILE."""
    row: dict[str, Any] = {"op": "layer", "model": SPEC.name, "quant": quant, "phase": phase}
    row |= {"batch": batch, "seq": seq, "latency_us": 1.0}
    (part,) = timed_layers(measured([row]), MODELS, PROFILE)
    time_s = part.kernels_s + overhead.time_s(part.moved_bytes)
    return row | {"latency_us": float(time_s[0]) / US}


def test_layers_give_back_what_they_were_made_with() -> None:
    made = Overhead(300e-6, 2e-10)
    rows = [
        layer(made, quant, phase, batch, seq)
        for quant in ("fp16", "int4")
        for phase, batch, seq in (("decode", 1, 64), ("decode", 16, 100), ("prefill", 2, 300))
    ]
    layers = timed_layers(measured(rows), MODELS, PROFILE)
    found = layer_overhead(layers)
    assert (found.fixed_s, found.byte_s) == pytest.approx((made.fixed_s, made.byte_s), rel=1e-4)
    profile = with_layer_overhead(PROFILE, found)
    assert profile.layer_overhead_s == found.fixed_s
    assert profile.elementwise_s(1e6) == pytest.approx(found.byte_s * 1e6, rel=1e-4)


def test_a_row_left_out_does_not_move_the_overhead() -> None:
    made = Overhead(300e-6, 0.0)
    rows = [layer(made, "fp16", "decode", batch, 64) for batch in (1, 4, 16)]
    rows[1]["latency_us"] /= 3.0
    layers = timed_layers(measured(rows), MODELS, PROFILE)
    assert layer_overhead(layers).fixed_s < 0.9 * made.fixed_s
    without = layer_overhead(layers, without=(0, 1))
    assert without.fixed_s == pytest.approx(made.fixed_s, rel=1e-4)


def test_no_time_for_bytes_is_no_rate() -> None:
    profile = with_layer_overhead(PROFILE, Overhead(1e-4, 0.0))
    assert profile.elementwise_bytes_per_s is None
    assert profile.elementwise_s([1e9]).tolist() == [0.0]


def test_links_are_fitted_relative_to_each_message() -> None:
    link = Link(50e-6, 2e9)
    sizes = (1024, 65536, 4194304)
    rows = [{"op": "link", "bytes": s, "latency_us": link.transfer_s(s) / US} for s in sizes]
    found = fit_link(measured(rows))
    assert found is not None
    assert (found.latency_s, found.bytes_per_s) == pytest.approx((50e-6, 2e9), rel=1e-4)
    assert fit_link(measured([])) is None


def test_messages_that_all_take_as_long_have_a_finite_rate() -> None:
    rows = [{"op": "link", "bytes": size, "latency_us": 5.0} for size in (1, 1000)]
    found = fit_link(measured(rows))
    assert found is not None
    assert found.transfer_s(1000) == pytest.approx(5e-6)


def test_overheads_of_a_profile_price_embedding_and_head() -> None:
    profile = replace(
        PROFILE, embedding_overhead=Overhead(1e-5, 1e-9), head_overhead=Overhead(2e-5, 0.0)
    )
    assert float(profile.embedding_s(1000.0)) == pytest.approx(1.1e-5)
    assert float(profile.head_s(1000.0)) == 2e-5
    assert float(PROFILE.head_s(8e11)) == float(PROFILE.elementwise_s(8e11)) == 1.0
