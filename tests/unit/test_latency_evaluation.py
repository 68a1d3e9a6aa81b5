from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from llmpq_sim.latency.fitting.evaluation import (
    DENSE_LAYERS,
    baseline_errors,
    composed_layers,
    fit_linear,
    kernel_errors,
    layer_errors,
    linear_features,
)
from llmpq_sim.latency.fitting.rows import UsableRows, usable_rows
from tests.measured import attention_grid, attention_row, gemm_grid, gemm_row, lab_device, measured

SEQUENCES = np.array([1.0, 2, 4, 8, 1, 2, 4, 8])
TOKENS = np.array([128.0, 128, 128, 128, 512, 512, 256, 64])

DEVICE = lab_device()
SMALL = DENSE_LAYERS[0]


def usable(rows: list[dict[str, Any]]) -> UsableRows:
    return usable_rows(measured(rows), DEVICE)


def layer_grid() -> list[dict[str, Any]]:
    """Return the kernels of the smallest layer: 10 us a product, 5 us of attention a sequence."""
    rows = [
        gemm_row(n=n, k=k, m=tokens, latency_us=10.0)
        for (n, k), tokens in product(SMALL.shapes, (1, 2, 4, 8, 16, 32, 64))
    ]
    return rows + [
        attention_row(heads=32, kv_heads=4, batch=batch, seq=seq, latency_us=5.0 * batch)
        for batch, seq in product((1, 2, 4, 8), (15, 31, 63))
    ]


def test_kernels_that_follow_a_roofline_are_predicted_on_unseen_shapes() -> None:
    rows = gemm_grid() + attention_grid("prefill") + attention_grid("decode")
    errors = {(e.op, e.phase): e for e in kernel_errors(usable(rows), DEVICE, 0)}
    assert set(errors) == {
        ("gemm", "any"), ("gemm", "decode"), ("gemm", "prefill"),
        ("attention", "prefill"), ("attention", "decode"),
    }  # fmt: skip
    assert max(error.p90_ape for error in errors.values()) < 0.05
    assert errors["gemm", "any"].rows == 3 * 6  # 3 of 16 shapes, 6 batches each


def test_too_few_shapes_give_no_error() -> None:
    assert kernel_errors(usable([gemm_row(m=tokens) for tokens in range(1, 50)]), DEVICE, 0) == []


def test_a_layer_is_the_sum_of_its_kernels() -> None:
    (times,) = composed_layers(usable(layer_grid()))
    assert (times.format, times.phase, len(times.time_s)) == ("fp16", "decode", 12)
    assert times.time_s * 1e6 == pytest.approx(40 + 5 * times.batch)


def test_a_layer_that_lacks_a_kernel_is_not_composed() -> None:
    n, k = SMALL.shapes[3]
    rows = [row for row in layer_grid() if (row.get("n"), row.get("k")) != (n, k)]
    assert composed_layers(usable(rows)) == []
    assert layer_errors(usable(rows), DEVICE, 0) == []


def test_a_layer_s_kernels_are_not_in_the_fit_that_predicts_it() -> None:
    widths = (2048.0, 4096.0, 5120.0, 16384.0)
    seen = usable(gemm_grid(widths=widths) + attention_grid("decode"))
    own = np.zeros(len(seen.gemms), np.bool_)
    for n, k in SMALL.shapes:
        own |= (seen.gemms.n == n) & (seen.gemms.k == k)
    latency_us = np.where(own, 1000, 1) * seen.gemms.latency_us
    slower = replace(seen, gemms=replace(seen.gemms, latency_us=latency_us))
    before, after = (layer_errors(rows, DEVICE, 0) for rows in (seen, slower))
    assert [(error.format, error.phase) for error in before] == [("fp16", "decode")]
    assert before[0].p90_ape < 0.05
    assert after[0].median_ape > 0.9  # a fit that had seen them would follow


def test_the_linear_model_is_exact_where_times_are_linear() -> None:
    (error,) = baseline_errors(usable(layer_grid()), 0)
    assert (error.op, error.format, error.phase, error.rows) == ("layer", "fp16", "decode", 4)
    assert error.p90_ape < 1e-9


def test_the_same_seed_holds_out_the_same() -> None:
    rows = usable(gemm_grid())
    assert kernel_errors(rows, DEVICE, 1) == kernel_errors(rows, DEVICE, 1)


def test_prefill_is_linear_in_the_paper_s_features() -> None:
    time_s = 1e-3 * SEQUENCES + 1e-6 * SEQUENCES * TOKENS + 1e-9 * SEQUENCES * TOKENS**2 + 1e-4
    features = linear_features("prefill", SEQUENCES, TOKENS)
    assert np.allclose(features @ fit_linear(features, time_s), time_s, rtol=1e-9)


def test_decode_is_linear_in_the_paper_s_features() -> None:
    time_s = 1e-7 * SEQUENCES * (1 + TOKENS) + 1e-5 * SEQUENCES + 1e-6 * TOKENS + 1e-4
    features = linear_features("decode", SEQUENCES, TOKENS)
    assert np.allclose(features @ fit_linear(features, time_s), time_s, rtol=1e-9)
