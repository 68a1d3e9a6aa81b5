"""The formats int2, int5 and int6: codes in bit planes, a scale and a zero for each group."""

from collections.abc import Mapping

import torch
from torch import Tensor

from llmpq_sim.core.formats import FORMATS, WeightFormat
from runtimes.torch_pipeline.weights.formats.affine import AffineFormat
from runtimes.torch_pipeline.weights.formats.base import Tensors
from runtimes.torch_pipeline.weights.formats.bit_planes import pack_plane, unpack_plane


class PlaneFormat(AffineFormat):
    """A uint8 plane ``bits_W`` (N, K * W / 8) for each width W, lowest bits first, and ``affine``.

    It has no fused kernel.

    Attributes:
        widths: bits of each plane.
    """

    def __init__(self, record: WeightFormat, widths: tuple[int, ...]) -> None:
        self.record = record
        self.widths = widths

    def packed_codes(self, codes: Tensor) -> Tensors:
        """Return the planes."""
        planes, taken = {}, 0
        for width in self.widths:
            part = codes.bitwise_right_shift(taken).bitwise_and((1 << width) - 1)
            planes[f"bits_{width}"] = pack_plane(part, width)
            taken += width
        return planes

    def unpacked_codes(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Return the codes of the planes."""
        first, *others = self.widths
        codes, taken = unpack_plane(stored[f"bits_{first}"][rows], first), first
        for width in others:
            part = unpack_plane(stored[f"bits_{width}"][rows], width)
            codes.bitwise_or_(part.bitwise_left_shift_(taken))
            taken += width
        return codes.view(torch.uint8)


INT2 = PlaneFormat(FORMATS["int2"], (2,))
INT5 = PlaneFormat(FORMATS["int5"], (4, 1))
INT6 = PlaneFormat(FORMATS["int6"], (4, 2))
