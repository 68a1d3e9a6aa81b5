"""Stored codes: bytes and numbers as their format says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS
from runtimes.torch_pipeline.weights.formats import base
from runtimes.torch_pipeline.weights.formats.int3 import pack_planes, unpack_planes
from runtimes.torch_pipeline.weights.formats.int4_layout import pack_nibbles, unpack_nibbles
from runtimes.torch_pipeline.weights.formats.registry import STORED_FORMATS, stored_format
from runtimes.torch_pipeline.weights.quantizers import dequantize, quantize

QUANTIZED = ("int8", "int4", "int3", "int2", "int5", "int6")
STORED = sorted(STORED_FORMATS.keys() & FORMATS.keys())
ZERO_CODE = {name: 2 ** (FORMATS[name].bits - 1) for name in QUANTIZED[1:]}


def gaussian(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def codes_by_hand(stored: dict[str, Tensor], format_name: str) -> list[list[int]]:
    """Read codes bit by bit, as the docstrings of the layouts say."""
    if format_name == "int8":
        return stored["codes"].tolist()
    if format_name == "int4":
        rows = stored["codes"].tolist()
        return [[n for byte in row for n in (byte >> 4, byte & 15)] for row in rows]
    if format_name != "int3":
        return [codes_of_planes(stored, row) for row in range(stored["affine"].shape[1])]
    codes = []
    for low, high in zip(stored["two_bit"].tolist(), stored["one_bit"].tolist(), strict=True):
        quarter, eighth = len(low), len(high)
        codes.append(
            [
                (low[j % quarter] >> 2 * (j // quarter) & 3)
                + 4 * (high[j % eighth] >> j // eighth & 1)
                for j in range(4 * quarter)
            ]
        )
    return codes


def codes_of_planes(stored: dict[str, Tensor], row: int) -> list[int]:
    """Read the codes of one row from planes, lowest bits first."""
    codes, taken = [0] * 256, 0
    for name in (name for name in stored if name.startswith("bits_")):
        width, plane = int(name.removeprefix("bits_")), stored[name][row].tolist()
        for place in range(len(codes)):
            byte, stripe = place % len(plane), place // len(plane)
            codes[place] |= (plane[byte] >> width * stripe & (1 << width) - 1) << taken
        taken += width
    return codes


def numbers_by_hand(stored: dict[str, Tensor], format_name: str) -> list[list[float]]:
    codes = codes_by_hand(stored, format_name)
    if format_name == "int8":
        scales = stored["scales"].tolist()
        return [[code * scale for code in row] for row, scale in zip(codes, scales, strict=True)]
    affine = stored["affine"].tolist()
    group_size, zero_code = FORMATS[format_name].group_size or 1, ZERO_CODE[format_name]
    numbers = []
    for number, row in enumerate(codes):
        pairs = [affine[column // group_size][number] for column in range(len(row))]
        numbers.append(
            [(code - zero_code) * s + z for code, (s, z) in zip(row, pairs, strict=True)]
        )
    return numbers


@pytest.mark.parametrize("format_name", QUANTIZED)
def test_each_code_means_what_its_formula_says(format_name: str) -> None:
    stored = quantize(gaussian(3, 256), format_name, torch.bfloat16)
    numbers = dequantize(stored, format_name, 3, 256)
    by_hand = torch.tensor(numbers_by_hand(stored, format_name))
    torch.testing.assert_close(numbers, by_hand, rtol=1e-6, atol=1e-7)


@given(
    st.sampled_from(QUANTIZED),
    st.integers(1, 9),
    st.integers(1, 300),
    st.integers(-6, 4),
    st.floats(-3, 3),
    st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_no_weight_is_further_than_half_a_step_from_its_number(
    format_name: str, rows: int, columns: int, exponent: int, offset: float, seed: int
) -> None:
    weight = (gaussian(rows, columns, seed) + offset) * 10.0**exponent
    stored = quantize(weight, format_name, torch.bfloat16)
    error = (dequantize(stored, format_name, rows, columns) - weight).abs()
    if format_name == "int8":
        step = stored["scales"].float()[:, None].expand(rows, columns)
    else:
        group_size = FORMATS[format_name].group_size or 1
        scales = stored["affine"][..., 0].float().t()
        step = scales.repeat_interleave(group_size, dim=1)[:, :columns]
    rounding = 1e-5 * (step + weight.abs())  # of float32
    assert bool((error <= step / 2 + rounding).all())


@pytest.mark.parametrize("format_name", QUANTIZED)
def test_a_step_is_hardly_wider_than_the_range_demands(format_name: str) -> None:
    weight = gaussian(64, 256)
    stored = quantize(weight, format_name, torch.bfloat16)
    if format_name == "int8":
        needed, step = weight.abs().amax(1) / 127, stored["scales"].float()
    else:
        groups = weight.view(64, -1, FORMATS[format_name].group_size or 1)
        needed = (groups.amax(2) - groups.amin(2)) / (2 * ZERO_CODE[format_name] - 1)
        step = stored["affine"][..., 0].float().t()
    assert bool((step >= needed * (1 - 1e-6)).all())
    assert bool((step <= needed * 1.02).all())


@pytest.mark.parametrize(
    ("format_name", "expected"), [("int8", 0.009), ("int4", 0.1), ("int3", 0.19)]
)
def test_products_are_as_far_off_as_was_measured_of_other_libraries(
    format_name: str, expected: float
) -> None:
    weight, inputs = gaussian(512, 4096), gaussian(8, 4096, seed=1)
    numbers = dequantize(quantize(weight, format_name, torch.bfloat16), format_name, 512, 4096)
    exact = inputs @ weight.t()
    relative = float((inputs @ numbers.t() - exact).norm() / exact.norm())
    assert relative == pytest.approx(expected, rel=0.1)


@given(st.sampled_from(STORED), st.integers(1, 40), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_a_matrix_takes_the_bytes_that_plans_count(
    format_name: str, rows: int, groups: int
) -> None:
    columns = 2 * groups * (FORMATS[format_name].group_size or 64)  # zeros are half bytes
    stored = quantize(gaussian(rows, columns), format_name, torch.bfloat16)
    held_bytes = sum(tensor.nbytes for tensor in stored.values())
    assert held_bytes == FORMATS[format_name].matrix_bytes(rows, columns)


def test_int3_really_takes_three_and_a_half_bits() -> None:
    stored = quantize(gaussian(16, 4096), "int3", torch.bfloat16)
    assert sum(tensor.nbytes for tensor in stored.values()) * 8 == 3.5 * 16 * 4096


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("format_name", ["fp32", "fp16", "bf16"])
def test_weights_that_are_not_quantized_stay_what_they_are(
    format_name: str, dtype: torch.dtype
) -> None:
    weight = gaussian(5, 70).to(dtype)
    stored = quantize(weight, format_name, dtype)
    assert stored["weight"].dtype == dtype
    assert torch.equal(dequantize(stored, format_name, 5, 70), weight.float())


@pytest.mark.parametrize("format_name", QUANTIZED)
def test_rows_are_quantized_alike_alone_and_in_any_chunk(
    format_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = gaussian(37, 200)
    whole = quantize(weight, format_name, torch.bfloat16)
    monkeypatch.setattr(base, "CHUNK_WEIGHTS", 1000)
    in_chunks = quantize(weight, format_name, torch.bfloat16)
    assert all(torch.equal(whole[name], in_chunks[name]) for name in whole)
    alone = quantize(weight[5:6], format_name, torch.bfloat16)
    number = dequantize(whole, format_name, 37, 200)[5:6]
    assert torch.equal(dequantize(alone, format_name, 1, 200), number)


@pytest.mark.parametrize("format_name", QUANTIZED)
@pytest.mark.parametrize("value", [0.0, 0.5, -3.0])
def test_a_matrix_of_equal_weights_is_exact(format_name: str, value: float) -> None:
    weight = torch.full((4, 100), value)
    stored = quantize(weight, format_name, torch.bfloat16)
    numbers = dequantize(stored, format_name, 4, 100)
    tolerance = 2**-8 if format_name == "int8" else 0.0  # its scale is rounded
    torch.testing.assert_close(numbers, weight, rtol=tolerance, atol=0)


@pytest.mark.parametrize("format_name", QUANTIZED)
def test_padding_does_not_widen_the_last_group(format_name: str) -> None:
    far = gaussian(4, 130) * 0.01 + 5
    stored = quantize(far, format_name, torch.bfloat16)
    error = (dequantize(stored, format_name, 4, 130) - far).abs().max()
    assert error < (0.03 if format_name in ("int8", "int2") else 0.01)


@pytest.mark.parametrize("format_name", QUANTIZED)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_refused(bad: float, format_name: str) -> None:
    weight = gaussian(4, 64)
    weight[2, 3] = bad
    with pytest.raises(InputError, match="expected finite numbers, found 1 groups with others"):
        quantize(weight, format_name, torch.bfloat16)


def test_an_unknown_format_and_a_wrong_shape_are_refused() -> None:
    with pytest.raises(InputError, match="expected a weight format"):
        quantize(gaussian(4, 64), "int7", torch.bfloat16)
    stored = quantize(gaussian(4, 64), "int8", torch.bfloat16)
    with pytest.raises(InputError, match="quantize it again"):
        dequantize(stored, "int8", 4, 65)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_packed_codes_unpack_to_themselves(rows: int, words: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, 32 * words)
    codes = torch.randint(0, 8, shape, dtype=torch.uint8, generator=generator)
    assert torch.equal(unpack_planes(*pack_planes(codes)), codes)
    codes = torch.randint(0, 16, shape, dtype=torch.uint8, generator=generator)
    assert torch.equal(unpack_nibbles(pack_nibbles(codes)), codes)


def test_rows_are_padded_to_whole_groups() -> None:
    assert [stored_format("int4").padded(n) for n in (1, 128, 129)] == [128, 128, 256]
    assert [stored_format("int8").padded(n) for n in (1, 129)] == [1, 129]
