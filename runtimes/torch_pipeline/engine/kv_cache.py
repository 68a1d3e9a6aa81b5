"""KV cache of a stage, and the rows that a step touches.

One cache for the whole stage, in which a micro-batch is some rows: prefill and decode cut a batch
differently without copying.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from runtimes.torch_pipeline.engine.step import Segment, Step

KEPT_ELEMENTS = 1 << 20
"""Elements up to which a step keeps the mask of prompts for all its layers: 1 MiB. Making a larger
one anew is nothing beside the attention under it."""


class KvCache:
    """Keys and values of every layer of a stage.

    Attributes:
        stored: (layers, 2, rows, KV heads, context tokens, head width).
    """

    def __init__(self, stored: torch.Tensor) -> None:
        self.stored = stored

    def of_layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of a layer, (rows, KV heads, context tokens, head width) each."""
        return self.stored[layer, 0], self.stored[layer, 1]

    def move(self, moves: Sequence[tuple[int, int]]) -> None:
        """Copy rows, one after another."""
        for source, target in moves:
            self.stored[:, :, target] = self.stored[:, :, source]


@dataclass(frozen=True)
class Chunks:
    """Prompt chunks of equal start and length in consecutive rows, attended to at once.

    Attributes:
        first_token: position of their first token in the step.
        first_row, rows: where their keys and values are.
        start, tokens: of each chunk.
    """

    first_token: int
    first_row: int
    rows: int
    start: int
    tokens: int

    @property
    def span(self) -> int:
        """Context tokens that the last token of a chunk attends to."""
        return self.start + self.tokens


class StepLayout:
    """Which tokens of a step are where, worked out once for all layers of a stage.

    Attributes:
        device: where index tensors are.
        decodes: number of tokens that decode; they come first.
        span: most context tokens that one of them attends to.
        chunks: prompt chunks that can be computed together.
    """

    def __init__(self, step: Step, device: torch.device) -> None:
        self.device = device
        self.decodes = len(step.decodes)
        self.span = max((part.start + 1 for part in step.decodes), default=0)
        self.chunks = _merged(step.chunks, len(step.decodes))
        self._decode_rows = [part.row for part in step.decodes]
        self._decode_starts = [part.start for part in step.decodes]
        self._segments = step.segments
        self._masks: dict[tuple[str, int, int, int | None], torch.Tensor] = {}

    @cached_property
    def positions(self) -> torch.Tensor:
        """Position of each token in its sequence. Shape: (tokens,)."""
        parts = [self._decode_starts]
        parts += [list(range(s.start, s.start + s.tokens)) for s in self._segments[self.decodes :]]
        flat = [position for part in parts for position in part]
        return torch.tensor(flat, dtype=torch.int64, device=self.device)

    @cached_property
    def decode_rows(self) -> torch.Tensor:
        """Row of each decode. Shape: (decodes,)."""
        return torch.tensor(self._decode_rows, dtype=torch.int64, device=self.device)

    @cached_property
    def decode_starts(self) -> torch.Tensor:
        """Position at which each decode's key and value go. Shape: (decodes,)."""
        return torch.tensor(self._decode_starts, dtype=torch.int64, device=self.device)

    @property
    def decode_places(self) -> list[tuple[int, int]]:
        """Row of each decode, and the position of its token."""
        return list(zip(self._decode_rows, self._decode_starts, strict=True))

    @cached_property
    def decode_range(self) -> slice | None:
        """The decodes' rows as a range, or None where they are not consecutive."""
        first = self._decode_rows[0]
        if self._decode_rows != list(range(first, first + self.decodes)):
            return None
        return slice(first, first + self.decodes)

    def decode_mask(self, window: int | None) -> torch.Tensor | None:
        """Return which keys each decode sees, (decodes, 1, 1, span); None where it is all."""
        least = min(self._decode_starts)
        if least + 1 == self.span and (window is None or self.span <= window):
            return None
        return self.mask_of_decodes(window)

    def mask_of_decodes(self, window: int | None) -> torch.Tensor:
        """Return which keys each decode sees, (decodes, 1, 1, span), also where it is all."""
        key = ("decode", 0, self.span, window)
        if key not in self._masks:
            keys = torch.arange(self.span, device=self.device)
            starts = self.decode_starts[:, None]
            seen = keys <= starts
            if window is not None:
                seen &= keys > starts - window
            self._masks[key] = seen[:, None, None, :]
        return self._masks[key]

    def is_causal(self, number: int, window: int | None) -> bool:
        """Return whether tokens of chunks see all keys from the first one to their own."""
        chunks = self.chunks[number]
        return chunks.start == 0 and (window is None or chunks.span <= window)

    def seen_keys(self, first: int, tokens: int, window: int | None) -> torch.Tensor:
        """Return which keys tokens from a position on see. Shape: (tokens, first + tokens).

        Small masks are kept for the layers that follow.
        """
        key, end = ("prompt", first, first + tokens, window), first + tokens
        if key in self._masks:
            return self._masks[key]
        keys = torch.arange(end, device=self.device)
        queries = torch.arange(first, end, device=self.device)[:, None]
        seen = keys <= queries
        if window is not None:
            seen &= keys > queries - window
        if seen.numel() <= KEPT_ELEMENTS:
            self._masks[key] = seen
        return seen

    @cached_property
    def sampled_tokens(self) -> torch.Tensor:
        """Position in the step of each token after which one is sampled. Shape: (samples,)."""
        ends, at = [], 0
        for part in self._segments:
            at += part.tokens
            if part.samples:
                ends.append(at - 1)
        return torch.tensor(ends, dtype=torch.int64, device=self.device)


def _merged(chunks: Sequence[Segment], first_token: int) -> tuple[Chunks, ...]:
    """Return chunks with those of equal start and length in consecutive rows put together."""
    merged: list[Chunks] = []
    for part in chunks:
        last = merged[-1] if merged else None
        alike = last and (last.start, last.tokens) == (part.start, part.tokens)
        if last and alike and part.row == last.first_row + last.rows:
            merged[-1] = Chunks(last.first_token, last.first_row, last.rows + 1, *_size(part))
        else:
            merged.append(Chunks(first_token, part.row, 1, *_size(part)))
        first_token += part.tokens
    return tuple(merged)


def _size(part: Segment) -> tuple[int, int]:
    return part.start, part.tokens
