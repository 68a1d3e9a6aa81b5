"""Step of a micro-batch through every stage, and its announcement.

A *segment* is consecutive tokens of one sequence. Decodes come first, one token each; chunks of
prompts follow. Each sequence holds one row of every stage's KV cache. Before a step, rows may be
moved, so that those who decode together lie side by side when others have left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

END = -1
"""Number of the step that ends a run."""

HEADER = 4
"""Numbers before the segments: step, decodes, chunks, moves."""

SEGMENT = 5
MOVE = 2
INLINE = 256
"""Numbers in the first message of an announcement; longer ones take a second message."""


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of one sequence.

    Attributes:
        request: its position in the job.
        row: of the KV cache.
        start: tokens of the sequence before it, whose keys and values are in the row.
        tokens: how many.
        samples: whether the token after it is to be sampled.
    """

    request: int
    row: int
    start: int
    tokens: int
    samples: bool


@dataclass(frozen=True)
class Step:
    """One micro-batch of the pipeline.

    Attributes:
        number: counted from 0 in the order in which steps enter.
        decodes: segments of one generated token each.
        chunks: segments of prompts.
        moves: rows of the KV cache to be copied first, from and to.
    """

    number: int
    decodes: tuple[Segment, ...] = ()
    chunks: tuple[Segment, ...] = ()
    moves: tuple[tuple[int, int], ...] = ()

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments in the order of their tokens."""
        return self.decodes + self.chunks

    @cached_property
    def tokens(self) -> int:
        """Tokens that pass each stage."""
        return len(self.decodes) + self.prompt_tokens

    @cached_property
    def prompt_tokens(self) -> int:
        """Tokens of prompts among them."""
        return sum(segment.tokens for segment in self.chunks)

    @cached_property
    def sampled(self) -> tuple[Segment, ...]:
        """Segments after which a token is sampled."""
        return tuple(segment for segment in self.segments if segment.samples)

    @property
    def phases(self) -> "list[Step]":
        """Its decodes and its prompts as steps of their own, without moves; none is empty."""
        parts = (Step(self.number, self.decodes), Step(self.number, chunks=self.chunks))
        return [part for part in parts if part.tokens]

    @property
    def ends_run(self) -> bool:
        """Whether it is no work but the end."""
        return self.number == END


def encoded(step: Step) -> torch.Tensor:
    """Return a step as whole numbers. Shape: (at least INLINE,)."""
    numbers = [step.number, len(step.decodes), len(step.chunks), len(step.moves)]
    for part in step.segments:
        numbers += (part.request, part.row, part.start, part.tokens, int(part.samples))
    for move in step.moves:
        numbers += move
    numbers += [0] * (INLINE - len(numbers))
    return torch.tensor(numbers, dtype=torch.int64)


def encoded_length(head: Sequence[int]) -> int:
    """Return how many numbers an announcement has, from its header."""
    return max(INLINE, HEADER + SEGMENT * (head[1] + head[2]) + MOVE * head[3])


def decoded(numbers: Sequence[int]) -> Step:
    """Return the step that ``encoded`` wrote."""
    number, decodes, chunks, moves = numbers[:HEADER]
    end = HEADER + SEGMENT * (decodes + chunks)
    segments = tuple(_segment(numbers[at : at + SEGMENT]) for at in range(HEADER, end, SEGMENT))
    pairs = tuple((numbers[at], numbers[at + 1]) for at in range(end, end + MOVE * moves, MOVE))
    return Step(number, segments[:decodes], segments[decodes:], pairs)


def _segment(numbers: Sequence[int]) -> Segment:
    request, row, start, tokens, samples = numbers
    return Segment(request, row, start, tokens, bool(samples))
