import numpy as np
import pytest

from llmpq_sim.latency.spec import KERNEL_FIXED_S, spec_profile
from tests.golden.transfer import transferred_profile
from tests.measured import lab_device

DEVICE = lab_device(formats=("fp16", "int4"))
TARGET = lab_device(name="next", memory_bytes_per_s=2e12, flops_per_s=3e14, multiprocessors=120)
PROFILE = spec_profile(DEVICE)
MOVED = transferred_profile(PROFILE, DEVICE, TARGET, 1.5, ("int4",))


def ratio(format_name: str, tokens: float) -> float:
    own_s, target_s = (
        float(profile.gemm_s(format_name, tokens, 8192, 8192)) - KERNEL_FIXED_S
        for profile in (PROFILE, MOVED)
    )
    return own_s / target_s


def test_traffic_scales_with_the_bandwidth() -> None:
    assert ratio("fp16", 1) == pytest.approx(2, rel=1e-5)
    assert ratio("int4", 1) == pytest.approx(2, rel=1e-5)


def test_arithmetic_scales_with_the_units_a_kernel_uses() -> None:
    assert ratio("fp16", 1e5) == pytest.approx(3, rel=1e-5)
    assert ratio("int4", 1e5) == pytest.approx(1.5, rel=1e-5)


def test_attention_scales_with_the_bandwidth() -> None:
    own_s, target_s = (
        profile.decode_attention_s(64, np.array([1e4, 1e5]), 32, 8, 128)
        for profile in (PROFILE, MOVED)
    )
    assert own_s / target_s == pytest.approx(2, rel=1e-4)


def test_it_is_labelled_as_not_measured() -> None:
    assert (MOVED.device, MOVED.status, MOVED.calibration_rows) == ("next", "spec", 0)
    assert MOVED.notes[0] == (
        "No kernel was timed on next: derived from lab by the ratios of the data sheets, bandwidth "
        "2.00, 16-bit arithmetic 3.00, and 1.50 for int4, whose kernels do not use tensor cores."
    )
