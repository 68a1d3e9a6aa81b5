"""The formats int4-g128 and int4-g32: codes with whole zero points, as GPTQ and AWQ have them."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from llmpq_sim.core.formats import FORMATS, WeightFormat
from runtimes.torch_pipeline.weights.formats.base import (
    SCALE_DTYPE,
    QuantizedFormat,
    Tensors,
    scale_that_covers,
)
from runtimes.torch_pipeline.weights.formats.int4_layout import pack_nibbles, unpack_nibbles

MOST_CODE = 15


class Int4WithZeros(QuantizedFormat):
    """``codes`` uint8 (N, K/2) and ``zeros`` uint8 (N, G/2), two a byte; ``scales`` (N, G).

    A weight is ``(code - zero) * scale``; scales have 16 bits, of the type that they come in. A
    last half byte pads an odd number of groups.
    """

    def __init__(self, record: WeightFormat) -> None:
        self.record = record

    def quantize_rows(self, weight: Tensor, _: str) -> Tensors:
        """Return codes that cover all weights of a group, and zero."""
        missing = self.padded(weight.shape[1]) - weight.shape[1]
        groups = functional.pad(weight, (0, missing)).unflatten(1, (-1, self.record.group_size))
        low, high = groups.amin(dim=2).clamp_max_(0), groups.amax(dim=2).clamp_min_(0)
        scales = scale_that_covers((high - low) / MOST_CODE)
        zeros = (-low / scales).round_()
        codes = (groups / scales[..., None]).round_().add_(zeros[..., None]).clamp_(0, MOST_CODE)
        return packed_zeros(codes.to(torch.uint8).flatten(1), scales.to(SCALE_DTYPE), zeros)

    def decode(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Return the numbers of codes."""
        scales = stored["scales"][rows].float()
        zeros = unpack_nibbles(stored["zeros"][rows])[:, : scales.shape[1]].float()
        codes = unpack_nibbles(stored["codes"][rows]).float().view(*scales.shape, -1)
        return codes.sub_(zeros[..., None]).mul_(scales[..., None]).flatten(1)

    def scales(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return the scale of each group, (N, G)."""
        return stored["scales"]


def packed_zeros(codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensors:
    """Return what is stored of codes (N, K), scales and zeros (N, G), all in whole groups."""
    even = functional.pad(zeros.to(torch.uint8), (0, zeros.shape[1] % 2))
    return {"codes": pack_nibbles(codes), "scales": scales, "zeros": pack_nibbles(even)}


INT4_G128 = Int4WithZeros(FORMATS["int4-g128"])
INT4_G32 = Int4WithZeros(FORMATS["int4-g32"])
