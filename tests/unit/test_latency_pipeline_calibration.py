from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.units import US
from llmpq_sim.io.models import load_model
from llmpq_sim.latency.costs import embeddings_s, heads_s, products_s
from llmpq_sim.latency.fitting.pipeline_calibration import (
    steps_of_kernels,
    with_pipeline_calibration,
)
from llmpq_sim.latency.models import Overhead
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.latency.spec import spec_profile
from tests.measured import lab_device, measured

SPEC = load_model("llama-160m")
MIXER = SPEC.only_kind.attention
MODELS = {SPEC.name: SPEC}
PROFILE = replace(
    spec_profile(lab_device()),
    layer_overhead_s=2e-4,
    elementwise_bytes_per_s=3e9,
    step_overhead_s=9e-5,
    embedding_overhead=Overhead(1e-5, 1e-10),
    head_overhead=Overhead(2e-5, 1e-9),
)
BATCH, CONTEXT, PROMPT = 4, 80, 64
ENDS = ("first", "last")
DEPTHS = (2, 6)
QUANTS = ("bf16", "int8", "int4")

seconds = st.floats(1e-5, 1e-2)
factors = st.floats(0.6, 1.9)


def step_s(profile: DeviceProfile, quant: str, end: str, phase: str, layers: int) -> float:
    """Return the time of a step as the planner counts it, in closed form."""
    format_name = {"bf16": "fp16"}.get(quant, quant)
    batch = np.array([float(BATCH)])
    tokens = batch * PROMPT if phase == "prefill" else batch
    attention = profile.prefill_attention_s if phase == "prefill" else profile.decode_attention_s
    context = np.array([float(PROMPT if phase == "prefill" else CONTEXT)])
    attention_s = attention(batch, context, MIXER.heads, MIXER.kv_heads, MIXER.key_dim)
    layer_s = products_s(SPEC.only_kind, profile, format_name, tokens) + attention_s
    end_s = embeddings_s(SPEC, profile, tokens) if end == "first" else heads_s(SPEC, profile, batch)
    return float((layers * layer_s + end_s)[0]) + profile.step_overhead_s


def step(
    profile: DeviceProfile, quant: str, end: str, phase: str, layers: int, extra_s: float = 0.0
) -> dict[str, Any]:
    """Return a step that takes this much longer than a profile says."""
    time_s = step_s(profile, quant, end, phase, layers) + extra_s
    row: dict[str, Any] = {"op": "served", "phase": phase, "model": SPEC.name, "kernel": end}
    row |= {"quant": quant, "batch": BATCH, "seq": PROMPT if phase == "prefill" else CONTEXT}
    return row | {"layers": layers, "latency_us": time_s / US}


@given(seconds, seconds, st.tuples(factors, factors, factors), st.tuples(factors, factors, factors))
def test_visits_take_what_they_took_in_a_pipeline(
    first_s: float, last_s: float, decode: tuple[float, ...], prefill: tuple[float, ...]
) -> None:
    """Whatever a machine's factors and costs are, its own steps tell them."""
    curves = zip(("fp16", "int8", "int4"), decode, prefill, strict=True)
    machine = replace(
        PROFILE,
        step_overhead_s=0.0,
        pipeline_factors={
            name: ((float(BATCH), few), (float(BATCH * PROMPT), many)) for name, few, many in curves
        },
    )
    extra_s = dict(zip(ENDS, (first_s, last_s), strict=True))
    rows = [
        step(machine, quant, end, phase, layers, extra_s[end])
        for quant in QUANTS
        for end in ENDS
        for phase in ("decode", "prefill")
        for layers in DEPTHS
    ]
    found = with_pipeline_calibration(PROFILE, measured(rows), MODELS, PROFILE)
    assert found.step_overhead_s == pytest.approx(min(first_s, last_s), rel=1e-2, abs=1e-7)
    for name, curve in machine.pipeline_factors.items():
        assert np.array(found.pipeline_factors[name]) == pytest.approx(np.array(curve), rel=1e-3)
    for row in rows:
        again_s = step_s(found, row["quant"], row["kernel"], row["phase"], row["layers"])
        assert again_s == pytest.approx(row["latency_us"] * US, rel=1e-3)


