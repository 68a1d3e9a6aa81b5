from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.errors import InputError
from llmpq_sim.latency.costs import embeddings_s, heads_s, products_s
from llmpq_sim.latency.models import Overhead
from llmpq_sim.latency.served_fits import parts_s, with_served_visits
from llmpq_sim.latency.spec import spec_profile
from llmpq_sim.model_files import load_model
from llmpq_sim.units import US
from tests.measured import lab_device, measured

SPEC = load_model("llama-160m")
MODELS = {SPEC.name: SPEC}
PROFILE = replace(
    spec_profile(lab_device()),
    layer_overhead_s=2e-4,
    elementwise_bytes_per_s=3e9,
    step_overhead_s=9e-5,
    embedding_overhead=Overhead(1e-5, 1e-10),
    head_overhead=Overhead(2e-5, 1e-9),
)
BATCH, CONTEXT, LAYERS = 4, 80, 2


def visit(quant: str, end: str, extra_s: float) -> dict[str, Any]:
    """Return a visit that takes this much longer than PROFILE says of its parts."""
    row: dict[str, Any] = {"op": "served", "phase": "decode", "model": SPEC.name, "kernel": end}
    row |= {"quant": quant, "batch": BATCH, "seq": CONTEXT, "layers": LAYERS, "latency_us": 1.0}
    name = {"bf16": "fp16"}.get(quant, quant)
    time_s = float(parts_s(measured([row]), MODELS, name, PROFILE)[0]) + extra_s
    return row | {"latency_us": time_s / US}


def test_the_parts_are_layers_and_an_end() -> None:
    rows = [visit("int4", end, 0.0) for end in ("first", "last")]
    first_s, last_s = parts_s(measured(rows), MODELS, "int4", PROFILE).tolist()
    batch = np.array([float(BATCH)])
    attention_s = PROFILE.decode_attention_s(
        batch, np.array([float(CONTEXT)]), SPEC.heads, SPEC.kv_heads, SPEC.head_dim
    )
    layers_s = LAYERS * float((products_s(SPEC, PROFILE, "int4", batch) + attention_s)[0])
    assert first_s == pytest.approx(layers_s + float(embeddings_s(SPEC, PROFILE, batch)[0]))
    assert last_s == pytest.approx(layers_s + float(heads_s(SPEC, PROFILE, batch)[0]))


@given(st.floats(1e-6, 1e-2), st.floats(1e-6, 1e-2))
def test_visits_take_what_they_took_in_a_pipeline(first_s: float, last_s: float) -> None:
    rows = [
        visit(quant, end, extra_s)
        for quant in ("bf16", "int8", "int4")
        for end, extra_s in (("first", first_s), ("last", last_s))
    ]
    found = with_served_visits(PROFILE, measured(rows), MODELS, PROFILE)
    common_s = min(first_s, last_s)
    assert found.step_overhead_s == pytest.approx(common_s, rel=1e-3, abs=1e-9)
    for row in rows:
        name = {"bf16": "fp16"}.get(row["quant"], row["quant"])
        predicted_s = parts_s(measured([row]), MODELS, name, found)[0] + found.step_overhead_s
        assert predicted_s == pytest.approx(row["latency_us"] * US, rel=1e-3)


def test_visits_shorter_than_their_parts_cost_nothing_besides() -> None:
    rows = [visit("int8", end, -1e-4) for end in ("first", "last")]
    found = with_served_visits(PROFILE, measured(rows), MODELS, PROFILE)
    assert found == replace(PROFILE, step_overhead_s=0.0)


def test_without_served_visits_a_profile_stays_as_it_is() -> None:
    assert with_served_visits(PROFILE, measured([]), MODELS, PROFILE) is PROFILE


def test_a_visit_of_an_unknown_model_is_refused() -> None:
    row = visit("int8", "first", 0.0) | {"model": "no-such-model"}
    with pytest.raises(InputError, match="expected the name of a model, got 'no-such-model'"):
        with_served_visits(PROFILE, measured([row]), MODELS, PROFILE)
