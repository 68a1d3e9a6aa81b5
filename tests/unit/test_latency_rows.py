from typing import Any

import numpy as np
import pytest

from llmpq_sim.core.units import MIB
from llmpq_sim.latency.fitting.rows import usable_rows
from tests.measured import attention_row, gemm_row, lab_device, measured


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (gemm_row(op="all_reduce"), "not a gemm, attention or layer row"),
        (gemm_row(latency_us=0), "latency is not a positive number"),
        (gemm_row(latency_us=np.nan), "latency is not a positive number"),
        (gemm_row(latency_us=np.inf), "latency is not a positive number"),
        (gemm_row(gpu="t4"), "another device than lab"),
        (gemm_row(quant="fp8_w8a8"), "not a weight-only format (fp8, w8a8)"),
        (gemm_row(quant="int8_w8a8"), "not a weight-only format (fp8, w8a8)"),
        (gemm_row(m=0), "m, n or k is not positive"),
        (gemm_row(n=256), "n or k below 512"),
        (gemm_row(n=512, k=512), "weights stayed in the cache"),
        (attention_row(kv_bits=8), "KV cache is not 16 bit"),
        (attention_row(phase="any"), "attention row lacks a phase or a size"),
        (attention_row(heads=np.nan), "attention row lacks a phase or a size"),
        ({"op": "layer", "quant": "fp16", "phase": "decode", "batch": 1, "latency_us": 1},
         "layer row lacks a model, phase or size"),
    ],
)  # fmt: skip
def test_an_unusable_row_is_dropped_and_counted(row: dict[str, Any], reason: str) -> None:
    usable = usable_rows(measured([row, gemm_row()]), lab_device(l2_bytes=4 * MIB))
    assert usable.dropped == {reason: 1}
    assert len(usable) == 1


def test_weights_in_the_cache_matter_to_small_batches_at_16_bits() -> None:
    rows = [gemm_row(n=512, k=512, m=257), gemm_row(n=512, k=512, quant="int4_wo")]
    assert usable_rows(measured(rows), lab_device(l2_bytes=4 * MIB)).dropped == {}


def test_the_library_of_most_formats_is_kept() -> None:
    rows = [gemm_row(backend="vllm", m=tokens) for tokens in range(1, 9)]
    rows += [gemm_row(backend="trtllm", quant=quant) for quant in ("fp16", "int4_wo")]
    usable = usable_rows(measured(rows), lab_device())
    assert set(usable.gemms.backend) == {"trtllm"}
    assert usable.dropped == {"another kernel library": 8}


def test_of_two_versions_the_one_with_more_rows_is_kept() -> None:
    rows = [gemm_row(version="1", m=tokens) for tokens in (1, 2, 3)] + [gemm_row(version="2")]
    assert set(usable_rows(measured(rows), lab_device()).gemms.version) == {"1"}


def test_attention_may_come_from_another_library_than_products() -> None:
    rows = [gemm_row(backend="trtllm"), attention_row(backend="vllm")]
    assert len(usable_rows(measured(rows), lab_device())) == 2


def test_repeats_become_their_median() -> None:
    rows = [gemm_row(latency_us=latency) for latency in (10, 90, 20)] + [gemm_row(m=2)]
    usable = usable_rows(measured(rows), lab_device())
    assert sorted(usable.gemms.latency_us.tolist()) == [20, 50]
    assert usable.dropped == {"repeats, of which the median was kept": 2}


def test_both_16_bit_types_are_one_format() -> None:
    rows = [gemm_row(quant="fp16"), gemm_row(quant="bf16")]
    assert len(usable_rows(measured(rows), lab_device()).gemms) == 1


def test_a_device_may_be_spelled_with_an_underscore() -> None:
    rows = measured([gemm_row(gpu="a100_sxm")])
    assert len(usable_rows(rows, lab_device(name="a100-sxm"))) == 1


def test_no_rows_are_no_rows() -> None:
    assert len(usable_rows(measured([]), lab_device())) == 0
