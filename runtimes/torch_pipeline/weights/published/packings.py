"""Packings: how the matrices of a published checkpoint become what a format here stores.

Nothing is rounded: codes, scales and zero points are those of the files, in another order.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS
from runtimes.torch_pipeline.weights.formats.base import Tensors
from runtimes.torch_pipeline.weights.formats.float8 import SQUARE
from runtimes.torch_pipeline.weights.formats.int4_zero import packed_zeros
from runtimes.torch_pipeline.weights.formats.registry import stored_format

Read = Callable[[str], Tensor]
"""Gives a tensor of a checkpoint by its name, in whatever type it is stored."""

DECODED_AS = {"w8a8-fp8": "fp8"}
"""Formats whose matrices are stored as another's. Activations stay at 16 bits here, which loses
less than plans say."""

CODES_OF_WORD = 8
"""4-bit codes in an int32."""

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Columns that the half bytes of a word hold, lowest first. Source: AutoAWQ, ``gemm`` version,
``awq/modules/linear/gemm.py``."""

SYMMETRIC_ZERO = 8
"""Zero of signed codes, stored with it added. Source: compressed-tensors, ``pack_to_int32``."""


@dataclass(frozen=True)
class Packing(ABC):
    """How one method stores a matrix ``module.weight``.

    Attributes:
        format_name: of the matrices, in this runtime.
        source: what says so, for errors.
    """

    format_name: str
    source: str

    @property
    @abstractmethod
    def leaf(self) -> str:
        """The tensor of a module that tells that it is quantized."""

    def modules(self, names: Collection[str]) -> frozenset[str]:
        """Return the modules whose weights are packed, of all names of tensors."""
        ending = f".{self.leaf}"
        return frozenset(name.removesuffix(ending) for name in names if name.endswith(ending))

    @abstractmethod
    def stored(self, read: Read, module: str) -> Tensors:
        """Return a matrix as its format stores it.

        Raises:
            InputError: tensors are of another shape or order than the method's.
        """

    def keeps(self, format_name: str) -> bool:
        """Return whether matrices are kept as they are stored where a plan has this format."""
        return DECODED_AS.get(format_name, format_name) == self.format_name

    def check_plan(self, layer_formats: Sequence[str]) -> None:
        """Check that a plan leaves matrices as they are stored, or has them at 16 bits.

        Raises:
            InputError: it does not, for some layer.
        """
        for layer, name in enumerate(layer_formats):
            if FORMATS[name].is_quantized and not self.keeps(name):
                raise InputError(
                    f"{self.source}: the plan has {name} in layer {layer}, where the checkpoint "
                    f"stores {self.format_name}; plan with the folder of this checkpoint"
                )

    def joined(self, parts: Sequence[Tensors]) -> Tensors:
        """Return matrices of one input as one matrix, their output rows in order."""
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def check(self, *, fits: bool, module: str, expected: str, found: object) -> None:
        """Raise InputError unless a tensor of a module is as the method has it."""
        if not fits:
            raise InputError(f"{self.source}: {module}: expected {expected}, got {found}")

    @property
    def group_size(self) -> int:
        """Weights of a row that share a scale."""
        return FORMATS[self.format_name].group_size or 0


def unpack_words(words: Tensor, order: Sequence[int] = range(CODES_OF_WORD)) -> Tensor:
    """Return the codes of int32 words, lowest first: uint8 of 8 times as many columns.

    Args:
        words: of shape (rows, columns).
        order: the place of each half byte's code among the 8 of its word.
    """
    shifts = torch.arange(0, 4 * CODES_OF_WORD, 4, dtype=torch.int32, device=words.device)
    codes = (words[..., None] >> shifts & 15).to(torch.uint8)
    placed = torch.empty_like(codes)
    placed[..., list(order)] = codes
    return placed.flatten(1)


