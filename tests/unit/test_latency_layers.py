from typing import Any

import numpy as np
import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.models import load_model
from llmpq_sim.latency.fitting.layers import fit_layers, layer_rows
from llmpq_sim.latency.fitting.rows import Measurements
from llmpq_sim.latency.spec import spec_profile
from tests.measured import lab_device, measured

DEVICE = lab_device()
MODELS = {"opt-30b": load_model("opt-30b")}


def layer_row(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"op": "layer", "model": "opt-30b", "phase": "decode", "quant": "fp16"}
    return row | {"batch": 4, "seq": 512, "latency_us": 2000.0} | changes


def spec_rows(quant: str) -> Measurements:
    """Return layers as the data-sheet profile would time them, 20 % slower."""
    model, profile = MODELS["opt-30b"], spec_profile(DEVICE)
    rows = []
    for phase, batch in (("prefill", 2), ("prefill", 8), ("decode", 2), ("decode", 8)):
        tokens = batch * 512 if phase == "prefill" else batch
        time_s = sum(
            float(profile.gemm_s(quant, tokens, part.out_features, part.in_features))
            for part in model.only_kind.linears
        )
        attention = getattr(profile, f"{phase}_attention_s")
        mixer = model.only_kind.attention
        time_s += float(attention(batch, 512, mixer.heads, mixer.kv_heads, mixer.key_dim))
        rows.append(layer_row(phase=phase, quant=quant, batch=batch, latency_us=1.2e6 * time_s))
    return measured(rows)


@pytest.mark.parametrize("quant", ["fp16", "int8"])
def test_layers_are_predicted_where_they_were_measured(quant: str) -> None:
    rows = spec_rows(quant)
    fitted = fit_layers(rows, MODELS, DEVICE)
    predicted_us = fitted.layer_s(layer_rows(rows, MODELS, quant)) * 1e6
    assert predicted_us == pytest.approx(rows.latency_us, rel=0.03)
    assert fitted.p90_ape < 0.03


def test_constants_stay_near_the_data_sheet_where_rows_leave_them_open() -> None:
    rows = spec_rows("fp16")
    fitted = fit_layers(rows.where(rows.phase == "prefill"), MODELS, DEVICE)
    base = fitted.gemms["fp16"].base
    assert base.flops_per_s == pytest.approx(50e12 / 1.2, rel=0.05)
    assert base.bytes_per_s == pytest.approx(0.8e12, rel=0.05)


def test_the_cost_that_formats_share_is_the_layer_s() -> None:
    rows = [layer_row(quant=quant, latency_us=9000.0) for quant in ("fp16", "int4")]
    fitted = fit_layers(measured(rows), MODELS, DEVICE)
    assert fitted.layer_overhead_s > 0
    assert min(model.base.fixed_s for model in fitted.gemms.values()) == 0


def test_times_are_positive_whatever_the_rows() -> None:
    rows = measured([layer_row(latency_us=latency) for latency in (0.01, 1e9)])
    fitted = fit_layers(rows, MODELS, DEVICE)
    predicted_s = fitted.layer_s(layer_rows(rows, MODELS, "fp16"))
    assert np.isfinite(predicted_s).all()
    assert (predicted_s > 0).all()


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(InputError) as caught:
        fit_layers(measured([layer_row(model="opt-31b")]), MODELS, DEVICE)
    assert str(caught.value) == ("rows with op=layer: expected the name of a model, got 'opt-31b'")
