"""Codes of published formats: read by hand, as near as the grid allows, and as noisy as is said."""

import math

import pytest
import torch
from torch import Tensor

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS
from runtimes.torch_pipeline.weights.formats import base, float4, float8
from runtimes.torch_pipeline.weights.formats.registry import stored_format
from runtimes.torch_pipeline.weights.quantizers import dequantize, quantize
from tests.runtimes.linears_of_tests import gaussian

NAMES = ("fp8", "fp8-block", "mxfp4", "nvfp4", "int4-g128", "int4-g32")
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def e4m3(byte: int) -> float:
    """Return an E4M3 number by its definition: bias 7, subnormals, no infinity."""
    sign, exponent, fraction = -1 if byte >> 7 else 1, byte >> 3 & 15, byte & 7
    if exponent == 0:
        return sign * fraction * 2.0**-9
    return sign * (1 + fraction / 8) * 2.0 ** (exponent - 7)


def half(stored: Tensor, row: int, place: int, *, high_first: bool) -> int:
    byte = int(stored[row, place // 2])
    return byte >> 4 if (place % 2 == 0) == high_first else byte & 15


def e2m1(stored: dict[str, Tensor], row: int, column: int) -> float:
    code = half(stored["codes"], row, column, high_first=False)
    return E2M1[code & 7] * (-1 if code >> 3 else 1)


def weight_by_hand(stored: dict[str, Tensor], name: str, row: int, column: int) -> float:
    scales = stored["scales"]
    if name == "fp8":
        return e4m3(int(stored["codes"][row, column])) * float(scales[row])
    if name == "fp8-block":
        scale = float(scales[row // 128, column // 128])
        return e4m3(int(stored["codes"][row, column])) * scale
    if name == "mxfp4":
        return e2m1(stored, row, column) * 2.0 ** (int(scales[row, column // 32]) - 127)
    if name == "nvfp4":
        scale = e4m3(int(scales[row, column // 16])) * float(stored["tensor_scale"])
        return e2m1(stored, row, column) * scale
    group = column // (FORMATS[name].group_size or 1)
    code = half(stored["codes"], row, column, high_first=True)
    zero = half(stored["zeros"], row, group, high_first=True)
    return (code - zero) * float(scales[row, group])


@pytest.mark.parametrize("name", NAMES)
def test_each_code_means_what_its_formula_says(name: str) -> None:
    rows, columns = 130, 160
    stored = quantize(gaussian(rows, columns), name, torch.bfloat16)
    numbers = dequantize(stored, name, rows, columns)
    places = [(row, column) for row in (0, 1, 127, 128, 129) for column in range(columns)]
    by_hand = [weight_by_hand(stored, name, *place) for place in places]
    found = torch.stack([numbers[place] for place in places])
    torch.testing.assert_close(found, torch.tensor(by_hand), rtol=1e-6, atol=0)


def test_all_bytes_of_small_numbers_are_those_of_their_definitions() -> None:
    finite = [byte for byte in range(256) if byte & 127 != 127]
    numbers = float8.from_e4m3(torch.tensor(finite, dtype=torch.uint8))
    assert numbers.tolist() == [e4m3(byte) for byte in finite]
    assert torch.equal(float8.from_e4m3(float8.to_e4m3(numbers)), numbers)
    packed = torch.arange(256, dtype=torch.uint8).view(1, -1)
    assert torch.equal(
        float4.from_e2m1(float4.to_e2m1(float4.from_e2m1(packed))), float4.from_e2m1(packed)
    )
    signed = [*E2M1, *(-number for number in E2M1)]
    assert float4.from_e2m1(packed).flatten().tolist() == [
        signed[code] for byte in range(256) for code in (byte & 15, byte >> 4)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_nearest_number_is_taken(name: str) -> None:
    """No other code of the same scale is nearer by more than rounding of the scaled weight."""
    weight = gaussian(16, 256)
    stored = quantize(weight, name, torch.bfloat16)
    scales = stored_format(name).scales(stored)
    steps = scales.float().repeat_interleave(256 // scales.shape[1], dim=1)
    errors = (dequantize(stored, name, 16, 256) - weight).abs() / steps
    grid = {"fp8": 16.0, "fp8-block": 16.0, "mxfp4": 2.0, "nvfp4": 1.0}.get(name, 0.5)
    assert float(errors.max()) <= grid * (1 + 1e-3)


@pytest.mark.parametrize("name", [*NAMES, "w8a8-fp8", "w8a8-int8"])
def test_nominal_noise_is_that_of_normal_weights(name: str) -> None:
    """Steps are those of int4's even grid with as much noise; activations add as much again."""
    record, weight = FORMATS[name], gaussian(256, 4096)

    def noise(format_name: str) -> float:
        stored = quantize(weight, format_name, torch.bfloat16)
        return float((dequantize(stored, format_name, 256, 4096) - weight).square().mean().sqrt())

    both = math.sqrt(2) if record.arithmetic else 1.0
    expected = 7 * noise("int4") / (both * noise(name.removeprefix("w8a8-")))
    assert record.steps == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_chunks_make_no_difference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = gaussian(300, 200)
    whole = quantize(weight, name, torch.bfloat16)
    for module in (base, float8, float4):
        monkeypatch.setattr(module, "CHUNK_WEIGHTS", 1000)
    in_chunks = quantize(weight, name, torch.bfloat16)
    assert all(torch.equal(whole[part], in_chunks[part]) for part in whole)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_zero_stays_zero_and_what_is_no_number_is_refused(name: str) -> None:
    weight = gaussian(4, 256)
    weight[1] = 0
    stored = quantize(weight, name, torch.bfloat16)
    assert not dequantize(stored, name, 4, 256)[1].any()
    weight[2, 3] = torch.nan
    with pytest.raises(InputError, match="expected finite numbers"):
        quantize(weight, name, torch.bfloat16)


def test_squares_of_parts_keep_their_scales() -> None:
    """Parts of 200 and 72 rows, quantized apart, lie in one matrix with a scale for each row."""
    known = stored_format("fp8-block")
    parts = [gaussian(200, 150), gaussian(72, 150, seed=1)]
    stored = [known.quantize(part, torch.bfloat16, "rtn") for part in parts]
    joined = {
        "codes": torch.cat([part["codes"] for part in stored]),
        "scales": torch.cat([known.scales(part) for part in stored]),
    }
    apart = [dequantize(part, "fp8-block", *part["codes"].shape) for part in stored]
    assert torch.equal(dequantize(joined, "fp8-block", 272, 150), torch.cat(apart))
    assert torch.equal(known.decode(joined, slice(190, 210)), torch.cat(apart)[190:210])
