"""Distributions of prompt and output lengths."""

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Protocol

import numpy as np

from llmpq_sim.core import limits
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, kind_of
from llmpq_sim.core.records import Codec, Fraction, NotNegative, bounded, from_dict
from llmpq_sim.core.trace import FloatArray, IntArray

MOST_TOKENS = limits.MOST_REQUEST_TOKENS


class LengthLaw(Protocol):
    """A distribution of token counts."""

    def draw(self, requests: int, rng: np.random.Generator) -> IntArray:
        """Return one count of at least 1 per request."""


@dataclass(frozen=True)
class LengthTable:
    """Quantiles, between which the logarithm of the count is interpolated linearly.

    Attributes:
        knots: (cumulative probability from 0 to 1, tokens), both rising.
    """

    knots: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        shares = [share for share, _ in self.knots]
        tokens = [count for _, count in self.knots]
        rising = all(a < b for a, b in pairwise(shares)) and all(
            a <= b for a, b in pairwise(tokens)
        )
        if len(self.knots) < 2 or shares[0] != 0 or shares[-1] != 1 or not rising:
            raise InputError("expected knots that rise in probability from 0 to 1 and in tokens")
        if not 1 <= tokens[0] <= tokens[-1] <= MOST_TOKENS:
            raise InputError(f"expected knots of 1 to {MOST_TOKENS} tokens")

    def draw(self, requests: int, rng: np.random.Generator) -> IntArray:
        """Return quantiles of uniform numbers."""
        return self.quantile(rng.random(requests))

    def quantile(self, share: FloatArray) -> IntArray:
        """Return the counts below which these shares of requests are."""
        shares, tokens = zip(*self.knots, strict=True)
        return whole(np.exp(np.interp(share, shares, np.log(tokens))))


@dataclass(frozen=True)
class Lognormal:
    """Counts whose logarithm has mean ``mu`` and deviation ``sigma``, cut at ``most_tokens``."""

    mu: Annotated[float, bounded(0.0, 16.0)]
    sigma: Annotated[float, bounded(0.0, 5.0)]
    most_tokens: int

    def draw(self, requests: int, rng: np.random.Generator) -> IntArray:
        """Return independent counts."""
        drawn = rng.lognormal(self.mu, self.sigma, requests)
        return whole(np.minimum(drawn, self.most_tokens))


@dataclass(frozen=True)
class Normal:
    """Counts of this mean and deviation, at least 1."""

    mean_tokens: float
    deviation_tokens: NotNegative

    def draw(self, requests: int, rng: np.random.Generator) -> IntArray:
        """Return independent counts."""
        return whole(rng.normal(self.mean_tokens, self.deviation_tokens, requests))


def _most_tokens(fields: Fields, key: str) -> int:
    return fields.integer(key, least=fields.integer("least_tokens"))


@dataclass(frozen=True)
class Uniform:
    """Whole counts from least to most, both included; a fixed count where they are equal."""

    least_tokens: int
    most_tokens: Annotated[int, Codec(_most_tokens)]

    def draw(self, requests: int, rng: np.random.Generator) -> IntArray:
        """Return independent counts."""
        return rng.integers(self.least_tokens, self.most_tokens, requests, endpoint=True)


@dataclass(frozen=True)
class BatchShare:
    """One count for all requests of a workload: a share of ``tokens``, from ``least_share`` to 1.

    Source: the varying workload of LLM-PQ's runtime, which draws floor(n U(lower, 1)) per batch.
    """

    tokens: int
    least_share: Fraction

    def draw(self, requests: int, rng: np.random.Generator) -> IntArray:
        """Return the same count for every request."""
        drawn = math.floor(self.tokens * rng.uniform(self.least_share, 1))
        return np.full(requests, max(drawn, 1), dtype=np.int64)


LAWS = {"lognormal": Lognormal, "normal": Normal, "uniform": Uniform, "batch-share": BatchShare}


def read_law(fields: Fields, name: str) -> LengthLaw:
    """Return a law: a count, a table such as ``0:6 0.5:13 1:1899``, or a mapping that names it.

    Raises:
        InputError: it describes none.
    """
    value = fields.value(name)
    if isinstance(value, str):
        return _table(value, f"{fields.where}.{name}")
    if not isinstance(value, dict):
        tokens = fields.integer(name)
        return Uniform(tokens, tokens)
    law = fields.fields(name)
    return from_dict(LAWS[law.choice("law", tuple(LAWS))], law)


Law = Annotated[LengthLaw, Codec(read_law)]


