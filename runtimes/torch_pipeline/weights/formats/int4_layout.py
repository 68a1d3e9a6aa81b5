"""Layouts of 4-bit codes: plain rows, and those of PyTorch's own kernels.

Plain: byte ``j`` of a row holds code ``2j`` in its high half and ``2j + 1`` in its low half, as
``aten::_convert_weight_to_int4pack`` takes it. The kernels keep codes in an order of their own,
which depends on the processor; it is found by trying and never assumed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TILE_ROWS, TILE_COLUMNS = 8, 128
"""What ``aten::_convert_weight_to_int4pack`` with 8 inner tiles permutes within, on CUDA."""


def pack_nibbles(codes: Tensor) -> Tensor:
    """Return codes (uint8, rows x columns, 0 to 15) packed two a byte, plainly."""
    return codes[:, ::2].bitwise_left_shift(4).bitwise_or_(codes[:, 1::2])


def unpack_nibbles(packed: Tensor) -> Tensor:
    """Return the codes of plainly packed rows: uint8 of shape (rows, columns)."""
    halves = torch.stack((packed.bitwise_right_shift(4), packed.bitwise_and(15)), dim=-1)
    return halves.flatten(1)


@dataclass(frozen=True)
class BlockLayout:
    """How CPU kernels order codes (aten/src/ATen/native/cpu/int4mm_kernel.cpp, read, not copied).

    A block is some output rows; it holds, column by column, a byte for two rows.

    Attributes:
        block_rows: output rows of a block; a last, smaller block always holds pairs.
        halves: byte ``i`` holds row ``i`` (low) and row ``i + block_rows / 2`` (high); otherwise
            rows ``2i`` and ``2i + 1``.
    """

    block_rows: int
    halves: bool

    def unpack(self, packed: Tensor, columns: int) -> Tensor:
        """Return codes, transposed, of whole blocks.

        Args:
            packed: uint8, (output rows, columns / 2), rows beginning at a block.
            columns: input features.

        Returns:
            uint8 of shape (columns, output rows).
        """
        rows = packed.shape[0]
        whole = rows - rows % self.block_rows
        parts = []
        if whole:
            blocks = packed[:whole].reshape(-1, columns, self.block_rows // 2)
            parts.append(_unpack_halves(blocks) if self.halves else _unpack_pairs(blocks))
        if rows > whole:
            parts.append(_unpack_pairs(packed[whole:].reshape(1, columns, (rows - whole) // 2)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _unpack_halves(blocks: Tensor) -> Tensor:
    """Unpack by moving 16 bytes at a time, which is several times faster than single ones."""
    number, columns, width = blocks.shape
    codes = torch.empty(columns, number * 2 * width, dtype=torch.uint8, device=blocks.device)
    wide = codes.view(torch.complex128).view(columns, number, 2, width // 16)
    for half, nibbles in enumerate((blocks & 15, blocks >> 4)):
        moved = nibbles.view(torch.complex128).view(number, columns, width // 16)
        wide[:, :, half].copy_(moved.transpose(0, 1))
    return codes


def _unpack_pairs(blocks: Tensor) -> Tensor:
    pairs = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(2)
    return pairs.transpose(0, 1).flatten(1)


KNOWN_LAYOUTS = (
    BlockLayout(64, halves=True),  # AVX512
    BlockLayout(32, halves=True),  # AVX2
    *(
        BlockLayout(rows, halves=False) for rows in (16, 32, 64)
    ),  # without vectors, other processors
)


def find_block_layout(
    pack: Callable[[Tensor], Tensor], layouts: Sequence[BlockLayout] = KNOWN_LAYOUTS
) -> BlockLayout | None:
    """Return the layout in which a kernel packs, or None where it is none of these.

    Args:
        pack: takes codes as int32 (output rows, input features), gives them as the kernel does.
        layouts: those that may be.
    """
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (2 * 64 + 48, 64), dtype=torch.int32, generator=generator)
    packed = pack(codes)
    if packed.dtype != torch.uint8 or packed.shape != (176, 32):
        return None
    return next((each for each in layouts if torch.equal(each.unpack(packed, 64).t(), codes)), None)


def find_tile_order(pack: Callable[[Tensor], Tensor], device: torch.device) -> Tensor:
    """Return where a kernel that permutes codes within tiles has put each code of a tile.

    Args:
        pack: takes plainly packed codes, gives a contiguous tensor of as many bytes.
        device: where.

    Returns:
        int64 of ``TILE_ROWS * TILE_COLUMNS``: the place of each code, in row-major order, among the
        half bytes of a packed tile (low half first).
    """
    number = torch.arange(TILE_ROWS * TILE_COLUMNS, device=device)
    held = torch.zeros_like(number)
    for digit in range(3):  # a code tells 4 bits of where it came from
        codes = (number >> (4 * digit) & 15).to(torch.uint8).view(TILE_ROWS, TILE_COLUMNS)
        held += _tile_nibbles(pack(pack_nibbles(codes))).flatten().long() << (4 * digit)
    return held.argsort()


def unpack_tiles(packed: Tensor, order: Tensor, columns: int) -> Tensor:
    """Return the codes of packed tiles: uint8 of shape (output rows, columns)."""
    tiles = _tile_nibbles(packed).index_select(1, order)
    tiles = tiles.view(-1, columns // TILE_COLUMNS, TILE_ROWS, TILE_COLUMNS)
    return tiles.transpose(1, 2).reshape(-1, columns)


def _tile_nibbles(packed: Tensor) -> Tensor:
    tile_bytes = packed.contiguous().view(torch.uint8).view(-1, TILE_ROWS * TILE_COLUMNS // 2)
    return torch.stack((tile_bytes & 15, tile_bytes >> 4), dim=-1).flatten(1)
