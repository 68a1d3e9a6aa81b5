"""The format int3: codes in two bit planes, a scale and a zero for 64 weights.

Eight codes are packed into three bytes. A row of codes is cut into stripes, so that unpacking is a
few shifts of whole rows: byte ``j`` of the two-bit plane holds the low bits of codes ``j``,
``j + n/4``, ``j + 2n/4`` and ``j + 3n/4``, and byte ``j`` of the one-bit plane holds the high bits
of the eight codes ``j + i n/8``.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from llmpq_sim.core.formats import FORMATS
from runtimes.torch_pipeline.weights.formats.affine import AffineFormat
from runtimes.torch_pipeline.weights.formats.stored_format import Tensors


class Int3(AffineFormat):
    """``two_bit`` (N, K/4) and ``one_bit`` (N, K/8), uint8, and ``affine``.

    It has no fused kernel.
    """

    record = FORMATS["int3"]

    def packed_codes(self, codes: Tensor) -> Tensors:
        """Return both planes."""
        two_bit, one_bit = pack_planes(codes)
        return {"two_bit": two_bit, "one_bit": one_bit}

    def unpacked_codes(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Return the codes of both planes."""
        return unpack_planes(stored["two_bit"][rows], stored["one_bit"][rows])


def pack_planes(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two-bit plane and the one-bit plane of codes.

    Args:
        codes: from 0 to 7, uint8, of shape (rows, columns), columns a multiple of 32, so
            that both planes of a row are whole 32-bit words.

    Returns:
        uint8 of shapes (rows, columns / 4) and (rows, columns / 8).
    """
    rows = codes.shape[0]
    low = codes.bitwise_and(3).view(rows, 4, -1)
    high = codes.bitwise_right_shift(2).view(rows, 8, -1)
    two_bit = low[:, 0].clone()
    one_bit = high[:, 0].clone()
    for stripe in range(1, 4):
        two_bit |= low[:, stripe] << (2 * stripe)
    for stripe in range(1, 8):
        one_bit |= high[:, stripe] << stripe
    return two_bit, one_bit


def unpack_planes(two_bit: Tensor, one_bit: Tensor) -> Tensor:
    """Return the codes that two planes of whole rows hold, uint8 of shape (rows, columns)."""
    rows = two_bit.shape[0]
    low = _stripes(two_bit, 4).bitwise_and_(0x03030303)
    high = _stripes(one_bit, 8).bitwise_and_(0x01010101).bitwise_left_shift_(2)
    return low.view(rows, -1).bitwise_or_(high.view(rows, -1)).view(torch.uint8)


def _stripes(plane: Tensor, stripes: int) -> Tensor:
    """Return a plane shifted for each stripe, as int32 (rows, stripes, words)."""
    shifts = torch.arange(0, 8, 8 // stripes, dtype=torch.int32, device=plane.device)
    words = plane.contiguous().view(torch.int32)
    return torch.bitwise_right_shift(words[:, None, :], shifts[None, :, None])