@dataclass(frozen=True)
class _Int4(Packing):
    """Codes of 4 bits with whole zero points."""

    def _stored(self, module: str, codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensors:
        """Return codes (N, K), scales and zeros (N, G) packed, once their shapes agree."""
        rows, columns = codes.shape
        whole = columns % self.group_size == 0
        groups = (rows, columns // self.group_size)
        self.check(
            fits=whole and scales.shape == groups and zeros.shape == groups,
            module=module,
            expected=f"scales and zeros of groups of {self.group_size} for {rows} x {columns}",
            found=f"{list(scales.shape)} and {list(zeros.shape)}",
        )
        return packed_zeros(codes, scales.contiguous(), zeros)

    def _check_order(self, groups: Tensor, columns: int, module: str) -> None:
        plain = torch.arange(columns, dtype=groups.dtype) // self.group_size
        self.check(
            fits=torch.equal(groups, plain),
            module=module,
            expected="groups of neighbouring weights",
            found="a g_idx of another order (desc_act); quantize with desc_act false",
        )


@dataclass(frozen=True)
class Gptq(_Int4):
    """``qweight`` (K/8, N), ``qzeros`` (G, N/8), ``scales`` (G, N), perhaps ``g_idx`` (K).

    Attributes:
        zero_offset: added to zeros: 1 in the first version, 0 in the second.
        has_order: whether ``g_idx`` is there for every module.

    Source: AutoGPTQ, ``qlinear_cuda_old.py``; zeros wrap as ExLlama's kernels have it.
    """

    zero_offset: int
    has_order: bool

    @property
    def leaf(self) -> str:
        """Packed codes."""
        return "qweight"

    def stored(self, read: Read, module: str) -> Tensors:
        """Return codes transposed."""
        codes = unpack_words(read(f"{module}.qweight").t().contiguous())
        if self.has_order:
            self._check_order(read(f"{module}.g_idx"), codes.shape[1], module)
        zeros = unpack_words(read(f"{module}.qzeros")).add_(self.zero_offset).bitwise_and_(15)
        return self._stored(module, codes, read(f"{module}.scales").t(), zeros.t())


@dataclass(frozen=True)
class Awq(_Int4):
    """``qweight`` (K, N/8), ``qzeros`` (G, N/8) in AWQ's order, and ``scales`` (G, N)."""

    @property
    def leaf(self) -> str:
        """Packed codes."""
        return "qweight"

    def stored(self, read: Read, module: str) -> Tensors:
        """Return codes in order, transposed."""
        codes = unpack_words(read(f"{module}.qweight"), AWQ_ORDER).t().contiguous()
        zeros = unpack_words(read(f"{module}.qzeros"), AWQ_ORDER)
        return self._stored(module, codes, read(f"{module}.scales").t(), zeros.t())


@dataclass(frozen=True)
class PackQuantized(_Int4):
    """compressed-tensors: ``weight_packed`` (N, K/8), ``weight_scale`` (N, G), perhaps zeros.

    Attributes:
        is_symmetric: whether ``weight_zero_point`` is not there. It is packed along its rows,
            (N/8, G) int32, or int8 of (N, G).
        has_order: whether ``weight_g_idx`` is there for every module.
    """

    is_symmetric: bool
    has_order: bool

    @property
    def leaf(self) -> str:
        """Packed codes."""
        return "weight_packed"

    def stored(self, read: Read, module: str) -> Tensors:
        """Return codes, whose shape is stated, with zeros."""
        rows, columns = (int(side) for side in read(f"{module}.weight_shape"))
        codes = unpack_words(read(f"{module}.weight_packed"))[:, :columns].contiguous()
        self.check(
            fits=codes.shape == (rows, columns),
            module=module,
            expected=f"codes of {rows} x {columns} weights, as weight_shape says",
            found=list(codes.shape),
        )
        if self.has_order:
            self._check_order(read(f"{module}.weight_g_idx"), columns, module)
        scales = read(f"{module}.weight_scale")
        if self.is_symmetric:
            zeros = torch.full(scales.shape, SYMMETRIC_ZERO, dtype=torch.uint8)
        else:
            zeros = self._zeros(read(f"{module}.weight_zero_point"), rows)
        return self._stored(module, codes, scales, zeros)

    @staticmethod
    def _zeros(kept: Tensor, rows: int) -> Tensor:
        if kept.dtype != torch.int32:
            return kept.to(torch.int16).add_(SYMMETRIC_ZERO).to(torch.uint8)
        return unpack_words(kept.t().contiguous())[:, :rows].t()


@dataclass(frozen=True)
class Float8(Packing):
    """``weight`` F8_E4M3 (N, K) and a scale of the tensor, of each row, or of each square.

    Attributes:
        scales: their leaf: ``weight_scale`` or ``weight_scale_inv``, which multiplies too.
    """

    scales: str

    @property
    def leaf(self) -> str:
        """Scales; codes are called as 16-bit weights are."""
        return self.scales

    def stored(self, read: Read, module: str) -> Tensors:
        """Return codes as bytes, and float32 scales of rows or squares."""
        weight, scales = read(f"{module}.weight"), read(f"{module}.{self.scales}").float()
        self.check(
            fits=weight.dtype == torch.float8_e4m3fn and weight.ndim == 2,
            module=module,
            expected="a matrix of type F8_E4M3",
            found=f"{list(weight.shape)} of {weight.dtype}",
        )
        rows, columns = weight.shape
        if self.format_name == "fp8-block":
            shape = (-(-rows // SQUARE), -(-columns // SQUARE))
            fits, expected = scales.shape == shape, f"scales {list(shape)}, one for 128 x 128"
        else:
            fits = scales.numel() in (1, rows)
            expected = f"a scale for the tensor, or for each of {rows} rows"
        self.check(fits=fits, module=module, expected=expected, found=list(scales.shape))
        if self.format_name == "fp8":
            scales = scales.flatten().expand(rows).contiguous()
        return {"codes": weight.view(torch.uint8), "scales": scales}

    def joined(self, parts: Sequence[Tensors]) -> Tensors:
        """Return one matrix; squares of parts that are no whole ones have a scale for each row."""
        whole = all(part["codes"].shape[0] % SQUARE == 0 for part in parts[:-1])
        if self.format_name == "fp8-block" and not whole:
            known = stored_format(self.format_name)
            parts = [{**part, "scales": known.scales(part)} for part in parts]
        return super().joined(parts)
