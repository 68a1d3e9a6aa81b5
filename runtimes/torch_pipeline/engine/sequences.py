"""Sequences of a job: the progress of each request, and when it is finished."""

from dataclasses import dataclass, field
from typing import Protocol

from runtimes.base import Completion, EndedBy, TokenRequest
from runtimes.torch_pipeline.engine.step import Segment, Step


@dataclass(eq=False)
class LiveSequence:
    """A request that holds a row of the KV cache.

    Attributes:
        number: of the request in the job.
        request: what is asked.
        row: of the KV cache.
        computed_tokens: of the prompt, whose keys and values are in the row or on their way.
        tokens: generated so far.
        in_flight: whether a step under way holds it.
        ended_by: why it is finished, or None while it is not.
    """

    number: int
    request: TokenRequest
    row: int
    computed_tokens: int = 0
    tokens: list[int] = field(default_factory=list)
    in_flight: bool = False
    ended_by: EndedBy | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt)

    def chunk(self, tokens: int) -> Segment:
        """Return the next so many tokens of the prompt as a segment."""
        start = self.computed_tokens
        is_last = start + tokens == self.prompt_tokens
        return Segment(self.number, self.row, start, tokens, samples=is_last)

    def decode(self) -> Segment:
        """Return the last token generated as a segment."""
        start = self.prompt_tokens + len(self.tokens) - 1
        return Segment(self.number, self.row, start, 1, samples=True)

    def take(self, token: int) -> None:
        """Take a token that was sampled, and see whether it is the last."""
        self.tokens.append(token)
        if token in self.request.stop_tokens:
            self.ended_by = "stop"
        elif len(self.tokens) == self.request.output_tokens:
            self.ended_by = "length"

    def entering(self, segment: Segment) -> list[int]:
        """Return the token ids of one of its segments."""
        if segment.start >= self.prompt_tokens:
            return [self.tokens[segment.start - self.prompt_tokens]]
        return list(self.request.prompt[segment.start : segment.start + segment.tokens])


class Schedule(Protocol):
    """Decides which tokens make up each step."""

    def next_step(self, now_s: float) -> Step | None:
        """Return the next step, or None where nothing can be scheduled until one returns."""

    def token_ids(self, step: Step) -> list[int]:
        """Return the token ids that enter the pipeline with a step."""

    def take_back(self, step: Step, tokens: list[int]) -> list[Completion]:
        """Take the tokens sampled by a step, in its order, and return who is finished."""

    @property
    def is_done(self) -> bool:
        """Whether every request is finished."""

    def next_arrival_s(self, now_s: float) -> float | None:
        """Return when the next request that is not there yet arrives, or None."""


def finished(sequence: LiveSequence) -> Completion | None:
    """Return a sequence as it is reported, or None while it is not finished."""
    if sequence.ended_by is None:
        return None
    return Completion(sequence.number, tuple(sequence.tokens), sequence.ended_by)
