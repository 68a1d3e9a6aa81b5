"""The format int3: codes in two bit planes, a scale and a zero for 64 weights.

Eight codes are packed into three bytes, as bit_planes.py says.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from llmpq_sim.core.formats import FORMATS
from runtimes.torch_pipeline.weights.formats.affine import AffineFormat
from runtimes.torch_pipeline.weights.formats.base import Tensors
from runtimes.torch_pipeline.weights.formats.bit_planes import pack_plane, unpack_plane


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
    """Return the two-bit plane of the low bits and the one-bit plane of the high ones.

    Args:
        codes: from 0 to 7, uint8, of shape (rows, columns), columns a multiple of 32.

    Returns:
        uint8 of shapes (rows, columns / 4) and (rows, columns / 8).
    """
    return pack_plane(codes.bitwise_and(3), 2), pack_plane(codes.bitwise_right_shift(2), 1)


def unpack_planes(two_bit: Tensor, one_bit: Tensor) -> Tensor:
    """Return the codes that two planes of whole rows hold, uint8 of shape (rows, columns)."""
    high = unpack_plane(one_bit, 1).bitwise_left_shift_(2)
    return unpack_plane(two_bit, 2).bitwise_or_(high).view(torch.uint8)
