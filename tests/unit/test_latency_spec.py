import numpy as np
import pytest

from llmpq_sim.latency.spec import KERNEL_FIXED_S, spec_profile
from llmpq_sim.latency.work import attention_sizes
from tests.measured import lab_device

PROFILE = spec_profile(lab_device())


def test_a_large_product_sustains_its_share_of_the_peak() -> None:
    time_s = PROFILE.gemm_s("fp16", 1e5, 8192, 8192)
    assert time_s == pytest.approx(KERNEL_FIXED_S + 2e5 * 8192**2 / 50e12, rel=1e-12)


def test_one_token_takes_the_reading_of_the_weights() -> None:
    weights = 8192 * 8192 * 2 + 2 * 2 * 8192
    time_s = PROFILE.gemm_s("fp16", 1, 8192, 8192)
    assert time_s == pytest.approx(KERNEL_FIXED_S + weights / 0.8e12, rel=1e-12)


def test_fewer_bits_are_faster_in_decode_and_never_in_prefill() -> None:
    decode = [
        float(PROFILE.gemm_s(name, 1, 8192, 8192)) for name in ("fp16", "int8", "int4", "int3")
    ]
    assert decode == sorted(decode, reverse=True)
    prefill = [float(PROFILE.gemm_s(name, 1e4, 8192, 8192)) for name in ("fp16", "int8", "int4")]
    assert prefill[0] < prefill[1] == prefill[2]


def test_decode_attention_reads_the_cache_at_the_sustained_rate() -> None:
    sizes = attention_sizes(32, 4096, 32, 8, 128)
    moved = float(sizes.terms("decode", 100)[1])
    time_s = float(PROFILE.decode_attention_s(32, 4096, 32, 8, 128))
    assert moved / 0.8e12 < time_s < 1.2 * moved / 0.8e12 + KERNEL_FIXED_S


def test_it_says_what_it_assumes() -> None:
    assert PROFILE.status == "spec"
    assert PROFILE.calibration_rows == 0
    assert PROFILE.notes == (
        "No kernel was timed on lab: times follow its data sheet at 0.50 of the arithmetic peak "
        "and 0.80 of the memory bandwidth.",
        "int8, int4, int3: assumed to read their packed bytes at the same rate as 16-bit weights; "
        "kernel libraries differ from that by 10-50 %.",
    )


def test_activations_move_at_the_sustained_bandwidth() -> None:
    assert PROFILE.elementwise_s(np.array([0.0, 0.8e12])).tolist() == [0, 1]


def test_nothing_is_beyond_a_range_that_does_not_exist() -> None:
    assert not PROFILE.beyond_range("fp16", [1e9], 1e6, 1e6).any()
