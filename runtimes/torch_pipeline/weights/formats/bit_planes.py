"""Codes in bit planes: those of a few bits, packed in stripes.

A row of codes is cut into stripes, so that unpacking is a few shifts of whole rows: byte ``j`` of a
plane of ``width`` bits holds those bits of the codes ``j + i n width / 8``, stripe ``i`` from its
lowest bits on, for ``n`` codes a row.
"""

import torch
from torch import Tensor


def pack_plane(codes: Tensor, width: int) -> Tensor:
    """Return a plane of codes.

    Args:
        codes: below ``2 ** width``, uint8, of shape (rows, columns), columns a multiple of
            ``32 / width``, so that a row is whole 32-bit words.
        width: bits of the plane: 1, 2 or 4.

    Returns:
        uint8 of shape (rows, columns * width / 8).
    """
    stripes = 8 // width
    parts = codes.view(codes.shape[0], stripes, -1)
    plane = parts[:, 0].clone()
    for stripe in range(1, stripes):
        plane |= parts[:, stripe] << (width * stripe)
    return plane


def unpack_plane(plane: Tensor, width: int) -> Tensor:
    """Return the codes of a plane of whole rows, as int32 words of four: (rows, columns / 4)."""
    shifts = torch.arange(0, 8, width, dtype=torch.int32, device=plane.device)
    words = plane.contiguous().view(torch.int32)
    shifted = torch.bitwise_right_shift(words[:, None, :], shifts[None, :, None])
    mask = ((1 << width) - 1) * 0x01010101
    return shifted.bitwise_and_(mask).view(plane.shape[0], -1)
