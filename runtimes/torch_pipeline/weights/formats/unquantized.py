"""Weights that are not quantized: the formats fp16 and bf16, and fp32 beside them."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from llmpq_sim.core.formats import FORMATS, WeightFormat
from runtimes.torch_pipeline.weights.formats.stored_format import (
    StoredFormat,
    Tensors,
    WeightKernel,
)


class Unquantized(StoredFormat):
    """``weight`` (N, K) in the dtype asked for, whatever the name.

    A runtime computes in one type and keeps in it what is not quantized.
    """

    dense_from_tokens: ClassVar[Mapping[str, int]] = {"cpu": 3}
    """Measured on one core of a CPU with AVX2 and without bfloat16 instructions (docs/log.md)."""

    def __init__(self, record: WeightFormat) -> None:
        self.record = record

    def quantize(self, weight: Tensor, dtype: torch.dtype, _: str) -> Tensors:
        """Return the weights; they are shared where they have the type already.

        Tied embeddings are so kept once.
        """
        return {"weight": weight.detach().to(dtype).contiguous()}

    def decode(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Return the weights themselves."""
        return stored["weight"][rows].float()

    def scales(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return no scales, (N, 0)."""
        return stored["weight"][:, :0]

    def is_decoded(self, stored: Mapping[str, Tensor], dtype: torch.dtype) -> bool:
        """Return whether the weights have the type."""
        return stored["weight"].dtype == dtype

    def fused_kernel(self, _: torch.device) -> WeightKernel:
        """Return PyTorch's own."""
        return LinearKernel(self)


class LinearKernel(WeightKernel):
    """PyTorch's own product by weights as they are."""

    fused_name = "torch.nn.functional.linear"

    def fused(self, inputs: Tensor, held: Tensors, bias: Tensor | None) -> Tensor:
        """Return the product in the type of the weights."""
        return functional.linear(inputs.to(held["weight"].dtype), held["weight"], bias)


FP16, BF16 = Unquantized(FORMATS["fp16"]), Unquantized(FORMATS["bf16"])

FP32 = Unquantized(WeightFormat("fp32", 32, None, 0, None))
"""What plans do not offer, but a runtime that computes in float32 keeps."""
