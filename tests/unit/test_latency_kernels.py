from dataclasses import replace

import numpy as np
import pytest

from llmpq_sim.latency.fitting.kernels import (
    attention_sizes_of,
    by_format,
    fit_attention,
    fit_gemm,
    gemm_sizes_of,
    significant,
)
from llmpq_sim.latency.work import attention_sizes
from tests.measured import attention_grid, attention_row, gemm_grid, lab_device, measured

DEVICE = lab_device()


def test_a_roofline_is_found_again() -> None:
    base = fit_gemm(measured(gemm_grid()), DEVICE, "fp16", 0).base
    found = (base.fixed_s, base.flops_per_s, base.bytes_per_s)
    assert found == pytest.approx((5e-6, 50e12, 0.8e12), rel=2e-3)


def test_products_are_predicted_where_they_were_measured() -> None:
    rows = measured(gemm_grid("int4", 4))
    predicted_us = fit_gemm(rows, DEVICE, "int4", 0).time_s(gemm_sizes_of(rows)) * 1e6
    assert predicted_us == pytest.approx(rows.latency_us, rel=0.02)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_attention_is_predicted_where_it_was_measured(phase: str) -> None:
    rows = measured(attention_grid(phase))
    model = fit_attention(rows, DEVICE, phase, 0)
    assert model.time_s(attention_sizes_of(rows)) * 1e6 == pytest.approx(rows.latency_us, rel=0.02)
    assert min(model.seconds) >= 0


def test_few_rows_give_the_base_alone() -> None:
    rows = measured(gemm_grid())
    few = rows.where(np.arange(29))
    assert fit_gemm(few, DEVICE, "fp16", 0).correction is None
    assert fit_gemm(rows.where(np.arange(30)), DEVICE, "fp16", 0).correction is not None
    decode = measured(attention_grid("decode")).where(np.arange(29))
    assert fit_attention(decode, DEVICE, "decode", 0).correction is None


def test_one_row_moves_the_data_sheet_towards_it() -> None:
    row = measured(gemm_grid()[:1])
    base = fit_gemm(row, DEVICE, "fp16", 0).base
    assert 0.5 < base.flops_per_s / 50e12 < 2
    assert 0.5 < base.bytes_per_s / 0.8e12 < 2


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_long_contexts_are_not_free_where_only_short_ones_were_timed(phase: str) -> None:
    rows = measured([attention_row(phase=phase, seq=1, latency_us=9.0) for _ in range(5)])
    model = fit_attention(rows, DEVICE, phase, 0)
    short_s, long_s = model.time_s(attention_sizes(4, np.array([1, 1e5]), 32, 8, 128))
    assert short_s * 1e6 == pytest.approx(9, rel=0.1)
    assert long_s > 100 * short_s


def test_trees_learn_what_the_base_misses() -> None:
    rows = gemm_grid()
    for row in rows:
        row["latency_us"] *= 1.5 if row["n"] >= 4096 else 1
    kinked = measured(rows)
    model = fit_gemm(kinked, DEVICE, "fp16", 0)
    sizes, latency_us = gemm_sizes_of(kinked), kinked.latency_us
    missed = np.abs(replace(model, correction=None).time_s(sizes) * 1e6 / latency_us - 1)
    left = np.abs(model.time_s(sizes) * 1e6 / latency_us - 1)
    assert np.median(missed) > 0.1
    assert np.median(left) < 0.01


def test_the_box_is_what_was_measured() -> None:
    correction = fit_gemm(measured(gemm_grid()), DEVICE, "fp16", 0).correction
    assert correction is not None
    assert (correction.least, correction.most) == ((1, 1024, 1024), (4096, 8192, 8192))


def test_formats_come_with_the_widest_first() -> None:
    rows = measured([*gemm_grid("int4", 4)[:2], *gemm_grid()[:3], *gemm_grid("int8_wo", 8)[:1]])
    lengths = {name: len(own) for name, own in by_format(rows).items()}
    assert list(lengths.items()) == [("fp16", 3), ("int8", 1), ("int4", 2)]


def test_constants_keep_six_digits() -> None:
    assert significant(1.23456789e-7) == 1.23457e-7
