"""Linear layer whose weights are kept in a format, for few tokens and for many.

Few tokens: a fused kernel reads the codes, which are far fewer bytes. Many: codes are decoded, a
block of output rows at a time, and multiplied densely, which is several times faster by then. Where
the one overtakes the other depends on the machine; a profile should say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmpq_sim.core.errors import InputError
from runtimes.torch_pipeline.weights.formats.registry import STORED_FORMATS, stored_format
from runtimes.torch_pipeline.weights.formats.stored_format import (
    RTN,
    Tensors,
    WeightKernel,
    aligned,
)
from runtimes.torch_pipeline.weights.kernels import dense_dtype, kernel_for
from runtimes.torch_pipeline.weights.quantizers import quantize
from runtimes.torch_pipeline.weights.torch_operators import changes

BLOCK_WEIGHTS: Mapping[str, int] = {"cpu": 1 << 19, "cuda": 1 << 24}
"""Weights decoded at once, by kind of device: no workspace is larger, in the cache of a CPU."""

NEVER = 2**31 - 1
"""More tokens than any step has: a format whose fused kernel is always used."""


@dataclass(frozen=True)
class KernelChoice:
    """Which kernel multiplies how many tokens.

    Attributes:
        dense_from_tokens: tokens in a step from which on weights are decoded, by format; for a
            format that is missing, the default of its class holds.
    """

    dense_from_tokens: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def dense_only(cls) -> "KernelChoice":
        """Return the choice that never takes a fused kernel."""
        return cls(dict.fromkeys(STORED_FORMATS, 0))

    def switch_tokens(self, format_name: str, device: torch.device) -> int:
        """Return the tokens from which on a format is multiplied densely on a device."""
        default = stored_format(format_name).dense_from_tokens.get(device.type, 0)
        return self.dense_from_tokens.get(format_name, default)


@dataclass
class FixedTiles:
    """How many rows each dense product has, so that none depends on how many there are.

    Attributes:
        rows: of a tile; whoever computes sets it before each step.
    """

    rows: int


class StoredLinear(nn.Module):
    """``y = x W^T + bias`` with W kept in a format, and in no other.

    Make one with ``linear_from_weight`` or ``linear_from_stored``. It must not be converted to
    another type as a whole (``Module.to(dtype)``): scales belong to their kernel.

    Attributes:
        format_name: of the weights.
        in_features, out_features: of W.
        kernel: how weights are held and multiplied.
        matmul_dtype: of decoded weights.
        dense_from_tokens: tokens from which on they are decoded.
        bias: of shape (out_features), or None.
        tiles: of its products, or None to compute all rows at once.
    """

    bias: Tensor | None
    tiles: FixedTiles | None = None

    def __init__(
        self,
        format_name: str,
        kernel: WeightKernel,
        held: Tensors,
        bias: Tensor | None,
        shape: tuple[int, int],
        matmul_dtype: torch.dtype,
        dense_from_tokens: int,
    ) -> None:
        super().__init__()
        self.format_name = format_name
        self.kernel = kernel
        self.out_features, self.in_features = shape
        self.matmul_dtype = matmul_dtype
        self.dense_from_tokens = dense_from_tokens
        self._names = tuple(held)
        for name, tensor in held.items():
            self.register_buffer(f"held_{name}", tensor, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the weights as they are held, without the bias."""
        return sum(tensor.nbytes for tensor in self._held().values())

    def is_dense(self, tokens: int) -> bool:
        """Return whether so many tokens are multiplied by decoded weights."""
        if stored_format(self.format_name).is_decoded(self._held(), self.matmul_dtype):
            return False
        return self.kernel.fused_name is None or tokens >= self.dense_from_tokens

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the product in the type of its inputs, of shape (..., in_features)."""
        tokens = inputs.numel() // self.in_features
        flat = inputs.reshape(tokens, self.in_features)
        missing = stored_format(self.format_name).padded(self.in_features) - self.in_features
        if missing:
            flat = functional.pad(flat, (0, missing))
        if not tokens:
            product = flat.new_zeros(0, self.out_features)
        elif self.tiles is None:
            product = self._product(flat, tokens)
        else:
            product = self._tiled(flat, self.tiles.rows)
        return product.to(inputs.dtype).view(*inputs.shape[:-1], self.out_features)

    def _product(self, inputs: Tensor, rows: int) -> Tensor:
        """Return the product in the way of so many rows, which are those of a dense product."""
        if self.is_dense(rows):
            return self._dense(inputs, rows)
        return self.kernel.fused(inputs.contiguous(), self._held(), self.bias)

    def _tiled(self, inputs: Tensor, rows: int) -> Tensor:
        """Return the product, tiles of so many rows each computed as if there were no other.

        Fused kernels that compute each row by itself need none.
        """
        is_dense = self.is_dense(rows)
        if self.kernel.is_by_row and not is_dense:
            return self._product(inputs, rows)
        tokens = inputs.shape[0]
        inputs = functional.pad(inputs, (0, 0, 0, -tokens % rows))
        if is_dense:
            return self._dense(inputs, rows)[:tokens]
        parts = [self._product(aligned(part), rows) for part in inputs.split(rows)]
        return torch.cat(parts)[:tokens]

    def _held(self) -> Tensors:
        return {name: self.get_buffer(f"held_{name}") for name in self._names}

    def _dense(self, inputs: Tensor, tile_rows: int) -> Tensor:
        held, inputs = self._held(), inputs.to(self.matmul_dtype)
        product = inputs.new_empty(inputs.shape[0], self.out_features)
        for rows in self.blocks():
            decoded = self.kernel.decode(held, rows).to(self.matmul_dtype)
            for tile, out in zip(inputs.split(tile_rows), product.split(tile_rows), strict=True):
                if self.tiles is None:
                    torch.mm(tile, decoded, out=out[:, rows])
                else:  # computed where no neighbour decides how memory is aligned
                    out[:, rows] = torch.mm(aligned(tile), decoded)
        return product if self.bias is None else product + self.bias

    def blocks(self) -> list[slice]:
        """Return the blocks of output rows in which weights are decoded."""
        device_type = self.get_buffer(f"held_{self._names[0]}").device.type
        row_weights = stored_format(self.format_name).padded(self.in_features)
        most = BLOCK_WEIGHTS[device_type] // row_weights
        step = max(1, most // self.kernel.row_step) * self.kernel.row_step
        starts = range(0, self.out_features, step)
        return [slice(start, min(start + step, self.out_features)) for start in starts]


def linear_from_weight(
    weight: Tensor,
    bias: Tensor | None,
    format_name: str,
    device: torch.device,
    compute_dtype: torch.dtype,
    choice: KernelChoice | None = None,
    quantizer: str = RTN,
) -> StoredLinear:
    """Quantize a matrix where it lies and return the operator; the matrix is not kept.

    Args:
        weight: of shape (out_features, in_features).
        bias: of shape (out_features), or None.
        format_name: in which the weight is to be kept.
        device: on which it is to be multiplied.
        compute_dtype: of what is not quantized.
        choice: of kernels; None for the defaults.
        quantizer: how codes are chosen, one of ``quantizers.QUANTIZERS``.

    Raises:
        InputError: there is no such format or quantizer, they do not go together, or some weight is
            not a finite number.
    """
    out_features, in_features = weight.shape
    stored = quantize(weight, format_name, compute_dtype, quantizer)
    return linear_from_stored(
        stored, (out_features, in_features), bias, format_name, device, compute_dtype, choice
    )


def linear_from_stored(
    stored: Mapping[str, Tensor],
    shape: tuple[int, int],
    bias: Tensor | None,
    format_name: str,
    device: torch.device,
    compute_dtype: torch.dtype,
    choice: KernelChoice | None = None,
) -> StoredLinear:
    """Return the operator of weights that ``quantize`` gave, perhaps in another process.

    Args:
        stored: what ``quantize`` gave; kept, where it need not be moved or reordered.
        shape: (out_features, in_features).
        bias: of shape (out_features), or None.
        format_name: in which the weights are stored.
        device: on which they are to be multiplied.
        compute_dtype: of what is not quantized.
        choice: of kernels; None for the defaults.

    Raises:
        InputError: there is no such format.
    """
    kernel = kernel_for(format_name, device, shape, compute_dtype)
    held = kernel.pack({name: tensor.to(device) for name, tensor in stored.items()})
    kept_bias = None if bias is None else bias.detach().to(device, compute_dtype, copy=True)
    switch = (choice or KernelChoice()).switch_tokens(format_name, device)
    dtype = dense_dtype(device, compute_dtype)
    return StoredLinear(format_name, kernel, held, kept_bias, shape, dtype, switch)


class _SharedProduct:
    """The product that the parts of one operator take their slices from."""

    def __init__(self, linear: StoredLinear) -> None:
        self._linear = linear
        self._inputs: Tensor | None = None
        self._version = -1
        self._product: Tensor | None = None

    def compute(self, inputs: Tensor) -> Tensor:
        """Compute the product and keep it with its inputs."""
        self._product = self._linear(inputs)
        self._inputs, self._version = inputs, changes(inputs)
        return self._product

    def of(self, inputs: Tensor) -> Tensor:
        """Return the kept product where it is of this very tensor, and else another."""
        is_same = inputs is self._inputs and changes(inputs) == self._version
        if is_same and self._product is not None:
            return self._product
        return self._linear(inputs)

    def drop(self) -> None:
        """Keep nothing."""
        self._inputs = self._product = None


OWNED = "linear"
"""What the first of several parts calls the operator that they share."""


class LinearPart(nn.Module):
    """A slice of the outputs of an operator that several modules share, see ``fused_parts``."""

    def __init__(
        self, shared: _SharedProduct, outputs: slice, is_first: bool, is_last: bool
    ) -> None:
        super().__init__()
        self._shared = shared
        self._outputs = outputs
        self._is_first = is_first
        self._is_last = is_last

    def forward(self, inputs: Tensor) -> Tensor:
        """Return this part's features of the product."""
        shared = self._shared
        product = shared.compute(inputs) if self._is_first else shared.of(inputs)
        if self._is_last:
            shared.drop()
        return product[..., self._outputs]


def fused_parts(linear: StoredLinear, widths: Sequence[int]) -> list[nn.Module]:
    """Return modules that together stand for one operator with concatenated output features.

    The first, called with some inputs, computes the whole product; the following ones, called with
    the same tensor, return their slices of it, and the last one drops it. In another order, or with
    another tensor, each computes for itself.

    Args:
        linear: such as query, key and value projections in one.
        widths: output features of each part, in order.

    Raises:
        InputError: the widths do not add up to the operator's.
    """
    if sum(widths) != linear.out_features or min(widths, default=0) < 1:
        raise InputError(
            f"fused_parts: expected widths that add up to {linear.out_features} output features, "
            f"found {list(widths)}"
        )
    shared = _SharedProduct(linear)
    parts: list[nn.Module] = []
    start = 0
    for number, width in enumerate(widths):
        outputs = slice(start, start + width)
        parts.append(LinearPart(shared, outputs, number == 0, number == len(widths) - 1))
        start += width
    setattr(parts[0], OWNED, linear)  # one owner, so that its memory is counted and moved once
    return parts
