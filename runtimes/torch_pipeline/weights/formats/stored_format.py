"""Base of the classes that store, decode and multiply weights in a format.

With N output rows, K input features, and G groups of a row (K is padded to whole groups); scales
are bfloat16, whose range is that of float32. Each class says what it stores.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import WeightFormat

Tensors = dict[str, Tensor]

RTN, HQQ = "rtn", "hqq"
"""How codes are chosen: to nearest between the least and the largest weight of a group, and as
hqq_quantizer.py moves zeros. What is stored, and with it the kernels, are the same for both."""

CHUNK_WEIGHTS = 1 << 19
"""Weights quantized at once: what is needed beside the result stays within some 16 MB (rtn) or
some 40 MB (hqq)."""

SCALE_DTYPE = torch.bfloat16

ALIGNMENT_BYTES = 64
"""Where vector loads want tensors to begin; PyTorch allocates so, but a view may begin anywhere."""


class StoredFormat(ABC):
    """A weight format as it is stored.

    Attributes:
        record: what the planner knows of it.
        quantizers: that can choose its codes; none where it has no codes.
        dense_from_tokens: tokens from which on decoding weights is faster than a fused kernel, by
            kind of device; what is missing is 0. A profile should say.
    """

    record: WeightFormat
    quantizers: ClassVar[tuple[str, ...]] = ()
    dense_from_tokens: ClassVar[Mapping[str, int]] = {}

    @abstractmethod
    def quantize(self, weight: Tensor, dtype: torch.dtype, quantizer: str) -> Tensors:
        """Return a matrix (N, K) as it is stored; ``dtype`` is of what is not quantized.

        Raises:
            InputError: some weight is not a finite number.
        """

    @abstractmethod
    def decode(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Return some output rows as float32 numbers, with the padding of each row."""

    @abstractmethod
    def scales(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return the scales of codes, of shape (N, G); G is 0 where nothing is scaled."""

    def fused_kernel(self, _device: torch.device) -> "WeightKernel | None":
        """Return the kernel with a fused operation of a device, or None; it is tried before use."""
        return None

    def fits_fused(self, _device: torch.device, _shape: tuple[int, int]) -> bool:
        """Return whether the fused operation takes a matrix (out_features, in_features)."""
        return True

    def is_decoded(self, _stored: Mapping[str, Tensor], _dtype: torch.dtype) -> bool:
        """Return whether what is stored is multiplied in a type as it is."""
        return False

    def padded(self, in_features: int) -> int:
        """Return the input features of a row in whole groups."""
        group_size = self.record.group_size or 1
        return -(-in_features // group_size) * group_size


class QuantizedFormat(StoredFormat):
    """A format of codes, quantized some rows at a time.

    Attributes:
        row_axis: the axis of output rows by stored tensor, where it is not the first.
    """

    quantizers = (RTN,)
    row_axis: ClassVar[Mapping[str, int]] = {}

    @abstractmethod
    def quantize_rows(self, weight: Tensor, quantizer: str) -> Tensors:
        """Return some rows (float32) as they are stored; no row may depend on another."""

    def quantize(self, weight: Tensor, dtype: torch.dtype, quantizer: str) -> Tensors:  # noqa: ARG002
        """Return a matrix as it is stored."""
        rows = max(1, CHUNK_WEIGHTS // weight.shape[1])
        parts = [
            self.quantize_rows(each.float(), quantizer) for each in weight.detach().split(rows)
        ]
        return {
            name: torch.cat([part[name] for part in parts], dim=self.row_axis.get(name, 0))
            for name in parts[0]
        }


class WeightKernel:
    """How the weights of a format are held in memory, and multiplied: here, decoded and densely.

    Attributes:
        stored_format: of the weights.
        fused_name: the operation that multiplies by weights as they are held, or None.
        is_by_row: whether it computes each row of inputs as if it were alone.
        row_step: blocks of output rows to be decoded begin at a multiple of this.
    """

    fused_name: str | None = None
    is_by_row = False
    row_step = 1

    def __init__(self, stored_format: StoredFormat) -> None:
        self.stored_format = stored_format

    def pack(self, stored: Tensors) -> Tensors:
        """Return what ``quantize`` gives as the kernel takes it; nothing is kept twice."""
        return {name: aligned(tensor) for name, tensor in stored.items()}

    def unpack(self, held: Tensors) -> Tensors:
        """Return what ``pack`` was given."""
        return held

    def fused(self, inputs: Tensor, held: Tensors, bias: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return the product of (tokens, padded in_features) in some floating-point type.

        Raises:
            InputError: there is no fused kernel; decode instead.
        """
        raise InputError(
            f"{self.stored_format.record.name} weights: expected a fused kernel, found none in "
            "this process; decode them (dense_from_tokens 0)"
        )

    def decode(self, held: Tensors, rows: slice) -> Tensor:
        """Return output rows as float32 numbers, transposed: (padded in_features, rows)."""
        return self.stored_format.decode(held, rows).t()


def aligned(tensor: Tensor) -> Tensor:
    """Return a tensor that begins where vectors are loaded whole: itself, or a copy."""
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT_BYTES else tensor


def biased(product: Tensor, bias: Tensor | None) -> Tensor:
    """Return a product with its bias, where it has one."""
    return product if bias is None else product + bias


def scale_that_covers(step: Tensor) -> Tensor:
    """Return steps (float32, >= 0) rounded up to bfloat16; 1 where all weights are equal.

    Raises:
        InputError: a step is no finite number, and so neither is a weight.
    """
    wrong = step.numel() - int(step.isfinite().sum())
    if wrong:
        raise InputError(
            f"weights to quantize: expected finite numbers, found {wrong} groups with others; "
            "the checkpoint is damaged, or was saved in a type too narrow for it"
        )
    rounded = step.contiguous().view(torch.int32).add(0xFFFF).bitwise_and_(-0x10000)
    return torch.where(step > 0, rounded.view(torch.float32), torch.ones_like(step))
