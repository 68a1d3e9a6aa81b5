"""KV cache of a stage, and the rows that a step touches.

One cache for the whole stage, in which a micro-batch is some rows: prefill and decode cut a batch
differently without copying. A layer whose tokens see a window of others keeps no more than that: a
token takes the place of the one that just left the window.
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
        layers: of each, (2, rows, KV heads, tokens, head width); a tensor of one dimension more
            where all are alike.
        context_tokens: of the longest sequence; a layer that keeps fewer is a ring of its window.
    """

    def __init__(self, layers: Sequence[torch.Tensor], context_tokens: int) -> None:
        self.layers = layers
        self.context_tokens = context_tokens

    @property
    def nbytes(self) -> int:
        """Bytes of all layers."""
        return sum(layer.nbytes for layer in self.layers)

    def of_layer(self, layer: int) -> "LayerCache":
        """Return keys and values of a layer."""
        keys, values = self.layers[layer]
        return LayerCache(keys, values, keys.shape[2] < self.context_tokens)

    def move(self, moves: Sequence[tuple[int, int]]) -> None:
        """Copy rows, one after another."""
        for source, target in moves:
            for layer in self.layers:
                layer[:, target] = layer[:, source]


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer.

    Attributes:
        keys, values: (rows, KV heads, tokens, head width).
        is_ring: whether the tokens kept are a window: the key of position p is in place
            ``p % tokens``.
    """

    keys: torch.Tensor
    values: torch.Tensor
    is_ring: bool

    @property
    def tokens(self) -> int:
        """Tokens of a row that are kept."""
        return self.keys.shape[2]

    @property
    def window(self) -> int | None:
        """Tokens that a token sees, itself included; None for all before it."""
        return self.tokens if self.is_ring else None

    def put_decodes(self, layout: "StepLayout", new: Sequence[torch.Tensor]) -> None:
        """Keep the key and value of every decode, (KV heads, decodes, head width) each."""
        places = layout.decode_starts
        if self.is_ring:
            places = places % self.tokens
        for stored, part in zip((self.keys, self.values), new, strict=True):
            stored[layout.decode_rows, :, places] = part.transpose(0, 1)

    def put_chunks(self, chunks: "Chunks", new: Sequence[torch.Tensor]) -> None:
        """Keep keys and values of chunks, (rows, KV heads, tokens, head width) each."""
        rows = slice(chunks.first_row, chunks.first_row + chunks.rows)
        kept = min(chunks.tokens, self.tokens)
        places: slice | torch.Tensor = slice(chunks.start, chunks.span)
        if self.is_ring:
            places = self._places(chunks.span - kept, chunks.span)
        for stored, part in zip((self.keys, self.values), new, strict=True):
            stored[rows][:, :, places] = part[:, :, -kept:]

    def before(self, rows: slice, first: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of positions that are kept, in their order."""
        if not self.is_ring:
            return self.keys[rows, :, first:end], self.values[rows, :, first:end]
        places = self._places(first, end)
        return self.keys[rows][:, :, places], self.values[rows][:, :, places]

    def _places(self, first: int, end: int) -> torch.Tensor:
        return torch.arange(first, end, device=self.keys.device) % self.tokens


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

    def first_key(self, window: int | None) -> int:
        """Return the first position that a token of them sees."""
        return 0 if window is None else max(0, self.start + 1 - window)


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
        self._masks: dict[tuple[int | None, ...], torch.Tensor] = {}

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

    def decode_mask(self, tokens: int) -> torch.Tensor | None:
        """Return which of a row's first tokens each decode sees; None where it is all.

        A place is seen that has been taken: in a ring, all of them once it is full.

        Args:
            tokens: of a row; no more than ``span``.

        Returns:
            (decodes, 1, 1, tokens).
        """
        if min(self._decode_starts) + 1 >= tokens:
            return None
        return self.mask_of_decodes(tokens)

    def mask_of_decodes(self, tokens: int) -> torch.Tensor:
        """Return which tokens each decode sees, (decodes, 1, 1, tokens), also where it is all."""
        key = (tokens,)
        if key not in self._masks:
            places = torch.arange(tokens, device=self.device)
            self._masks[key] = (places <= self.decode_starts[:, None])[:, None, None, :]
        return self._masks[key]

    def is_causal(self, number: int, window: int | None) -> bool:
        """Return whether tokens of chunks see all keys from the first one to their own."""
        chunks = self.chunks[number]
        return chunks.start == 0 and (window is None or chunks.span <= window)

    def seen_keys(
        self, first: int, tokens: int, window: int | None, first_key: int = 0
    ) -> torch.Tensor:
        """Return which keys tokens from a position on see. Shape: (tokens, keys).

        Small masks are kept for the layers that follow.

        Args:
            first: position of the first token.
            tokens: how many there are.
            window: that they see; None for all before them.
            first_key: position of the first key; the last is the last token's own.
        """
        end = first + tokens
        key = (first, end, window, first_key)
        if key in self._masks:
            return self._masks[key]
        keys = torch.arange(first_key, end, device=self.device)
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
