"""Kernels that multiply by stored weights, and which of them work in this process.

The fused kernels are PyTorch's own (torch_operators.py): each is tried once per process on a small
matrix against the numbers that its codes mean, and where one is missing or wrong its format is
decoded and multiplied densely instead. ``kernel_name`` says which it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS
from runtimes.torch_pipeline.weights import int4_layout, torch_operators
from runtimes.torch_pipeline.weights.int4_layout import BlockLayout
from runtimes.torch_pipeline.weights.quantizers import (
    CHUNK_WEIGHTS,
    Tensors,
    affine_rows,
    decode_rows,
    padded,
    quantize,
    weight_format,
)

DENSE_KERNEL = "decode + torch.mm"
"""What ``kernel_name`` says of a format without a fused kernel."""

FUSED_MULTIPLE = 16
"""Of what a dimension must be a multiple for PyTorch's kernels: input features of int8 on CPU
(aten/src/ATen/native/cpu/int8mm_kernel.cpp), output features of int4.
"""

ALIGNMENT_BYTES = 64
"""Where vector loads want tensors to begin; PyTorch allocates so, but a view may begin anywhere."""

INT4_GROUP = FORMATS["int4"].group_size or 0


class WeightKernel(Protocol):
    """How the weights of a format are held in memory, and multiplied.

    Attributes:
        fused_name: the operation that multiplies by weights as they are held, or None.
        row_step: blocks of output rows to be decoded begin at a multiple of this.
    """

    @property
    def fused_name(self) -> str | None:
        """Name of the fused operation."""

    @property
    def row_step(self) -> int:
        """Multiple at which blocks of rows begin."""

    def hold(self, stored: Tensors) -> Tensors:
        """Return what ``quantize`` gives in the order of the kernel; nothing is kept twice."""

    def plain(self, held: Tensors) -> Tensors:
        """Return what ``hold`` was given."""

    def fused(self, inputs: Tensor, held: Tensors, bias: Tensor | None) -> Tensor:
        """Return the product of (tokens, padded in_features) in some floating-point type."""

    def decode(self, held: Tensors, rows: slice) -> Tensor:
        """Return output rows as float32 numbers, transposed: (padded in_features, rows)."""


@dataclass(frozen=True)
class PlainKernel:
    """Weights held as they are quantized; a fused kernel only where PyTorch takes them so.

    Attributes:
        format_name: of the weights.
        fused_name: see ``WeightKernel``.
        product: computes it from inputs, tensors and bias; None without a fused kernel.
    """

    format_name: str
    fused_name: str | None = None
    product: Callable[[Tensor, Tensors, Tensor | None], Tensor] | None = None
    row_step: int = 1

    def hold(self, stored: Tensors) -> Tensors:
        """Return the same tensors; a copy of one that begins where vectors cannot be loaded."""
        return {name: aligned(tensor) for name, tensor in stored.items()}

    def plain(self, held: Tensors) -> Tensors:
        """Return the same tensors."""
        return held

    def fused(self, inputs: Tensor, held: Tensors, bias: Tensor | None) -> Tensor:
        """Return the product.

        Raises:
            InputError: there is no fused kernel; decode instead.
        """
        if self.product is None:
            raise InputError(
                f"{self.format_name} weights: expected a fused kernel, found none in this process; "
                "decode them (dense_from_tokens 0)"
            )
        return self.product(inputs, held, bias)

    def decode(self, held: Tensors, rows: slice) -> Tensor:
        """Return decoded rows, transposed."""
        return decode_rows(held, self.format_name, rows).t()


@dataclass(frozen=True)
class BlockInt4Kernel:
    """int4 on CPU: codes in blocks of output rows, for ``_weight_int4pack_mm_for_cpu``."""

    layout: BlockLayout
    fused_name: str = "aten::_weight_int4pack_mm_for_cpu"

    @property
    def row_step(self) -> int:
        """Output rows of a block."""
        return self.layout.block_rows

    def hold(self, stored: Tensors) -> Tensors:
        """Pack some blocks at a time: the operation wants codes of 32 bits."""
        rows = max(1, CHUNK_WEIGHTS // (2 * stored["codes"].shape[1]) // self.row_step)
        step = rows * self.row_step
        packed = torch.empty_like(stored["codes"])
        for part, chunk in zip(packed.split(step), stored["codes"].split(step), strict=True):
            part.copy_(torch_operators.pack_int4_on_cpu(int4_layout.unpack_nibbles(chunk).int()))
        return {**stored, "codes": packed}

    def plain(self, held: Tensors) -> Tensors:
        """Return plainly packed codes."""
        codes = self.layout.unpack(held["codes"], 2 * held["codes"].shape[1]).t()
        return {**held, "codes": int4_layout.pack_nibbles(codes)}

    def fused(self, inputs: Tensor, held: Tensors, bias: Tensor | None) -> Tensor:
        """Return the product; inputs of 32 bits would be correct, and tens of times slower."""
        multiply = torch_operators.int4_product_on_cpu
        return _biased(
            multiply(aligned(inputs.bfloat16()), held["codes"], INT4_GROUP, held["affine"]), bias
        )

    def decode(self, held: Tensors, rows: slice) -> Tensor:
        """Decode without transposing: the layout is by columns already."""
        packed = held["codes"][rows]
        columns = 2 * packed.shape[1]
        values = self.layout.unpack(packed, columns).view(torch.int8).sub_(8).float()
        scales, zeros = held["affine"][:, rows].float().permute(2, 0, 1).unsqueeze(2).contiguous()
        return values.view(-1, INT4_GROUP, packed.shape[0]).mul_(scales).add_(zeros).flatten(0, 1)


@dataclass(frozen=True)
class TiledInt4Kernel:
    """int4 on CUDA from capability 8.0: codes permuted within tiles, for ``_weight_int4pack_mm``.

    Attributes:
        order: place of each code in a tile, see ``int4_layout.find_tile_order``.
    """

    order: Tensor
    fused_name: str = "aten::_weight_int4pack_mm"
    row_step: int = int4_layout.TILE_ROWS

    def hold(self, stored: Tensors) -> Tensors:
        """Return codes permuted."""
        return {**stored, "codes": torch_operators.pack_int4_on_cuda(stored["codes"])}

    def plain(self, held: Tensors) -> Tensors:
        """Return plainly packed codes."""
        codes = int4_layout.unpack_tiles(held["codes"], self.order, self._columns(held))
        return {**held, "codes": int4_layout.pack_nibbles(codes)}

    def fused(self, inputs: Tensor, held: Tensors, bias: Tensor | None) -> Tensor:
        """Return the product, in bfloat16."""
        multiply = torch_operators.int4_product_on_cuda
        return _biased(
            multiply(aligned(inputs.bfloat16()), held["codes"], INT4_GROUP, held["affine"]), bias
        )

    def decode(self, held: Tensors, rows: slice) -> Tensor:
        """Return decoded rows, transposed."""
        tiles = slice(rows.start // self.row_step, -(-rows.stop // self.row_step))
        codes = int4_layout.unpack_tiles(held["codes"][tiles], self.order, self._columns(held))
        return affine_rows(codes, held["affine"][:, rows], 4).t()

    def _columns(self, held: Tensors) -> int:
        return held["affine"].shape[0] * INT4_GROUP


def aligned(tensor: Tensor) -> Tensor:
    """Return a tensor that begins where vectors are loaded whole: itself, or a copy."""
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT_BYTES else tensor


def _biased(product: Tensor, bias: Tensor | None) -> Tensor:
    return product if bias is None else product + bias


def _linear(inputs: Tensor, held: Tensors, bias: Tensor | None) -> Tensor:
    return functional.linear(inputs.to(held["weight"].dtype), held["weight"], bias)


def _int8_product(inputs: Tensor, held: Tensors, bias: Tensor | None) -> Tensor:
    multiply = torch_operators.int8_product
    return _biased(multiply(aligned(inputs.bfloat16()), held["codes"], held["scales"]), bias)


KEPT = "torch.nn.functional.linear"
_INT8 = PlainKernel("int8", "aten::_weight_int8pack_mm", _int8_product)

# ---- what a device can do


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


def runnable_formats(device: torch.device) -> tuple[str, ...]:
    """Return the formats whose weights can be multiplied by on a device: all, some of them slowly.

    Raises:
        InputError: PyTorch cannot use the device.
    """
    if device.type not in {"cpu", "cuda"}:
        raise InputError(f"device: expected cpu or cuda, found {device}; plan for one of these")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device: expected one of {torch.cuda.device_count()} CUDA devices, found {device}; "
            "see nvidia-smi, or run the stage on cpu"
        )
    return tuple(FORMATS)


def kernel_name(format_name: str, device: torch.device) -> str:
    """Return which operation multiplies by a format for few tokens, in this process.

    Raises:
        InputError: there is no such format.
    """
    return _kernel(format_name, device.type, _index(device)).fused_name or DENSE_KERNEL


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
    out_features, in_features = shape
    unfit = {
        # The kernel reads 16 codes at a time and past the end of a row that is no multiple.
        "int8": device.type == "cpu" and in_features % FUSED_MULTIPLE != 0,
        "int4": out_features % FUSED_MULTIPLE != 0,
    }
    is_wide = weight_format(format_name).is_quantized and compute_dtype == torch.float32
    if is_wide or unfit.get(format_name, False):
        return PlainKernel(format_name)
    return _kernel(format_name, device.type, _index(device))


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


def _index(device: torch.device) -> int:
    return device.index or 0


@cache
def _kernel(format_name: str, device_type: str, index: int) -> WeightKernel:
    if not weight_format(format_name).is_quantized:
        return PlainKernel(format_name, KEPT, _linear)
    dense = PlainKernel(format_name)
    device = torch.device(device_type, index) if device_type == "cuda" else torch.device("cpu")
    choices: Mapping[str, Callable[[torch.device], WeightKernel | None]] = {
        "int8": lambda _: _INT8,
        "int4": _int4_kernel,
    }
    try:
        candidate = choices[format_name](device) if format_name in choices else None
        works = candidate is not None and agrees_with_codes(candidate, format_name, device)
    except (AttributeError, RuntimeError):  # the private operation is gone, or not for this device
        return dense
    return candidate if candidate is not None and works else dense


def _int4_kernel(device: torch.device) -> WeightKernel | None:
    if device.type == "cpu":
        layout = int4_layout.find_block_layout(torch_operators.pack_int4_on_cpu)
        return BlockInt4Kernel(layout) if layout else None
    if torch.cuda.get_device_capability(device) < (8, 0):
        return None  # there the operation would not refuse, but fail while it runs
    return TiledInt4Kernel(int4_layout.find_tile_order(torch_operators.pack_int4_on_cuda, device))


def agrees_with_codes(kernel: WeightKernel, format_name: str, device: torch.device) -> bool:
    """Return whether a kernel multiplies by, decodes and gives back what the codes mean."""
    generator = torch.Generator().manual_seed(0)
    out_features, in_features = 176, 2 * padded(1, format_name) if format_name == "int4" else 64
    weight = torch.randn(out_features, in_features, generator=generator)
    inputs = torch.randn(3, in_features, generator=generator).bfloat16().to(device)
    stored = quantize(weight, format_name, torch.bfloat16)
    stored = {name: tensor.to(device) for name, tensor in stored.items()}
    held = kernel.hold(stored)
    numbers = decode_rows(stored, format_name, slice(0, out_features))
    expected = inputs.float() @ numbers.t()
    error = (kernel.fused(inputs, held, None).float() - expected).norm() / expected.norm()
    same_codes = all(torch.equal(kernel.plain(held)[name], stored[name]) for name in stored)
    same_numbers = torch.equal(kernel.decode(held, slice(0, out_features)).t(), numbers)
    return bool(error < 0.01) and same_codes and same_numbers
