"""Weight formats: stored bytes of each, scales included."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmpq_sim.core.errors import InputError


@dataclass(frozen=True)
class WeightFormat:
    """How the weights of a linear operator are stored.

    Attributes:
        name: what plans, profiles and options call it.
        bits: bits of one code; the paper's bitwidth.
        group_size: weights of one output row that share a scale, or None for the whole row.
        group_bits: bits of scale and zero point that a group carries; 0 for 16-bit formats.
        quantizer: how codes are chosen from weights, or None where weights are kept.
    """

    name: str
    bits: int
    group_size: int | None
    group_bits: int
    quantizer: str | None

    @property
    def is_quantized(self) -> bool:
        """Whether weights are stored as codes that a kernel must decode."""
        return self.quantizer is not None

    def matrix_bytes(self, out_features: int, in_features: int) -> int:
        """Return the bytes of a stored matrix, with its scales and zero points.

        Codes are padded to whole bytes and rows to whole groups.
        """
        if not self.is_quantized:
            return out_features * in_features * self.bits // 8
        groups = 1 if self.group_size is None else math.ceil(in_features / self.group_size)
        codes = math.ceil(out_features * in_features * self.bits / 8)
        return codes + out_features * groups * self.group_bits // 8

    def bits_per_weight(self) -> float:
        """Return the asymptotic stored bits per weight, scales included (rows of 4096)."""
        row = 4096
        return self.matrix_bytes(1, row) * 8 / row


FORMATS = {
    fmt.name: fmt
    for fmt in (
        WeightFormat("fp16", 16, None, 0, None),
        WeightFormat("bf16", 16, None, 0, None),
        WeightFormat("int8", 8, None, 16, "round to nearest, symmetric, per output row"),
        WeightFormat("int4", 4, 128, 32, "round to nearest, scale and minimum per 128"),
        WeightFormat("int3", 3, 64, 32, "round to nearest, scale and minimum per 64"),
    )
}
"""Every known format by name. int3 is stored in bit planes, 3.5 bits with scale and minimum."""

PAPER_FORMATS = ("int3", "int4", "int8", "fp16")
"""LLM-PQ's bitwidths 3, 4, 8 and 16 (arXiv:2403.01136, sec. 4)."""


def check_distinct(names: Sequence[str], where: str) -> None:
    """Raise InputError if a name occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{where}: expected distinct names, got {name!r} more than once")
        seen.add(name)


def format_named(name: str, where: str) -> WeightFormat:
    """Return the format of this name.

    Raises:
        InputError: there is none.
    """
    if name not in FORMATS:
        raise InputError(f"{where}: expected a weight format ({', '.join(FORMATS)}), got {name!r}")
    return FORMATS[name]
