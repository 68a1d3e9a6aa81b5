from itertools import product
from typing import Any

import numpy as np
import pytest

from llmpq_sim.core.layers import Attention, Experts, LatentAttention, Linear, Recurrent
from llmpq_sim.latency.fitting.evaluation import FOLDS, MANY_GROUPS, folds_of
from llmpq_sim.latency.fitting.fit import FitReport, fit_profile
from llmpq_sim.latency.part_work import ExpertsSizes, LatentSizes, ScanSizes, WindowSizes, sizes_of
from llmpq_sim.latency.parts import SCAN_CHUNK
from tests.measured import gemm_row, lab_device, measured

DEVICE = lab_device(l2_bytes=1)
FLOPS_PER_S, BYTES_PER_S = 20e12, 0.6e12
TOKENS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)


def timed_us(sizes: Any) -> float:
    """Return 9 us and what 20 TFLOPS or 0.6 TB/s take."""
    work_s = max(float(sizes.flops) / FLOPS_PER_S, float(sizes.moved_bytes) / BYTES_PER_S)
    return 9 + 1e6 * work_s


def experts_row(
    tokens: float, inner: float, count: float, chosen: float, **changes: Any
) -> dict[str, Any]:
    sizes = sizes_of(
        ExpertsSizes, tokens=tokens, distinct=min(tokens * chosen, count), chosen=chosen,
        width=2048, inner_size=inner, matrices=3, weight_bits=16,
    )  # fmt: skip
    row = {"op": "experts", "quant": "bf16", "m": tokens, "n": inner, "k": 2048}
    row |= {"experts": count, "chosen": chosen, "routing": "balanced", "backend": "lab"}
    return row | {"tensor_ranks": 1, "expert_ranks": 1, "latency_us": timed_us(sizes)} | changes


EXPERTS = [
    experts_row(tokens, inner, count, chosen)
    for tokens, inner, (count, chosen) in product(
        TOKENS, (512.0, 1024.0, 1536.0, 3072.0), ((8, 2), (32, 4), (64, 8), (128, 8))
    )
]


ONE_SIZE = [row for row in EXPERTS if row["m"] == 16]
"""Every shape once: too few rows for trees."""


def attention_rows(op: str, phase: str) -> list[dict[str, Any]]:
    """Return windowed or latent attention of four layouts."""
    rows = []
    for heads, batch, tokens in product(
        (8.0, 16.0, 32.0, 64.0), (1.0, 8.0, 64.0), (128.0, 2048.0, 8192.0)
    ):
        queries = tokens if phase == "prefill" else 1.0
        own = {"batch": batch, "queries": queries, "tokens": tokens, "heads": heads}
        row: dict[str, Any] = {"op": op, "phase": phase, "heads": heads}
        row |= {"batch": batch, "seq": tokens}
        if op == "latent":
            widths = {"kv_rank": 512, "nope_dim": 128, "rope_dim": 64, "value_dim": 128}
            row |= {"latency_us": timed_us(sizes_of(LatentSizes, **own, **widths))}
        else:
            layout = {"kv_heads": 4, "head_dim": 64, "window": 256}
            row |= {**layout, "latency_us": timed_us(sizes_of(WindowSizes, **own, **layout))}
        rows.append(row)
    return rows


def scan_rows() -> list[dict[str, Any]]:
    rows = []
    for heads, batch in product((2.0, 4.0, 8.0, 16.0, 32.0), (1.0, 4.0, 16.0, 64.0, 256.0, 512.0)):
        sizes = sizes_of(
            ScanSizes, batch=batch, tokens=1, heads=heads, key_dim=128, value_dim=128,
            state_bytes=heads * 128 * 128 * 2, channels=3 * heads * 128, chunk=SCAN_CHUNK,
        )  # fmt: skip
        row: dict[str, Any] = {
            "op": "recurrent",
            "phase": "decode",
            "algorithm": "gated-delta",
            "kernel": "scan",
        }
        row |= {"batch": batch, "seq": 1, "heads": heads, "kv_heads": heads}
        rows.append(row | {"head_dim": 128, "value_dim": 128, "latency_us": timed_us(sizes)})
    return rows


def report_of(rows: list[dict[str, Any]], **options: Any) -> FitReport:
    return fit_profile(measured(rows), DEVICE, options.pop("kernels", None), 0, **options)


def test_experts_are_fitted_and_judged_on_shapes_the_fit_never_saw() -> None:
    report = report_of(EXPERTS)
    errors = {error.phase: error for error in report.errors}
    assert set(errors) == {"any", "decode", "prefill"}
    assert errors["decode"].rows == errors["any"].rows * 5 / 7  # 512 tokens and fewer
    assert errors["any"].rows == len(EXPERTS)  # each of 16 shapes is held out once
    assert errors["any"].median_ape < 0.03
    profile = report.profile
    assert (profile.kernels, profile.status) == ("lab", "calibrated")
    assert profile.notes[0] == "Matrix products follow the data sheet: none was timed."
    assert profile.part_notes == ("Beside dense layers were timed: experts in fp16 (lab).",)
    row = EXPERTS[-1]
    mixture = Experts(int(row["experts"]), int(row["chosen"]), int(row["n"]))
    time_s = float(profile.experts_s("fp16", row["m"], mixture, 2048))
    assert time_s == pytest.approx(row["latency_us"] * 1e-6, rel=0.05)


