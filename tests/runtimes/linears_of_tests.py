"""Multiplications by stored weights, made of random numbers, for tests."""

from collections.abc import Iterator

import torch
from torch import Tensor

from runtimes.torch_pipeline.weights.linear import KernelChoice, StoredLinear, linear_from_weight
from runtimes.torch_pipeline.weights.quantizers import dequantize

CPU = torch.device("cpu")
NEVER = 1 << 60
"""So many tokens that weights are never decoded for them."""


def without_gradients() -> Iterator[None]:
    """Run a test in inference mode, as stages run; a fixture where a test file makes it one."""
    with torch.inference_mode():
        yield


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    """Return numbers that repeat with the seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(
    format_name: str,
    shape: tuple[int, int] = (64, 256),
    dense_from: int = NEVER,
    dtype: torch.dtype = torch.float32,
    bias: Tensor | None = None,
) -> StoredLinear:
    """Return an operator of random weights, decoded from so many tokens on."""
    choice = KernelChoice({format_name: dense_from})
    return linear_from_weight(gaussian(*shape), bias, format_name, CPU, dtype, choice)


def numbers_of(operator: StoredLinear) -> Tensor:
    """Return the weights that the codes of an operator mean."""
    return dequantize(
        operator.stored_tensors(),
        operator.format_name,
        operator.out_features,
        operator.in_features,
    )