def _table(text: str, where: str) -> LengthTable:
    knots = []
    for knot in text.split():
        share, _, tokens = knot.partition(":")
        try:
            knots.append((float(share), float(tokens)))
        except ValueError:
            raise InputError(
                f"{where}: expected knots such as 0.5:1024, got {kind_of(knot)}"
            ) from None
    try:
        return LengthTable(tuple(knots))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _outputs(fields: Fields, key: str) -> tuple[tuple[int | None, LengthLaw], ...]:
    """Return laws by the prompts below which they hold, or the one of ``output`` for all."""
    if fields.has("output"):
        return ((None, read_law(fields, "output")),)
    outputs = []
    for item in fields.each(key):
        with item:
            below = item.integer("prompt_below") if item.has("prompt_below") else None
            outputs.append((below, read_law(item, "output")))
    bounds = [below for below, _ in outputs]
    finite = [below for below in bounds[:-1] if below is not None]
    if not bounds or bounds[-1] is not None or sorted(set(finite)) != bounds[:-1]:
        raise InputError(
            f"{fields.where}.{key}: expected rising prompt_below, and none in the last entry"
        )
    return tuple(outputs)


@dataclass(frozen=True)
class RequestLengths:
    """Lengths of prompts, and of outputs given the prompt.

    Attributes:
        prompt: law of prompts.
        outputs: (prompt length below which it holds, law of outputs), rising; the last holds for
            every longer prompt too, and its length is None.
    """

    prompt: Law
    outputs: Annotated[tuple[tuple[int | None, LengthLaw], ...], Codec(_outputs)]

    def draw(self, requests: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Return the tokens of each prompt and of its output."""
        prompt_tokens = self.prompt.draw(requests, rng)
        return prompt_tokens, self.draw_outputs(prompt_tokens, rng)

    def draw_outputs(self, prompt_tokens: IntArray, rng: np.random.Generator) -> IntArray:
        """Return the tokens of an output for each prompt."""
        bounds = [below for below, _ in self.outputs if below is not None]
        law_of_row = np.searchsorted(bounds, prompt_tokens, side="right")
        output_tokens = np.ones(len(prompt_tokens), dtype=np.int64)
        for number, (_, law) in enumerate(self.outputs):
            rows = np.flatnonzero(law_of_row == number)
            output_tokens[rows] = law.draw(len(rows), rng)
        return output_tokens


def independent(prompt: LengthLaw, output: LengthLaw) -> RequestLengths:
    """Return lengths of outputs that do not depend on the prompt."""
    return RequestLengths(prompt, ((None, output),))


def whole(tokens: FloatArray) -> IntArray:
    """Return the nearest whole counts, from 1 to the most that any request has."""
    return np.clip(np.rint(tokens), 1, MOST_TOKENS).astype(np.int64)


# ---- the notation of options

_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
_PAIR = rf"\({_NUMBER},{_NUMBER}\)"
_NOTATIONS = {
    "D": re.compile(rf"D{_PAIR}"),
    "N": re.compile(rf"N{_PAIR}/{_PAIR}"),
    "U": re.compile(rf"U{_PAIR}/{_PAIR}"),
}


def lengths_from_text(text: str) -> RequestLengths:
    """Return the lengths that an option describes.

    ``D(in,out)`` are fixed lengths, ``N(mean,deviation)/(mean,deviation)`` normal and
    ``U(least,most)/(least,most)`` uniform ones, of prompts before the slash and outputs after it.
    Source: the traffic scenarios of genai-bench.

    Raises:
        InputError: it describes none, or a length is below 1 or out of order.
    """
    for kind, notation in _NOTATIONS.items():
        if match := notation.fullmatch(text.strip()):
            return _described(kind, [float(number) for number in match.groups()], text)
    raise InputError(
        "--lengths: expected D(in,out), N(mean,deviation)/(mean,deviation) or "
        f"U(least,most)/(least,most), got {text!r}"
    )


def _described(kind: str, numbers: list[float], text: str) -> RequestLengths:
    if kind == "D":
        prompt, output = numbers
        numbers = [prompt, prompt, output, output]
    lengths = numbers[::2] if kind == "N" else numbers
    if min(lengths) < 1 or max(lengths) > MOST_TOKENS:
        raise InputError(f"--lengths: expected lengths of 1 to {MOST_TOKENS} tokens, got {text!r}")
    if kind == "N":
        return independent(Normal(*numbers[:2]), Normal(*numbers[2:]))
    counts = [int(number) for number in numbers]
    if counts != numbers or counts[0] > counts[1] or counts[2] > counts[3]:
        raise InputError(f"--lengths: expected whole tokens, the least first, got {text!r}")
    return independent(Uniform(*counts[:2]), Uniform(*counts[2:]))
