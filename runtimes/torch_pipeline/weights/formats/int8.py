"""The format int8: symmetric codes, a scale for each output row."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from llmpq_sim.core.formats import FORMATS
from runtimes.torch_pipeline.weights import torch_operators
from runtimes.torch_pipeline.weights.formats.stored_format import (
    SCALE_DTYPE,
    QuantizedFormat,
    Tensors,
    WeightKernel,
    aligned,
    biased,
    scale_that_covers,
)


class Int8(QuantizedFormat):
    """``codes`` int8 (N, K) and ``scales`` (N); a weight is ``code * scale``."""

    record = FORMATS["int8"]
    dense_from_tokens: ClassVar[Mapping[str, int]] = {"cpu": 24, "cuda": 16}
    """Measured on one core of a CPU with AVX2 (docs/log.md); on CUDA not measured."""

    def quantize_rows(self, weight: Tensor, _: str) -> Tensors:
        """Return codes that cover the largest weight of each row."""
        scales = scale_that_covers(weight.abs().amax(dim=1) / 127)
        codes = (weight / scales[:, None]).round_().clamp_(-127, 127)
        return {"codes": codes.to(torch.int8), "scales": scales.to(SCALE_DTYPE)}

    def decode(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Return scaled codes."""
        return stored["codes"][rows].float().mul_(stored["scales"][rows, None].float())

    def scales(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return the scale of each row, (N, 1)."""
        return stored["scales"][:, None]

    def fused_kernel(self, device: torch.device) -> WeightKernel:
        """Return PyTorch's own."""
        return Int8Kernel(self, device)

    def fits_fused(self, device: torch.device, shape: tuple[int, int]) -> bool:
        """Return whether rows are whole vectors: a CPU reads past the end of others.

        Source: aten/src/ATen/native/cpu/int8mm_kernel.cpp, which reads 16 codes at a time.
        """
        return device.type != "cpu" or shape[1] % torch_operators.FUSED_MULTIPLE == 0


class Int8Kernel(WeightKernel):
    """int8 as it is stored, for ``_weight_int8pack_mm``."""

    fused_name = "aten::_weight_int8pack_mm"

    def __init__(self, stored_format: Int8, device: torch.device) -> None:
        super().__init__(stored_format)
        self.is_by_row = device.type == "cpu"  # aten/src/ATen/native/cpu/int8mm_kernel.cpp

    def fused(self, inputs: Tensor, held: Tensors, bias: Tensor | None) -> Tensor:
        """Return the product, in bfloat16."""
        multiply = torch_operators.int8_product
        return biased(multiply(aligned(inputs.bfloat16()), held["codes"], held["scales"]), bias)
