"""The format int4: codes in half bytes, a scale and a zero for 128 weights."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from llmpq_sim.core.formats import FORMATS
from runtimes.torch_pipeline.weights import torch_operators
from runtimes.torch_pipeline.weights.formats import int4_layout
from runtimes.torch_pipeline.weights.formats.affine import AffineFormat, affine_rows
from runtimes.torch_pipeline.weights.formats.int4_layout import BlockLayout
from runtimes.torch_pipeline.weights.formats.stored_format import (
    CHUNK_WEIGHTS,
    Tensors,
    WeightKernel,
    aligned,
    biased,
)

INT4_GROUP = FORMATS["int4"].group_size or 0


class Int4(AffineFormat):
    """``codes`` uint8 (N, K/2), plain as in int4_layout.py, and ``affine``."""

    record = FORMATS["int4"]
    dense_from_tokens: ClassVar[Mapping[str, int]] = {"cpu": 48, "cuda": 32}
    """Measured on one core of a CPU with AVX2 (docs/log.md); on CUDA not measured."""

    def packed_codes(self, codes: Tensor) -> Tensors:
        """Return two codes a byte."""
        return {"codes": int4_layout.pack_nibbles(codes)}

    def unpacked_codes(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Return the codes of bytes."""
        return int4_layout.unpack_nibbles(stored["codes"][rows])

    def fused_kernel(self, device: torch.device) -> WeightKernel | None:
        """Return the one of the device, where its order of codes is found."""
        if device.type == "cpu":
            layout = int4_layout.find_block_layout(torch_operators.pack_int4_on_cpu)
            return BlockInt4Kernel(self, layout) if layout else None
        if torch.cuda.get_device_capability(device) < (8, 0):
            return None  # there the operation would not refuse, but fail while it runs
        pack = torch_operators.pack_int4_on_cuda
        return TiledInt4Kernel(self, int4_layout.find_tile_order(pack, device))

    def fits_fused(self, _: torch.device, shape: tuple[int, int]) -> bool:
        """Return whether output rows are whole blocks."""
        return shape[0] % torch_operators.FUSED_MULTIPLE == 0


class Int4Kernel(WeightKernel):
    """int4 in the order of a device's kernel, whose inputs are of 16 bits.

    Those of 32 bits would be correct, and tens of times slower.
    """

    multiply = staticmethod(torch_operators.int4_product_on_cpu)

    def fused(self, inputs: Tensor, held: Tensors, bias: Tensor | None) -> Tensor:
        """Return the product, in bfloat16."""
        narrow = aligned(inputs.bfloat16())
        return biased(self.multiply(narrow, held["codes"], INT4_GROUP, held["affine"]), bias)


class BlockInt4Kernel(Int4Kernel):
    """int4 on CPU: codes in blocks of output rows, for ``_weight_int4pack_mm_for_cpu``.

    It computes each row by itself (aten/src/ATen/native/cpu/int4mm_kernel.cpp).
    """

    fused_name = "aten::_weight_int4pack_mm_for_cpu"
    is_by_row = True

    def __init__(self, stored_format: Int4, layout: BlockLayout) -> None:
        super().__init__(stored_format)
        self.layout, self.row_step = layout, layout.block_rows

    def pack(self, stored: Tensors) -> Tensors:
        """Pack some blocks at a time: the operation wants codes of 32 bits."""
        rows = max(1, CHUNK_WEIGHTS // (2 * stored["codes"].shape[1]) // self.row_step)
        step = rows * self.row_step
        packed = torch.empty_like(stored["codes"])
        for part, chunk in zip(packed.split(step), stored["codes"].split(step), strict=True):
            part.copy_(torch_operators.pack_int4_on_cpu(int4_layout.unpack_nibbles(chunk).int()))
        return {**stored, "codes": packed}

    def unpack(self, held: Tensors) -> Tensors:
        """Return plainly packed codes."""
        codes = self.layout.unpack(held["codes"], 2 * held["codes"].shape[1]).t()
        return {**held, "codes": int4_layout.pack_nibbles(codes)}

    def decode(self, held: Tensors, rows: slice) -> Tensor:
        """Decode without transposing: the layout is by columns already."""
        packed = held["codes"][rows]
        columns = 2 * packed.shape[1]
        values = self.layout.unpack(packed, columns).view(torch.int8).sub_(8).float()
        scales, zeros = held["affine"][:, rows].float().permute(2, 0, 1).unsqueeze(2).contiguous()
        return values.view(-1, INT4_GROUP, packed.shape[0]).mul_(scales).add_(zeros).flatten(0, 1)


class TiledInt4Kernel(Int4Kernel):
    """int4 on CUDA from capability 8.0: codes permuted within tiles, for ``_weight_int4pack_mm``.

    Attributes:
        order: place of each code in a tile, see ``int4_layout.find_tile_order``.
    """

    fused_name = "aten::_weight_int4pack_mm"
    row_step = int4_layout.TILE_ROWS
    multiply = staticmethod(torch_operators.int4_product_on_cuda)

    def __init__(self, stored_format: Int4, order: Tensor) -> None:
        super().__init__(stored_format)
        self.order = order

    def pack(self, stored: Tensors) -> Tensors:
        """Return codes permuted."""
        return {**stored, "codes": torch_operators.pack_int4_on_cuda(stored["codes"])}

    def unpack(self, held: Tensors) -> Tensors:
        """Return plainly packed codes."""
        return {**held, "codes": int4_layout.pack_nibbles(self._codes(held["codes"], held))}

    def decode(self, held: Tensors, rows: slice) -> Tensor:
        """Return decoded rows, transposed."""
        tiles = slice(rows.start // self.row_step, -(-rows.stop // self.row_step))
        codes = self._codes(held["codes"][tiles], held)
        return affine_rows(codes, held["affine"][:, rows], 4).t()

    def _codes(self, packed: Tensor, held: Tensors) -> Tensor:
        columns = held["affine"].shape[0] * INT4_GROUP
        return int4_layout.unpack_tiles(packed, self.order, columns)
