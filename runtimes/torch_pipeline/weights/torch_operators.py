"""PyTorch's operations that have no public name, each behind a public one.

Products by packed 8- and 4-bit codes exist under private names alone: torchao and ExecuTorch call
them so too. ``kernels`` tries each once per process against the numbers that its codes mean, and
does without where one is missing or wrong.
"""

import torch
from torch import Tensor

FUSED_MULTIPLE = 16
"""Of what input features of int8 on CPU, and output features of int4, must be a multiple."""

INNER_TILES = 8
"""Tiles of 16 input features that CUDA's int4 kernel loads at once: the widest loads."""


def int8_product(inputs: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """Return inputs (tokens, K) times int8 codes (N, K), scaled by output feature (N)."""
    product: Tensor = torch.ops.aten._weight_int8pack_mm(inputs, codes, scales)
    return product


def int4_product_on_cpu(inputs: Tensor, codes: Tensor, group: int, affine: Tensor) -> Tensor:
    """Return inputs times codes as ``pack_int4_on_cpu`` gives them."""
    multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
    product: Tensor = multiply(inputs, codes, group, affine)
    return product


def int4_product_on_cuda(inputs: Tensor, codes: Tensor, group: int, affine: Tensor) -> Tensor:
    """Return inputs times codes as ``pack_int4_on_cuda`` gives them."""
    product: Tensor = torch.ops.aten._weight_int4pack_mm(inputs, codes, group, affine)
    return product


def pack_int4_on_cpu(codes: Tensor) -> Tensor:
    """Return codes (int32, N x K) in the order of the processor's kernel: uint8, N x K / 2."""
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    return packed


def pack_int4_on_cuda(codes: Tensor) -> Tensor:
    """Return plainly packed codes (uint8, N x K / 2) in the order of CUDA's kernel."""
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack(codes.contiguous(), INNER_TILES)
    return packed


def changes(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place, as far as PyTorch counts it."""
    return 0 if tensor.is_inference() else tensor._version
