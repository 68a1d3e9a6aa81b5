"""Base of formats whose codes count steps from a zero, both of a group of weights."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from runtimes.torch_pipeline.weights.formats.stored_format import (
    HQQ,
    RTN,
    SCALE_DTYPE,
    QuantizedFormat,
    Tensors,
    scale_that_covers,
)
from runtimes.torch_pipeline.weights.hqq_quantizer import half_quadratic_zeros


class AffineFormat(QuantizedFormat):
    """Packed codes, and ``affine`` (G, N, 2) with the scale and zero of each group.

    A weight is ``(code - 2**bits / 2) * scale + zero``, as in PyTorch's kernels. A quantizer may
    move the zeros.
    """

    quantizers = (RTN, HQQ)
    row_axis: ClassVar[Mapping[str, int]] = {"affine": 1}

    @abstractmethod
    def packed_codes(self, codes: Tensor) -> Tensors:
        """Return codes (uint8, rows x padded columns) as they are stored."""

    @abstractmethod
    def unpacked_codes(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Return the codes of some rows: uint8 of shape (rows, padded columns)."""

    def quantize_rows(self, weight: Tensor, quantizer: str) -> Tensors:
        """Return codes, and the scale and zero of each group."""
        bits, (rows, columns) = self.record.bits, weight.shape
        missing = self.padded(columns) - columns
        if missing:  # what pads a row must not widen its group
            weight = torch.cat((weight, weight[:, -1:].expand(rows, missing)), dim=1)
        groups = weight.view(rows, -1, self.record.group_size or columns)
        scales, zeros = _covering(groups, bits)
        if quantizer == HQQ:
            counted = groups if not missing else _without_padding(groups, columns)
            zeros = half_quadratic_zeros(counted, scales, zeros, bits)
        half = 1 << (bits - 1)
        steps = groups.sub(zeros[..., None]).div_(scales[..., None]).round_()
        codes = steps.clamp_(-half, half - 1).add_(half).to(torch.uint8).flatten(1)
        affine = torch.stack((scales, zeros), dim=-1).transpose(0, 1)
        return {**self.packed_codes(codes), "affine": affine.to(SCALE_DTYPE).contiguous()}

    def decode(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Return the numbers of codes."""
        codes = self.unpacked_codes(stored, rows)
        return affine_rows(codes, stored["affine"][:, rows], self.record.bits)

    def scales(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return the scale of each group, (N, G)."""
        return stored["affine"][..., 0].t()


def affine_rows(codes: Tensor, affine: Tensor, bits: int) -> Tensor:
    """Return ``(code - 2**bits / 2) * scale + zero``; ``codes`` (uint8, rows x columns) is spent.

    Args:
        codes: of whole rows.
        affine: scale and zero of each group, of shape (groups, rows, 2).
        bits: of a code.
    """
    scales, zeros = affine.float().permute(2, 1, 0).unsqueeze(-1).contiguous()
    values = codes.view(torch.int8).sub_(1 << (bits - 1)).float()
    grouped = values.view(values.shape[0], scales.shape[1], -1)
    return grouped.mul_(scales).add_(zeros).flatten(1)


def _without_padding(groups: Tensor, columns: int) -> Tensor:
    """Return a copy of groups with NaN for all but the first ``columns`` weights of a row."""
    counted = groups.clone()
    counted.flatten(1)[:, columns:] = torch.nan
    return counted


def _covering(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return scales and zeros (bfloat16 numbers) of groups such that no weight is cut off.

    The zero is rounded to 16 bits first and the scale then covers what is left on either side of
    it, rounded upwards: every weight lies within half a step of its code's number.
    """
    below, above = 1 << (bits - 1), (1 << (bits - 1)) - 1  # steps on either side of the zero
    low, high = groups.aminmax(dim=2)
    zeros = torch.lerp(low, high, below / (below + above)).to(SCALE_DTYPE).float()
    return scale_that_covers(torch.maximum((high - zeros) / above, (zeros - low) / below)), zeros
