"""Prefill and decode of a pipeline: how long each lasts, and the tokens that it computes.

A step is under way from when it begins at the first stage until its tokens are sampled at the last
one. The pipeline *prefills* while a step with prompt tokens is under way, and *decodes* while one
with decodes is, or the tokens that the next one needs are on their way back from the last stage to
the first. Both at once is common: stages work on different steps, and a step may hold both.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Phases:
    """What a pipeline did.

    Attributes:
        prefill_s: time for which it prefilled.
        prefill_tokens: prompt tokens computed: those recomputed after a preemption count again,
            those found in a cache do not.
        decode_s: time for which it decoded.
        decode_tokens: tokens decoded, which are all but the first of each request.
    """

    prefill_s: float
    prefill_tokens: int
    decode_s: float
    decode_tokens: int


class PassedStep(NamedTuple):
    """A step that has passed the pipeline.

    Attributes:
        began_s: instant at which the first stage began it.
        ended_s: instant at which the last stage had sampled its tokens.
        decodes: sequences that decoded one token each.
        prompt_tokens: tokens of prompts in it.
    """

    began_s: float
    ended_s: float
    decodes: int
    prompt_tokens: int


class Spans:
    """Time covered by intervals that are given in the order in which they begin, and end."""

    def __init__(self) -> None:
        self.began_s = self.ended_s = self._before_s = 0.0

    @property
    def total_s(self) -> float:
        """Time covered so far."""
        return self._before_s + (self.ended_s - self.began_s)

    def add(self, began_s: float, ended_s: float) -> None:
        """Add an interval."""
        if began_s > self.ended_s:
            self._before_s += self.ended_s - self.began_s
            self.began_s = began_s
        self.ended_s = ended_s


def phases_of(steps: Iterable[PassedStep]) -> Phases:
    """Return the phases of steps, in the order in which they entered the pipeline.

    Steps never overtake each other, so they end in this order too.
    """
    prefill, decode = Spans(), Spans()
    prefill_tokens = decode_tokens = 0
    last_s = 0.0
    for step in steps:
        if step.prompt_tokens:
            prefill.add(step.began_s, step.ended_s)
        if step.decodes:
            decode.add(min(step.began_s, last_s), step.ended_s)
        prefill_tokens += step.prompt_tokens
        decode_tokens += step.decodes
        last_s = step.ended_s
    return Phases(prefill.total_s, prefill_tokens, decode.total_s, decode_tokens)
