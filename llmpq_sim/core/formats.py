"""Weight formats: the one record of each, from its stored bytes to its symbol in layer maps.

Whatever the planner needs to know of a format follows from its record in ``FORMATS``. What stores,
decodes and multiplies it is a class of the runtime.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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
        group_bits: bits of all scales and zero points that a group carries; 0 for 16-bit formats.
        quantizer: how codes are chosen from weights, or None where weights are kept.
        steps: rounding steps between zero and the largest weight of a group. Of a grid that is not
            even, the steps of an even one with as much noise; None where none is known.
        rate_fraction: rate of matrix products where arithmetic limits them, relative to that of
            16-bit weights; above 1 the codes are multiplied without being decoded first.
        runs_anywhere: whether every device runs it, by decoding weights where no kernel exists.
        spellings: its names in the column ``quant`` of measurement tables.
        symbol: the character of a layer in layer maps, of this format alone.
        colour: of the symbol on a terminal, or empty.
        arithmetic: what a device must multiply for the rate: ``int8``, ``fp8`` or ``fp4``; empty
            where any does. Other devices decode the weights, or do not run the format.
        group_rows: output rows that share a group's scale.
        tensor_bits: bits that a whole matrix carries besides.
        fallback: the format of rows that are not whole groups, or empty where they are padded.
        engines: inference engines that serve it; ``torch`` is the runtime of ``llmpq deploy``.
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
    arithmetic: str = ""
    group_rows: int = 1
    tensor_bits: int = 0
    fallback: str = ""
    engines: tuple[str, ...] = ()

    @property
    def is_quantized(self) -> bool:
        """Whether weights are stored as codes that a kernel must decode."""
        return self.quantizer is not None

    @property
    def is_weight_only(self) -> bool:
        """Whether kernels decode codes and multiply in 16 bits: never faster in arithmetic."""
        return self.is_quantized and self.rate_fraction <= 1.0

    def rate_on(self, arithmetic: Collection[str]) -> float:
        """Return the rate fraction on a device, by the arithmetic that it has beside 16 bits."""
        if self.runs_anywhere and self.arithmetic and self.arithmetic not in arithmetic:
            return WEIGHT_ONLY_RATE
        return self.rate_fraction

    def of_rows(self, in_features: int) -> "WeightFormat":
        """Return the format in which rows of so many weights are stored: it, or its fallback."""
        fits = not self.fallback or in_features % (self.group_size or 1) == 0
        return self if fits else FORMATS[self.fallback].of_rows(in_features)

    def matrix_bytes(self, out_features: int, in_features: int) -> int:
        """Return the bytes of a stored matrix, with its scales and zero points.

        Codes are padded to whole bytes, and rows to whole groups where they have no fallback.
        """
        stored = self.of_rows(in_features)
        return stored._own_bytes(out_features, in_features)

    def _own_bytes(self, out_features: int, in_features: int) -> int:
        if not self.is_quantized:
            return out_features * in_features * self.bits // 8
        groups = 1 if self.group_size is None else math.ceil(in_features / self.group_size)
        groups *= math.ceil(out_features / self.group_rows)
        codes = math.ceil(out_features * in_features * self.bits / 8)
        return codes + math.ceil((groups * self.group_bits + self.tensor_bits) / 8)

    @cached_property
    def stored_bits(self) -> float:
        """Stored bits per weight of a matrix of 4096 x 4096, scales included."""
        side = 4096
        return self.matrix_bytes(side, side) * 8 / side**2

    def bits_per_weight(self) -> float:
        """Return the stored bits per weight, scales included."""
        return self.stored_bits


def _weight_only(
    name: str, bits: int, group: int | None, group_bits: int, how: str, *, steps: float, **more: Any
) -> WeightFormat:
    """Return a format that any device can decode and multiply in 16 bits."""
    rate = {"rate_fraction": WEIGHT_ONLY_RATE, "runs_anywhere": True} | more
    return WeightFormat(name, bits, group, group_bits, how, steps, **rate)


_CUDA_SERVERS = ("vllm", "sglang")
_TORCH_TOO = ("torch", *_CUDA_SERVERS)

_WITH_EIGHT_BIT_ACTIVATIONS = (
    WeightFormat(
        "w8a8-int8", 8, None, 32, "to nearest, per row; activations by token",
        steps=57, rate_fraction=2.0, arithmetic="int8", symbol="i", colour="bright_cyan",
        engines=_CUDA_SERVERS,
    ),
    WeightFormat(
        "w8a8-fp8", 8, None, 32, "to E4M3, per row; activations by token",
        steps=18.7, rate_fraction=2.0, arithmetic="fp8", spellings=("fp8",), symbol="E",
        colour="bright_blue", engines=_CUDA_SERVERS,
    ),
)  # fmt: skip
"""Multiplied as they are stored; others cannot run them. Steps count the noise of both factors."""

_PUBLISHED = (
    _weight_only(
        "fp8", 8, None, 32, "to E4M3, scale per output row or tensor",
        steps=26.4, symbol="e", colour="blue", engines=_TORCH_TOO,
    ),
    _weight_only(
        "fp8-block", 8, 128, 32, "to E4M3, scale per 128 x 128",
        steps=18.7, rate_fraction=2.0, arithmetic="fp8", group_rows=128, spellings=("fp8_block",),
        symbol="b", colour="dodger_blue2", engines=_TORCH_TOO,
    ),
    _weight_only(
        "nvfp4", 4, 16, 8, "to E2M1, E4M3 scale per 16",
        steps=5.2, rate_fraction=4.0, arithmetic="fp4", tensor_bits=32, spellings=("nvfp4",),
        symbol="n", colour="bright_green", engines=_TORCH_TOO,
    ),
    _weight_only(
        "mxfp4", 4, 32, 8, "to E2M1, power of two per 32",
        steps=6.1, spellings=("w4a16_mxfp4",), symbol="m", colour="spring_green2",
        engines=(*_TORCH_TOO, "llama.cpp"),
    ),
    _weight_only(
        "int4-g32", 4, 32, 20, "scale and whole zero per 32 (GPTQ, AWQ)",
        steps=8.65, symbol="h", colour="chartreuse3", engines=_TORCH_TOO,
    ),
    _weight_only(
        "int4-g128", 4, 128, 20, "scale and whole zero per 128 (GPTQ, AWQ)",
        steps=6.94, symbol="g", colour="dark_green", engines=_TORCH_TOO,
    ),
)  # fmt: skip
"""Formats of published checkpoints. Devices with the arithmetic multiply fp8-block and nvfp4 as
they are stored, by activations of as many bits, whose noise the steps count."""


def _gguf(
    name: str, bits: int, block: int, block_bytes: int, *, steps: float, **more: Any
) -> WeightFormat:
    """Return a GGUF type by the bytes of a block, scales and minima included."""
    how = f"ggml, {block_bytes} bytes for {block} weights"
    rest = 8 * block_bytes - bits * block
    defaults = {"fallback": "fp16", "engines": ("llama.cpp",)}
    return _weight_only(name, bits, block, rest, how, steps=steps, **{**defaults, **more})


_OF_GGUF = (
    _gguf("q8_0", 8, 32, 34, steps=130, symbol="Z", colour="cyan3"),
    _gguf("q6_k", 6, 256, 210, steps=39, fallback="q8_0", symbol="S", colour="deep_sky_blue1"),
    _gguf("q5_1", 5, 32, 24, steps=18.5, symbol="w", colour="gold3"),
    _gguf("q5_k", 5, 256, 176, steps=19.3, fallback="q5_1", symbol="V", colour="yellow"),
    _gguf("q5_0", 5, 32, 22, steps=16.4, symbol="v", colour="khaki3"),
    _gguf("q4_k", 4, 256, 144, steps=9.8, fallback="q5_0", symbol="K", colour="green_yellow"),
    _gguf("q4_0", 4, 32, 18, steps=8.1, symbol="O", colour="pale_green1"),
    _gguf("iq4_nl", 4, 32, 18, steps=9.2, symbol="x", colour="sea_green2"),
    _gguf("iq4_xs", 4, 256, 136, steps=9.1, fallback="iq4_nl", symbol="X", colour="sea_green3"),
    _gguf("q3_k", 3, 256, 110, steps=4.6, fallback="q4_0", symbol="T", colour="orange1"),
    _gguf("q2_k", 2, 256, 84, steps=2.35, fallback="q4_0", symbol="D", colour="red"),
)
"""Sizes: package gguf, ``GGML_QUANT_SIZES``. Steps are of what ``ggml_quantize_chunk`` makes of
normal weights (xllamacpp 2026.10). Fallbacks: llama.cpp, src/llama-quant.cpp,
``tensor_type_fallback``."""

_AFFINE = "round to nearest, scale and minimum per"

_OWN = (
    _weight_only(
        "int6",
        6,
        128,
        32,
        f"{_AFFINE} 128",
        steps=31,
        symbol="6",
        colour="turquoise2",
        engines=("torch",),
    ),
    _weight_only(
        "int5",
        5,
        128,
        32,
        f"{_AFFINE} 128",
        steps=15,
        symbol="5",
        colour="wheat1",
        engines=("torch",),
    ),
    _weight_only(
        "int2",
        2,
        64,
        32,
        f"{_AFFINE} 64",
        steps=1,
        symbol="2",
        colour="bright_red",
        engines=("torch",),
    ),
)
"""llmpq's own, like int8, int4 and int3, which are stored in bit planes with 16-bit scales. Steps
are ``2^(bits - 1) - 1`` (LLM-PQ, arXiv:2403.01136, Theorem 1)."""


def _widest_first(*formats: WeightFormat) -> list[WeightFormat]:
    return sorted(formats, key=lambda each: -each.stored_bits)


FORMATS = {
    fmt.name: fmt
    for fmt in _widest_first(
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
            engines=("torch", "vllm", "sglang", "llama.cpp"),
        ),
        WeightFormat(
            name="bf16",
            bits=16,
            group_size=None,
            group_bits=0,
            quantizer=None,
            symbol="B",
            colour="magenta",
            engines=("torch", "vllm", "sglang", "llama.cpp"),
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
            engines=("torch",),
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
            engines=("torch",),
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
            engines=("torch",),
        ),
        *_WITH_EIGHT_BIT_ACTIVATIONS,
        *_PUBLISHED,
        *_OF_GGUF,
        *_OWN,
    )
}
"""Every known format by name, the widest first."""

COMMON_FORMATS = ("fp16", "bf16", "int8", "int4", "int3")
"""Formats that tasks know of whether or not they are asked for; the others are there by name."""

ARITHMETIC = ("int8", "fp8", "fp4")
"""What devices may multiply, beside 16 bits."""

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
