"""Fused kernels: used where they agree with the codes, in whatever layout they pack them."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmpq_sim.core.errors import InputError
from runtimes.torch_pipeline.weights import kernels, torch_operators
from runtimes.torch_pipeline.weights.formats import int4, int4_layout, int8
from runtimes.torch_pipeline.weights.formats.base import Tensors, WeightKernel
from runtimes.torch_pipeline.weights.formats.int4_layout import BlockLayout, find_block_layout
from runtimes.torch_pipeline.weights.formats.registry import STORED_FORMATS, stored_format
from runtimes.torch_pipeline.weights.kernels import agrees_with_codes, kernel_for
from runtimes.torch_pipeline.weights.quantizers import quantize
from tests.runtimes.linears_of_tests import (
    CPU,
    fused_name,
    gaussian,
    made,
    numbers_of,
    without_gradients,
)
from tests.runtimes.processors import PROCESSORS, bfloat16_instructions

processor = pytest.fixture(autouse=True, params=PROCESSORS)(bfloat16_instructions)

inference = pytest.fixture(autouse=True)(without_gradients)


@pytest.fixture
def fresh_kernels() -> Iterator[None]:
    """Forget which kernels were found to work, before and after."""
    kernels._kernel.cache_clear()
    yield
    kernels._kernel.cache_clear()


# ---- kernels under private names


@pytest.mark.parametrize("format_name", sorted(STORED_FORMATS))
def test_the_kernels_of_this_process_agree_with_codes(format_name: str) -> None:
    kernel = kernel_for(format_name, CPU, (64, 256))
    if kernel.fused_name is not None:
        assert agrees_with_codes(kernel, stored_format(format_name), CPU)


def test_packing_in_chunks_is_packing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = quantize(gaussian(208, 256), "int4", torch.bfloat16)
    kernel = kernel_for("int4", CPU, (208, 256))
    whole = kernel.pack(dict(stored))
    monkeypatch.setattr(int4, "CHUNK_WEIGHTS", 64 * 256)
    in_chunks = kernel.pack(dict(stored))
    assert torch.equal(in_chunks["codes"], whole["codes"])


@pytest.mark.usefixtures("fresh_kernels")
@pytest.mark.parametrize("error", [RuntimeError, AttributeError, NotImplementedError])
def test_where_the_packing_of_int4_fails_its_codes_stay_plain(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Tensor) -> Tensor:
        raise error

    monkeypatch.setattr(torch_operators, "pack_int4_on_cpu", fail)
    assert fused_name("int4", CPU) is None
    operator = made("int4")
    assert type(operator.kernel) is WeightKernel
    inputs = gaussian(2, 256, seed=1)
    torch.testing.assert_close(operator(inputs), inputs @ numbers_of(operator).t())


@pytest.mark.usefixtures("fresh_kernels")
def test_an_unknown_layout_of_int4_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int4_layout.find_block_layout, "__defaults__", ((),))
    assert fused_name("int4", CPU) is None


@pytest.mark.usefixtures("fresh_kernels")
def test_a_fused_kernel_with_wrong_products_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_: object, inputs: Tensor, held: Tensors, bias: Tensor | None) -> Tensor:
        return inputs @ held["codes"].to(inputs.dtype).t()

    monkeypatch.setattr(int8.Int8Kernel, "fused", wrong)
    assert fused_name("int8", CPU) is None


def test_a_fused_kernel_that_is_not_there_cannot_be_called() -> None:
    with pytest.raises(InputError, match="expected a fused kernel, found none"):
        WeightKernel(stored_format("int3")).fused(gaussian(1, 64), {}, None)


# ---- layouts of processors that are not at hand


def packed_in_blocks(codes: Tensor, layout: BlockLayout) -> Tensor:
    """Pack code by code, as aten/src/ATen/native/cpu/int4mm_kernel.cpp describes its layouts."""
    rows, columns = codes.shape
    blocks = []
    for start in range(0, rows, layout.block_rows):
        block = codes[start : start + layout.block_rows].tolist()
        half = len(block) // 2
        in_halves = layout.halves and len(block) == layout.block_rows
        pairs = [(i, i + half) if in_halves else (2 * i, 2 * i + 1) for i in range(half)]
        blocks += [
            block[low][column] | block[high][column] << 4
            for column in range(columns)
            for low, high in pairs
        ]
    return torch.tensor(blocks, dtype=torch.uint8).view(rows, columns // 2)


@pytest.mark.parametrize("layout", int4_layout.KNOWN_LAYOUTS, ids=str)
def test_the_layout_of_every_known_processor_is_found_and_read(layout: BlockLayout) -> None:
    assert find_block_layout(lambda codes: packed_in_blocks(codes, layout)) == layout
    for rows in (16, 64, 112):
        codes = torch.randint(0, 16, (rows, 32), dtype=torch.uint8)
        unpacked = layout.unpack(packed_in_blocks(codes, layout), 32)
        assert torch.equal(unpacked.t(), codes)


def test_a_layout_that_nobody_knows_is_not_found() -> None:
    assert find_block_layout(lambda codes: codes) is None
    assert find_block_layout(lambda codes: codes[:, ::2].to(torch.uint8)) is None


def packed_in_tiles(packed: Tensor, shuffle: Tensor) -> Tensor:
    """Pack plain rows as a kernel that permutes codes within tiles."""
    codes = int4_layout.unpack_nibbles(packed)
    tiles = codes.view(-1, 8, codes.shape[1] // 128, 128).transpose(1, 2).reshape(-1, 1024)
    moved = int4_layout.pack_nibbles(tiles[:, shuffle]).view(torch.int32)
    return moved.view(codes.shape[0] // 8, codes.shape[1] // 128, 32, 4)


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_any_permutation_within_tiles_is_found_and_undone(seed: int) -> None:
    shuffle = torch.randperm(8 * 128, generator=torch.Generator().manual_seed(seed))

    def pack(packed: Tensor) -> Tensor:
        return packed_in_tiles(packed, shuffle)

    order = int4_layout.find_tile_order(pack, CPU)
    codes = torch.randint(0, 16, (24, 384), dtype=torch.uint8)
    packed = pack(int4_layout.pack_nibbles(codes))
    assert torch.equal(int4_layout.unpack_tiles(packed, order, 384), codes)


def test_tiles_are_decoded_and_given_back_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    shuffle = torch.randperm(8 * 128, generator=torch.Generator().manual_seed(0))

    def pack(packed: Tensor) -> Tensor:
        return packed_in_tiles(packed, shuffle)

    monkeypatch.setattr(torch_operators, "pack_int4_on_cuda", pack)
    known = int4.Int4()
    kernel = int4.TiledInt4Kernel(known, int4_layout.find_tile_order(pack, CPU))
    stored = quantize(gaussian(48, 300), "int4", torch.bfloat16)
    held = kernel.pack(dict(stored))
    assert all(torch.equal(kernel.unpack(held)[name], stored[name]) for name in stored)
    for rows in (slice(0, 48), slice(8, 24), slice(40, 48)):
        assert torch.equal(kernel.decode(held, rows).t(), known.decode(stored, rows))