def test_attention_within_windows_latent_and_recurrences_are_fitted_by_phase() -> None:
    rows = [
        row
        for op, phase in product(("attention", "latent"), ("prefill", "decode"))
        for row in attention_rows(op, phase)
    ]
    report = report_of([*rows, *scan_rows()])
    profile = report.profile
    assert set(profile.windows) == set(profile.latent) == {"prefill", "decode"}
    assert set(profile.recurrent) == {"gated-delta-decode"}
    assert {(error.op, error.phase) for error in report.errors} == {
        *product(("window", "latent"), ("prefill", "decode")),
        ("recurrent", "decode"),
    }
    assert max(error.median_ape for error in report.errors) < 0.08
    layout = Attention(heads=32, kv_heads=4, key_dim=64, value_dim=64, window=256)
    wanted = next(row for row in rows if row["batch"] == 64 and row["seq"] == 8192)
    found_s = profile.attention_s("prefill", 64, 8192, replace_heads(layout, wanted["heads"]))
    assert float(found_s) == pytest.approx(wanted["latency_us"] * 1e-6, rel=0.1)
    latent = LatentAttention(128, None, 512, 128, 64, 128)
    assert profile.latent_s("decode", 64, 8192, latent) > profile.latent_s(
        "decode", 1, 8192, latent
    )
    delta = Recurrent(
        "gated-delta", (Linear("in", 1, 1),), 32, 128, 128, 32 * 128 * 128, 2, 3 * 12288, 4 * 12288
    )
    scan_us = next(r["latency_us"] for r in scan_rows() if (r["heads"], r["batch"]) == (32, 512))
    assert float(profile.recurrent_s("decode", 512, 1, delta)) * 1e6 > 0.95 * scan_us


def replace_heads(mixer: Attention, heads: float) -> Attention:
    return Attention(int(heads), mixer.kv_heads, 64, 64, window=mixer.window)


def test_rows_that_are_no_whole_layer_are_counted_with_a_reason() -> None:
    others = [
        experts_row(16, 512, 8, 2, routing="power_law_1.2"),
        experts_row(16, 512, 8, 2, expert_ranks=2),
        experts_row(16, 512, 8, 2, m=0),
        experts_row(16, 512, 8, 2, quant="fp7"),
        *({**row, "kernel": "module"} for row in attention_rows("latent", "decode")[:2]),
    ]
    report = report_of([*ONE_SIZE, *others])
    assert report.rows_used == len(ONE_SIZE) == 16
    assert report.rows_dropped == {
        "not a weight-only format (fp8, w8a8)": 1,
        "experts row lacks a size": 1,
        "tokens are spread unevenly over experts": 1,
        "a share of the experts": 1,
        "latent attention with its products": 2,
    }


def test_shares_of_experts_and_uneven_routing_are_used_where_nothing_else_was_timed() -> None:
    few = ONE_SIZE[:8]
    shared = [experts_row(16, 512, 256, 8, expert_ranks=2)]
    report = report_of([*few, *shared])
    assert report.rows_used == len(few) + len(shared)
    assert sum(error.rows for error in report.errors if error.phase == "any") == len(few)
    uneven = [{**row, "routing": "power_law_1.01"} for row in few]
    assert report_of(uneven).rows_used == len(few)


def test_the_library_that_the_kernel_set_is_named_after_is_kept() -> None:
    libraries = ({"backend": "VLLM", "version": "0.24.0"}, {"backend": "SGLang", "version": "0.5"})
    rows = [row | library for row, library in product(ONE_SIZE, libraries)]
    for kernels, kept in (("vllm-0.24.0", "vllm 0.24.0"), ("sglang-0.5", "sglang 0.5")):
        report = report_of(rows, kernels=kernels)
        assert report.profile.part_notes[0].endswith(f"({kept}).")
        assert report.rows_dropped == {"another kernel library": len(ONE_SIZE)}


def test_products_and_parts_make_one_profile() -> None:
    products = [gemm_row(m=tokens, latency_us=20 + tokens) for tokens in range(1, 20)]
    rows = [*products, *ONE_SIZE, *({**row, "quant": "fp8_block"} for row in ONE_SIZE)]
    profile = report_of(rows).profile
    assert set(profile.experts) == {"fp16", "fp8-block"}
    assert profile.gemms["fp8-block"].correction is None
    said = "Dense products in fp8-block follow the data sheet: they were not timed."
    assert profile.notes[-1] == said
    plain = report_of(products).profile
    assert plain.part_notes == ()


@pytest.mark.parametrize("groups", [1, 2, 4, FOLDS, 12, MANY_GROUPS, 60])
def test_folds_hold_out_whole_groups(groups: int) -> None:
    keys = np.repeat(np.arange(groups), 3)[:, np.newaxis].astype(float)
    folds = list(folds_of(keys, 0))
    held_out = np.sum(folds, axis=0) if folds else np.zeros(len(keys))
    assert all((fold.reshape(groups, 3).sum(axis=1) % 3 == 0).all() for fold in folds)
    if groups == 1:
        assert folds == []
    elif groups < MANY_GROUPS:
        assert (held_out == 1).all()
    else:
        assert held_out.sum() == 3 * groups / FOLDS
