"""Local machine profiles, which give back the laws of the machine of their rows."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.records import from_dict, to_dict
from llmpq_sim.io.files import json_text, parse_json
from llmpq_sim.io.models import load_model
from llmpq_sim.latency.costs import heads_s, products_s
from llmpq_sim.latency.fitting.fit import FitReport, fit_profile
from llmpq_sim.latency.fitting.pipeline_calibration import ALL_DENSE
from llmpq_sim.latency.profile import DeviceProfile
from tests.local_rows import TOKENS, Laws, local_machine, local_rows
from tests.measured import measured
from tests.unit.test_latency_pipeline_calibration import step

SPEC = load_model("llama-160m")
MIXER = SPEC.only_kind.attention
LAWS = Laws()
MACHINE = local_machine()
ROWS = local_rows(SPEC, LAWS)
SMALL = local_rows(SPEC, LAWS, ("bf16", "int8"), TOKENS[::2])


def fitted(rows: list[dict[str, Any]], name: str = "lab", kernels: str | None = None) -> FitReport:
    device = MACHINE.as_device(name, MACHINE.formats, "spec")
    models = {SPEC.name: SPEC}
    return fit_profile(measured(rows), device, kernels, 0, models=models, machine=MACHINE)


@pytest.fixture(name="report", scope="module")
def _report() -> FitReport:
    return fitted(ROWS)


def test_local_rows_give_a_measured_profile_of_all_of_them(report: FitReport) -> None:
    profile = report.profile
    assert (profile.status, profile.kernels, profile.machine) == ("measured", "torch-2.13", MACHINE)
    assert report.rows_used == profile.calibration_rows == len(ROWS)
    assert report.rows_dropped == {}
    assert profile.no_gain_tokens is None
    assert profile.aliases == {"bf16": "fp16"}


def test_the_overheads_of_the_laws_are_found(report: FitReport) -> None:
    profile = report.profile
    assert profile.layer_overhead_s == pytest.approx(LAWS.layer_s, rel=0.05)
    assert profile.elementwise_bytes_per_s == pytest.approx(LAWS.moved_per_s, rel=0.3)
    assert profile.step_overhead_s == pytest.approx(LAWS.step_s)
    assert profile.head_overhead is not None
    assert profile.head_overhead.fixed_s == pytest.approx(LAWS.head_s, rel=0.1)
    assert profile.embedding_overhead is not None
    assert profile.embedding_overhead.fixed_s == pytest.approx(LAWS.embedding_s, rel=0.01)
    assert profile.link is not None
    assert profile.link.latency_s == pytest.approx(LAWS.link_s, rel=1e-3)


@pytest.mark.parametrize("name", ["bf16", "int8", "int4", "int3"])
def test_whole_layers_that_were_never_timed_are_predicted(report: FitReport, name: str) -> None:
    profile = report.profile
    for phase, batch, seq in (("decode", 3, 200), ("decode", 12, 400), ("prefill", 3, 70)):
        tokens = np.asarray([batch * seq if phase == "prefill" else batch], np.float64)
        attention_s = (
            profile.prefill_attention_s if phase == "prefill" else profile.decode_attention_s
        )(batch, seq, MIXER.heads, MIXER.kv_heads, MIXER.key_dim)
        found_s = float((products_s(SPEC.only_kind, profile, name, tokens) + attention_s)[0])
        assert found_s == pytest.approx(LAWS.layer_time_s(name, phase, batch, seq, SPEC), rel=0.04)


def test_the_head_is_predicted_between_timed_rows(report: FitReport) -> None:
    rows = np.asarray([1.0, 5.0, 13.0])
    exact = [
        LAWS.gemm_s("bf16", "dense", m, SPEC.vocab_size, SPEC.hidden_size)
        + LAWS.head_s
        + 8 * m * SPEC.vocab_size / LAWS.logits_per_s
        for m in rows.tolist()
    ]
    assert heads_s(SPEC, report.profile, rows) == pytest.approx(exact, rel=0.02)


def test_errors_are_stated_between_sizes_and_of_whole_layers(report: FitReport) -> None:
    found = {(error.op, error.format, error.phase): error for error in report.errors}
    assert {op for op, _, _ in found} == {"gemm", "attention", "layer", "head"}
    for (op, _, phase), error in found.items():
        if op == "gemm" and phase == "any":
            assert error.median_ape < 0.04
    layers = [error for (op, _, _), error in found.items() if op == "layer"]
    assert len(layers) == 8
    worst = max(error.p90_ape for error in layers)
    assert 0 < report.profile.error_fraction == round(worst, 4) < 0.06


def test_a_layer_that_follows_no_law_shows_in_the_stated_error() -> None:
    off = [
        row | {"latency_us": 3 * row["latency_us"]}
        if row["op"] == "layer" and row["quant"] == "int8" and row["phase"] == "decode"
        else row
        for row in SMALL
    ]
    assert fitted(off).profile.error_fraction > 0.3


def test_the_profile_survives_its_file_exactly(report: FitReport) -> None:
    content = parse_json(json_text(to_dict(report.profile)), "lab.json")
    assert from_dict(DeviceProfile, Fields(content, "lab.json")) == report.profile


def test_the_notes_say_which_kernels_are_used_and_what_is_added(report: FitReport) -> None:
    switch = report.profile.dense_from_tokens["int8"]
    notes = report.profile.notes
    assert f"int8 multiplies by decoded weights from {switch} tokens on." in notes
    assert "int3 multiplies by decoded weights at all token counts." in notes
    assert "bf16 and fp16 have one table of times." in notes
    assert "Each visit of a stage takes 150 us besides." in notes


def test_the_set_of_dense_kernels_needs_no_fused_ones() -> None:
    profile = fitted(SMALL, kernels="torch-dense").profile
    assert profile.kernels == "torch-dense"
    assert profile.dense_from_tokens == dict.fromkeys(("fp16", "int8", "bf16", "int4", "int3"), 1)
    n, k = SPEC.only_kind.linears[0].out_features, SPEC.only_kind.linears[0].in_features
    for m in (1, 12, 64):
        exact_s = LAWS.gemm_s("int8", "dense", m, n, k)
        assert float(profile.gemm_s("int8", m, n, k)) == pytest.approx(exact_s, rel=0.03)
    assert profile.layer_overhead_s == pytest.approx(LAWS.layer_s, rel=0.05)


def test_a_head_whose_product_was_not_timed_is_a_product_itself() -> None:
    rows = [r for r in SMALL if not (r["op"] == "gemm" and r["n"] == SPEC.vocab_size)]
    profile = fitted(rows).profile
    exact = [row["latency_us"] * 1e-6 for row in rows if row["op"] == "head"]
    at = np.asarray([row["m"] for row in rows if row["op"] == "head"], np.float64)
    assert heads_s(SPEC, profile, at) == pytest.approx(exact, rel=0.02)


def test_without_whole_layers_the_interval_is_a_cautious_one() -> None:
    report = fitted([row for row in SMALL if row["op"] in ("gemm", "attention")])
    assert report.profile.error_fraction == 0.15
    assert report.profile.link is None
    last = "No whole layer was timed: gaps between kernels are not in the times."
    assert report.profile.notes[-1] == last


def test_narrow_and_cached_matrices_of_an_own_model_count() -> None:
    row = {"op": "gemm", "quant": "bf16", "spread": 0.01, "latency_us": 3.0, "n": 64, "k": 64}
    report = fitted([row | {"m": m} for m in (1, 2, 4)])
    assert (report.rows_used, report.rows_dropped) == (3, {})


def test_rows_of_another_machine_are_dropped() -> None:
    rows = [row | {"gpu": "elsewhere"} for row in SMALL]
    with pytest.raises(InputError, match="another device than lab"):
        fitted(rows)


def test_rows_may_be_fitted_under_another_name() -> None:
    some = [row for row in SMALL if row["op"] == "gemm" and row["quant"] == "bf16"]
    assert fitted(some, name="slow-core").profile.device == "slow-core"


def test_the_same_rows_give_the_same_bytes() -> None:
    some = [row for row in SMALL if row["op"] in ("gemm", "visit")]
    first, second = (json_text(to_dict(fitted(some).profile)) for _ in range(2))
    assert first == second


def served(kernels: str | None, factor: float) -> list[dict[str, Any]]:
    """Return steps of a pipeline in which int8 layers take this much longer than alone."""
    alone = replace(fitted(SMALL, kernels=kernels).profile, step_overhead_s=0.0)
    slower = replace(alone, pipeline_factors={"int8": ((4.0, factor), (256.0, factor))})
    suffix = "" if kernels is None else ALL_DENSE
    rows = [
        step(slower, "int8", end, phase, layers, 1e-4)
        for end in ("first", "last")
        for phase in ("decode", "prefill")
        for layers in (2, 6)
    ]
    common = {name: SMALL[0][name] for name in ("backend", "version", "gpu") if name in SMALL[0]}
    return [row | common | {"kernel": f"{row['kernel']}{suffix}"} for row in rows]


def test_each_kernel_set_is_fitted_to_its_own_visits() -> None:
    """Without fused kernels a device neither makes nor is priced by the steps made with them."""
    rows = [*SMALL, *served(None, 0.8), *served("torch-dense", 1.2)]
    for kernels, factor in ((None, 0.8), ("torch-dense", 1.2)):
        report = fitted(rows, kernels=kernels)
        assert report.rows_dropped == {}
        found = report.profile.pipeline_factors["int8"]
        assert found == pytest.approx(np.array([(4.0, factor), (256.0, factor)]), rel=0.02)
        times = f"{found[0][1]:.2f} at 4 tokens and {found[1][1]:.2f} at 256 tokens."
        assert f"In a pipeline a layer in int8 takes as long as alone times {times}" in (
            report.profile.notes
        )
    blind = fitted([*SMALL, *served(None, 0.8)], kernels="torch-dense").profile
    assert blind.pipeline_factors == {}
    assert blind.step_overhead_s == pytest.approx(1e-4, rel=0.1)
