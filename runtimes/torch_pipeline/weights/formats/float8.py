"""The formats fp8 and fp8-block: E4M3 numbers with a scale for each row, or for each square.

E4M3 has a sign, 4 bits of exponent and 3 of fraction, and no infinity (arXiv:2209.05433). Codes are
kept as bytes, because PyTorch compares and pads those on every device.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from llmpq_sim.core.formats import FORMATS
from runtimes.torch_pipeline.weights.formats.base import (
    CHUNK_WEIGHTS,
    QuantizedFormat,
    StoredFormat,
    Tensors,
    scale_that_covers,
)

LARGEST = torch.finfo(torch.float8_e4m3fn).max
SQUARE = FORMATS["fp8-block"].group_rows


def to_e4m3(scaled: Tensor) -> Tensor:
    """Return the bytes of the nearest E4M3 numbers; what is larger than all is the largest."""
    return scaled.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).view(torch.uint8)


def from_e4m3(codes: Tensor) -> Tensor:
    """Return the float32 numbers of bytes."""
    return codes.view(torch.float8_e4m3fn).float()


class Fp8(QuantizedFormat):
    """``codes`` uint8 (N, K) and ``scales`` float32 (N); a weight is ``E4M3(code) * scale``."""

    record = FORMATS["fp8"]

    def quantize_rows(self, weight: Tensor, _: str) -> Tensors:
        """Return codes that cover the largest weight of each row."""
        scales = scale_that_covers(weight.abs().amax(dim=1) / LARGEST)
        return {"codes": to_e4m3(weight / scales[:, None]), "scales": scales}

    def decode(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Return scaled numbers."""
        return from_e4m3(stored["codes"][rows]).mul_(stored["scales"][rows, None].float())

    def scales(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return the scale of each row, (N, 1)."""
        return stored["scales"][:, None]


class Fp8Block(StoredFormat):
    """``codes`` uint8 (N, K) and ``scales`` float32 of squares, (N / 128, K / 128) rounded up.

    Scales may be (N, K / 128) as well: where parts of a matrix were quantized by themselves, their
    squares need not begin at a multiple of 128 rows.
    """

    record = FORMATS["fp8-block"]
    quantizers = QuantizedFormat.quantizers

    def padded(self, in_features: int) -> int:
        """Return the input features: the last square of a row may be narrower."""
        return in_features

    def quantize(self, weight: Tensor, _dtype: torch.dtype, _: str) -> Tensors:
        """Return codes that cover the largest weight of each square."""
        rows = max(1, CHUNK_WEIGHTS // weight.shape[1] // SQUARE) * SQUARE
        parts = [self._quantized(each.float()) for each in weight.detach().split(rows)]
        return {name: torch.cat([part[name] for part in parts]) for name in ("codes", "scales")}

    def _quantized(self, weight: Tensor) -> Tensors:
        rows, columns = weight.shape
        by_row = torch.stack([each.abs().amax(dim=1) for each in weight.split(SQUARE, dim=1)], 1)
        largest = torch.stack([each.amax(dim=0) for each in by_row.split(SQUARE)])
        scales = scale_that_covers(largest / LARGEST)
        spread = _spread(scales, slice(0, rows), columns)
        return {"codes": to_e4m3(weight / spread), "scales": scales}

    def decode(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Return scaled numbers."""
        scales = self._of_rows(stored, rows)
        return from_e4m3(stored["codes"][rows]).mul_(_widened(scales, stored["codes"].shape[1]))

    def scales(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return the scale of each square of each row, (N, G)."""
        return self._of_rows(stored, slice(0, stored["codes"].shape[0]))

    def _of_rows(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        scales, count = stored["scales"].float(), stored["codes"].shape[0]
        return scales[rows] if scales.shape[0] == count else _of_squares(scales, rows)


def _of_squares(scales: Tensor, rows: slice) -> Tensor:
    """Return the scales of some rows, each square's for all of its rows."""
    numbers = torch.arange(rows.start or 0, rows.stop, device=scales.device)
    return scales[numbers.div_(SQUARE, rounding_mode="floor")]


def _widened(scales: Tensor, columns: int) -> Tensor:
    return scales.repeat_interleave(SQUARE, dim=1)[:, :columns]


def _spread(scales: Tensor, rows: slice, columns: int) -> Tensor:
    return _widened(_of_squares(scales, rows), columns)
