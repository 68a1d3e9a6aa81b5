"""Kernels of 2023: they meet the layers they were timed on, and scale as physics says."""

from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.io.devices import load_devices
from llmpq_sim.io.measurements import read_measurements
from llmpq_sim.io.models import load_model
from llmpq_sim.latency.fitting.layers import layer_rows
from llmpq_sim.latency.fitting.overheads import kernels_s
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.latency.spec import sustained_bytes_per_s
from llmpq_sim.paper.cases import KERNELS_OF_2023
from tests.golden.shipped_profiles import ROWS_OF_2023, profiles_of_2023

FORMATS = ("fp16", "int8", "int4", "int3")
TIMED = [("t4", name) for name in FORMATS] + [("v100-32g", name) for name in FORMATS]
TIMED += [("p100-12g", "fp16"), ("p100-12g", "int4")]

WORST_ERROR = {"fp16": 0.14, "int8": 0.08, "int4": 0.25, "int3": 0.25}
"""Of a single row. The 16-bit one is V100's prefill of 8 prompts, which took 2.4 times as long as
that of 4; the 3- and 4-bit ones are decodes of two sequences."""

sizes = st.integers(min_value=512, max_value=16_384)


@cache
def profiles() -> Mapping[str, DeviceProfile]:
    made = profiles_of_2023()
    return {name.removesuffix(f".{KERNELS_OF_2023}.json"): one for name, one in made.items()}


def errors(device: str, format_name: str) -> np.ndarray:
    rows = read_measurements(ROWS_OF_2023)
    own = rows.where((rows.gpu == device) & (rows.quant == format_name))
    layers = layer_rows(own, {"opt-30b": load_model("opt-30b")}, format_name)
    profile = profiles()[device]
    return np.abs((kernels_s(layers, profile) + profile.layer_overhead_s) / layers.time_s - 1)


@pytest.mark.parametrize(("device", "format_name"), TIMED, ids=str)
def test_layers_are_met_where_they_were_timed(device: str, format_name: str) -> None:
    found = errors(device, format_name)
    assert np.median(found) < 0.05
    assert found.max() < WORST_ERROR[format_name]


@pytest.mark.parametrize("device", ["t4", "v100-32g", "p100-12g", "a100-40g", "a800-80g"])
def test_every_device_has_all_four_formats_and_no_alias_among_them(device: str) -> None:
    profile = profiles()[device]
    assert tuple(profile.gemms) == FORMATS
    assert set(profile.aliases) <= {"bf16"}


def test_a_v100_moves_five_bytes_for_each_8_bit_weight_and_a_t4_one() -> None:
    for device, bytes_moved in (("v100-32g", 5), ("t4", 1)):
        profile = profiles()[device]
        base = profile.gemms["int8"].base
        moved = bytes_moved * 8192 * 8192 + 2 * (8192 + 8192)
        expected_s = base.fixed_s + moved / profile.gemms["fp16"].base.bytes_per_s
        assert float(profile.gemm_s("int8", 1, 8192, 8192)) == pytest.approx(expected_s)


def test_8_bits_on_a_p100_cost_its_16_bit_product_and_the_conversion() -> None:
    profile, device = profiles()["p100-12g"], load_devices()["p100-12g"]
    fixed_s = profiles()["v100-32g"].gemms["int8"].base.fixed_s
    weights = 16_384 * 16_384
    converted_s = 3 * weights / sustained_bytes_per_s(device)
    expected_s = fixed_s + float(profile.gemm_s("fp16", 1, 16_384, 16_384)) + converted_s
    assert float(profile.gemm_s("int8", 1, 16_384, 16_384)) == pytest.approx(expected_s, rel=1e-3)


@pytest.mark.parametrize("format_name", ["int4", "int3"])
@pytest.mark.parametrize("device", ["t4", "v100-32g"])
def test_gptq_kernels_decode_the_weights_anew_for_every_row(device: str, format_name: str) -> None:
    profile = profiles()[device]
    time_s = profile.gemm_s(format_name, np.array([8, 16, 24, 4096]), 7168, 7168)
    row_s = (time_s[1] - time_s[0]) / 8
    assert time_s[2] - time_s[1] == pytest.approx(8 * row_s)
    assert time_s[3] - time_s[0] == pytest.approx(4088 * row_s)


@given(out=sizes, width=sizes)
@pytest.mark.parametrize("format_name", FORMATS)
def test_four_times_the_weights_take_four_times_as_long_beside_the_fixed_cost(
    format_name: str, out: int, width: int
) -> None:
    """To the activations, which only double."""
    for profile in profiles().values():
        fixed_s = profile.gemms[format_name].base.fixed_s
        once_s = float(profile.gemm_s(format_name, 4, out, width)) - fixed_s
        more_s = float(profile.gemm_s(format_name, 4, 2 * out, 2 * width)) - fixed_s
        assert 3.5 < more_s / once_s < 4.0 + 1e-6


@given(tokens=st.integers(min_value=1, max_value=16_384), width=sizes)
def test_an_a100_is_faster_than_a_v100_and_an_a800_reads_faster_than_an_a100(
    tokens: int, width: int
) -> None:
    v100, a100, a800 = (profiles()[name] for name in ("v100-32g", "a100-40g", "a800-80g"))
    for name in ("fp16", "int4", "int3"):
        assert a100.gemm_s(name, tokens, width, width) <= v100.gemm_s(name, tokens, width, width)
    assert a800.gemms["fp16"].base.bytes_per_s > a100.gemms["fp16"].base.bytes_per_s