@given(seconds, seconds)
def test_at_one_depth_layers_take_what_they_take_alone(first_s: float, last_s: float) -> None:
    extra_s = dict(zip(ENDS, (first_s, last_s), strict=True))
    bare = replace(PROFILE, step_overhead_s=0.0)
    rows = [step(bare, quant, end, "decode", 2, extra_s[end]) for quant in QUANTS for end in ENDS]
    found = with_pipeline_calibration(PROFILE, measured(rows), MODELS, PROFILE)
    assert found.pipeline_factors == dict.fromkeys(("fp16", "int8", "int4"), ((BATCH, 1.0),))
    for row in rows:
        again_s = step_s(found, row["quant"], row["kernel"], "decode", 2)
        assert again_s == pytest.approx(row["latency_us"] * US, rel=1e-3)


def test_at_one_depth_prefill_tells_nothing_of_decode() -> None:
    slow = replace(
        PROFILE, step_overhead_s=0.0, pipeline_factors={"int8": ((BATCH * PROMPT, 1.5),)}
    )
    rows = [step(slow, "int8", end, "prefill", 2) for end in ENDS]
    bare = replace(PROFILE, step_overhead_s=0.0)
    rows += [step(bare, "int8", end, "decode", 2) for end in ENDS]
    found = with_pipeline_calibration(PROFILE, measured(rows), MODELS, PROFILE)
    (decode, prefill) = found.pipeline_factors["int8"]
    assert decode == (BATCH, 1.0)
    assert prefill == pytest.approx((BATCH * PROMPT, 1.5), rel=1e-3)


def test_visits_shorter_than_their_parts_cost_nothing_besides() -> None:
    bare = replace(PROFILE, step_overhead_s=0.0)
    rows = [step(bare, "int8", end, "decode", 2, -1e-6) for end in ENDS]
    found = with_pipeline_calibration(PROFILE, measured(rows), MODELS, PROFILE)
    assert found.step_overhead_s < 1e-9
    assert replace(found, step_overhead_s=0.0, pipeline_factors={}) == bare


def test_a_factor_no_machine_has_is_bounded() -> None:
    """Rows of a machine that others used meanwhile do not make layers take nothing."""
    disturbed = replace(PROFILE, pipeline_factors={"int8": ((float(BATCH), 5.0),)})
    rows = [step(disturbed, "int8", end, "decode", layers) for end in ENDS for layers in DEPTHS]
    found = with_pipeline_calibration(PROFILE, measured(rows), MODELS, PROFILE)
    assert list(found.pipeline_factors) == ["int8"]
    assert found.pipeline_factors["int8"][0] == pytest.approx((BATCH, 2.0), rel=1e-3)


def test_each_kernel_set_has_its_own_visits() -> None:
    rows = [
        step(PROFILE, "int8", end, "decode", 2) | {"kernel": end + suffix}
        for end in ENDS
        for suffix in ("", "-dense")
    ]
    rows[1]["latency_us"] = 7.0
    both = measured(rows)
    assert steps_of_kernels(both, all_dense=False).kernel.tolist() == ["first", "last"]
    dense = steps_of_kernels(both, all_dense=True)
    assert dense.kernel.tolist() == ["first", "last"]
    assert dense.latency_us[0] == 7.0


def test_layers_of_another_kernel_set_keep_their_times() -> None:
    rows = [step(PROFILE, "int8", end, "decode", n, 1e-3 * n) for end in ENDS for n in DEPTHS]
    other = replace(PROFILE, notes=("another kernel set",))
    found = with_pipeline_calibration(other, measured(rows), MODELS, PROFILE)
    assert found.pipeline_factors == {}
    assert found.notes == other.notes


def test_without_served_visits_a_profile_stays_as_it_is() -> None:
    assert with_pipeline_calibration(PROFILE, measured([]), MODELS, PROFILE) is PROFILE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "no-such-model"}, "expected the name of a model, got 'no-such-model'"),
        ({"kernel": "middle"}, "expected first or last, the end of a model, as kernel, got 'middl"),
        ({"phase": "any"}, "expected decode or prefill as phase, got 'any'"),
    ],
    ids=["model", "end", "phase"],
)
def test_a_visit_that_cannot_be_is_refused(change: dict[str, str], message: str) -> None:
    row = step(PROFILE, "int8", "first", "decode", 2) | change
    with pytest.raises(InputError, match=message):
        with_pipeline_calibration(PROFILE, measured([row]), MODELS, PROFILE)
