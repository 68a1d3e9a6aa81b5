"""Candidates: assignments of formats to layers that are measured together.

Up to its first quantized layer an assignment computes what the 16-bit model computes. There it
*starts*; from there on it has hidden states of its own.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from llmpq_sim.core.formats import format_named


@dataclass(frozen=True)
class Candidate:
    """A format for each layer of a model."""

    formats: tuple[str, ...]

    @cached_property
    def start(self) -> int:
        """First quantized layer, or the number of layers where there is none."""
        quantized = (i for i, name in enumerate(self.formats) if is_quantized(name))
        return next(quantized, len(self.formats))


def is_quantized(format_name: str) -> bool:
    """Return whether a format keeps codes instead of weights."""
    return format_named(format_name, "weight format").is_quantized


def with_plain_format(formats: Sequence[str], plain: str) -> Candidate:
    """Return an assignment in which every layer that is not quantized has one and the same format.

    They are computed in the same type, whatever a plan calls it.
    """
    return Candidate(tuple(name if is_quantized(name) else plain for name in formats))


def single_layer_candidates(layers: int, formats: Sequence[str], plain: str) -> list[Candidate]:
    """Return assignments with one quantized layer, for each layer and format, in this order."""
    return [
        Candidate((*(plain,) * layer, name, *(plain,) * (layers - layer - 1)))
        for layer in range(layers)
        for name in formats
    ]


def mixed_candidates(
    layers: int, formats: Sequence[str], plain: str, count: int, seed: int
) -> list[Candidate]:
    """Return random assignments: each layer has any of the formats, or 16 bits, equally often."""
    draws = random.Random(seed)
    choices = (*formats, plain)
    return [Candidate(tuple(draws.choices(choices, k=layers))) for _ in range(count)]


def passing(
    candidates: Sequence[Candidate], layer: int, format_name: str
) -> list[tuple[int, bool]]:
    """Return which candidates pass a layer in a format, each with whether it starts there.

    Those that have not started yet are left out: the 16-bit model computes for them.
    """
    return [
        (number, candidate.start == layer)
        for number, candidate in enumerate(candidates)
        if candidate.start <= layer and candidate.formats[layer] == format_name
    ]


def formats_at(candidates: Sequence[Candidate], layer: int) -> list[str]:
    """Return the quantized formats in which a layer is needed, in order of first use."""
    names = dict.fromkeys(candidate.formats[layer] for candidate in candidates)
    return [name for name in names if is_quantized(name)]
