"""Weight formats: the one record of each, from its stored bytes to its symbol in layer maps.

Whatever the planner needs to know of a format follows from its record in ``FORMATS``. What stores,
decodes and multiplies it is a class of the runtime.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmpq_sim.core.errors import InputError

WEIGHT_ONLY_RATE = 0.95
"""Share of the 16-bit rate that weight-only kernels keep where arithmetic limits them: measured
between 0.9 and 1.0 on four devices, never a gain."""


@dataclass(frozen=True)
class WeightFormat:
    """How the weights of a linear operator are stored, and what follows for plans.

    Attributes:
        name: what plans, profiles and options call it.
        bits: bits of one code; the paper's bitwidth.
        group_size: weights of one output row that share a scale, or None for the whole row.
        group_bits: bits of scale and zero point that a group carries; 0 for 16-bit formats.
        quantizer: how codes are chosen from weights, or None where weights are kept.
        steps: rounding steps between zero and the largest weight of a group. Of a grid that is not
            even, the steps of an even one with as much noise; None where none is known.
        rate_fraction: rate of matrix products where arithmetic limits them, relative to that of
            16-bit weights; above 1 the codes are multiplied without being decoded first.
        runs_anywhere: whether every device runs it, by decoding weights where no kernel exists.
        spellings: its names in the column ``quant`` of measurement tables.
        symbol: the character of a layer in layer maps, of this format alone.
        colour: of the symbol on a terminal, or empty.
    """

    name: str
    bits: int
    group_size: int | None
    group_bits: int
    quantizer: str | None
    steps: float | None = None
    rate_fraction: float = 1.0
    runs_anywhere: bool = False
    spellings: tuple[str, ...] = ()
    symbol: str = ""
    colour: str = ""

    @property
    def is_quantized(self) -> bool:
        """Whether weights are stored as codes that a kernel must decode."""
        return self.quantizer is not None

    @property
    def is_weight_only(self) -> bool:
        """Whether kernels decode codes and multiply in 16 bits: never faster in arithmetic."""
        return self.is_quantized and self.rate_fraction <= 1.0

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
        WeightFormat(
            name="fp16",
            bits=16,
            group_size=None,
            group_bits=0,
            quantizer=None,
            runs_anywhere=True,
            spellings=("fp16", "bf16"),  # the 16-bit types share one table of times
            symbol="F",
            colour="magenta",
        ),
        WeightFormat(
            name="bf16",
            bits=16,
            group_size=None,
            group_bits=0,
            quantizer=None,
            symbol="B",
            colour="magenta",
        ),
        WeightFormat(
            name="int8",
            bits=8,
            group_size=None,
            group_bits=16,
            quantizer="round to nearest, symmetric, per output row",
            steps=127,
            rate_fraction=WEIGHT_ONLY_RATE,
            runs_anywhere=True,
            spellings=("int8", "int8_wo"),
            symbol="8",
            colour="cyan",
        ),
        WeightFormat(
            name="int4",
            bits=4,
            group_size=128,
            group_bits=32,
            quantizer="round to nearest, scale and minimum per 128",
            steps=7,
            rate_fraction=WEIGHT_ONLY_RATE,
            runs_anywhere=True,
            spellings=("int4", "int4_wo"),
            symbol="4",
            colour="green",
        ),
        WeightFormat(
            name="int3",
            bits=3,
            group_size=64,
            group_bits=32,
            quantizer="round to nearest, scale and minimum per 64",
            steps=3,
            rate_fraction=WEIGHT_ONLY_RATE,
            runs_anywhere=True,
            spellings=("int3", "int3_wo"),
            symbol="3",
        ),
    )
}
"""Every known format by name. int3 is stored in bit planes, 3.5 bits with scale and minimum. Steps
are ``2^(bits - 1) - 1`` (LLM-PQ, arXiv:2403.01136, Theorem 1)."""

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


def format_spelled(spelling: str) -> str:
    """Return the name of the format that measurement tables spell so, empty if there is none."""
    return next((name for name, each in FORMATS.items() if spelling in each.spellings), "")


def share_times(name: str, other: str) -> bool:
    """Return whether two formats are 16-bit types, which share one table of times."""
    return not (FORMATS[name].is_quantized or FORMATS[other].is_quantized)
