"""Multiplications by stored weights, made of random numbers, for tests."""

from collections.abc import Iterator

import torch
from torch import Tensor

from runtimes.torch_pipeline.weights.formats.stored_format import Tensors
from runtimes.torch_pipeline.weights.kernels import kernel_for
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


def fused_name(format_name: str, device: torch.device) -> str | None:
    """Return which operation multiplies by a format for few tokens, if one works here."""
    return kernel_for(format_name, device, (64, 256)).fused_name


def stored_tensors(operator: StoredLinear) -> Tensors:
    """Return the weights as ``quantize`` gives them, whatever order the kernel keeps."""
    return operator.kernel.unpack(operator._held())


def numbers_of(operator: StoredLinear) -> Tensor:
    """Return the weights that the codes of an operator mean."""
    return dequantize(
        stored_tensors(operator),
        operator.format_name,
        operator.out_features,
        operator.in_features,
    )
