"""Kernels that multiply by stored weights, and which of them work in this process.

The fused kernels are PyTorch's own (torch_operators.py): each is tried once per process on a small
matrix against the numbers that its codes mean, and where one is missing or wrong its format is
decoded and multiplied densely instead.
"""

from functools import cache

import torch

from llmpq_sim.core.errors import InputError
from runtimes.torch_pipeline.weights.formats.registry import stored_format
from runtimes.torch_pipeline.weights.formats.stored_format import (
    RTN,
    StoredFormat,
    WeightKernel,
)

PROBE_ROWS, PROBE_COLUMNS = 176, 64
"""Of the matrix on which a kernel is tried; its rows are whole groups where those are larger."""


def device_named(name: str, option: str) -> torch.device:
    """Return the device that an option names; whether it is there is not looked at.

    Raises:
        InputError: it is neither a processor nor a CUDA device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"{option}: expected cpu or cuda:N, got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"{option}: expected cpu or cuda:N, got {name!r}")
    return device


def kernel_for(
    format_name: str,
    device: torch.device,
    shape: tuple[int, int],
    compute_dtype: torch.dtype = torch.bfloat16,
) -> WeightKernel:
    """Return the kernel for a matrix; one without a fused operation where that does not fit.

    Fused operations take inputs of 16 bits (of 32 they are correct, and tens of times slower), so
    a model that computes in float32 has none: what is asked for in 32 bits is computed in 32.

    Args:
        format_name: of its weights.
        device: on which it is multiplied.
        shape: (out_features, in_features).
        compute_dtype: of what is not quantized.

    Raises:
        InputError: there is no such format.
    """
    stored = stored_format(format_name)
    is_wide = stored.record.is_quantized and compute_dtype == torch.float32
    if is_wide or not stored.fits_fused(device, shape):
        return WeightKernel(stored)
    return _kernel(format_name, device.type, device.index or 0)


def has_native_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 at least as fast as float32.

    It decides speed alone: both ways give the same numbers to rounding.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    able = torch.cpu.get_capabilities()
    is_used = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return is_used and bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def dense_dtype(device: torch.device, compute_dtype: torch.dtype) -> torch.dtype:
    """Return the type in which decoded weights are multiplied, as the type of the model says.

    On CPUs a model of bfloat16 is multiplied in float32 where there are no instructions for less:
    products of 16-bit numbers are emulated there and take several times as long. The same goes for
    float16, whose numbers bfloat16 would cut.
    """
    if device.type == "cuda":
        return compute_dtype
    is_narrow = compute_dtype == torch.bfloat16 and has_native_bf16(device)
    return torch.bfloat16 if is_narrow else torch.float32


@cache
def _kernel(format_name: str, device_type: str, index: int) -> WeightKernel:
    stored = stored_format(format_name)
    device = torch.device(device_type, index) if device_type == "cuda" else torch.device("cpu")
    try:
        candidate = stored.fused_kernel(device)
        works = candidate is not None and agrees_with_codes(candidate, stored, device)
    except (AttributeError, RuntimeError):  # the private operation is gone, or not for this device
        return WeightKernel(stored)
    return candidate if candidate is not None and works else WeightKernel(stored)


def agrees_with_codes(kernel: WeightKernel, known: StoredFormat, device: torch.device) -> bool:
    """Return whether a kernel multiplies by, decodes and gives back what the codes mean."""
    generator = torch.Generator().manual_seed(0)
    shape = PROBE_ROWS, max(PROBE_COLUMNS, 2 * (known.record.group_size or 0))
    weight = torch.randn(shape, generator=generator)
    inputs = torch.randn(3, shape[1], generator=generator).bfloat16().to(device)
    stored = {
        name: tensor.to(device)
        for name, tensor in known.quantize(weight, torch.bfloat16, RTN).items()
    }
    held = kernel.pack(stored)
    numbers = known.decode(stored, slice(0, PROBE_ROWS))
    expected = inputs.float() @ numbers.t()
    error = (kernel.fused(inputs, held, None).float() - expected).norm() / expected.norm()
    same_codes = all(torch.equal(kernel.unpack(held)[name], stored[name]) for name in stored)
    same_numbers = torch.equal(kernel.decode(held, slice(0, PROBE_ROWS)).t(), numbers)
    return bool(error < 0.01) and same_codes and same_numbers
