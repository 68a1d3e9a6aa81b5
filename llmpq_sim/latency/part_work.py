"""Work of the parts of a layer beyond dense ones: experts, windows, latent and recurrent mixers.

Every class holds the sizes of kernels of one kind as arrays of one shape, and answers for their
operations, the bytes they move, and features for prediction. Formulas: DeepSeek-V2
(arXiv:2405.04434) for latent attention, Gated Delta Networks (arXiv:2412.06464) and Mamba-2
(arXiv:2405.21060) for recurrent mixers.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np

from llmpq_sim.latency.work import (
    ACTIVATION_BYTES,
    ATTENTION_TILE,
    FloatArray,
    broadcast_floats,
    log_columns,
)

LEAST_TILE, MOST_TILE = 16, 64
"""Rows of an expert's products that kernels compute at once: they choose a power of two."""

CONVOLUTION_TOKENS = 4
"""Tokens that the short convolution of every published recurrent mixer spans."""

SCAN_OPERATIONS = 6
"""Operations per element of a state and token: decay, rank-one update and read-out."""


class Work(Protocol):
    """Sizes of kernels of one kind, each an array."""

    @property
    def flops(self) -> FloatArray:
        """Arithmetic operations, those on padding included."""

    @property
    def moved_bytes(self) -> FloatArray:
        """Bytes read and written."""

    def features(self, multiprocessors: int) -> FloatArray:
        """Return logarithms to base 2 of what a time may depend on: (rows, features)."""

    def __iter__(self) -> Any:
        """Iterate over the sizes."""


class ExpertsSizes(NamedTuple):
    """Sizes of the routed experts of a step: up products, activation and down products.

    Attributes:
        tokens: that are routed.
        distinct: experts that some token goes through, on average.
        chosen: experts that a token goes through.
        width: of an expert's input and output.
        inner_size: of one expert.
        matrices: of one expert: 3 where it has a gate, else 2.
        weight_bits: that a weight occupies in memory.
    """

    tokens: FloatArray
    distinct: FloatArray
    chosen: FloatArray
    width: FloatArray
    inner_size: FloatArray
    matrices: FloatArray
    weight_bits: FloatArray

    @property
    def expert_rows(self) -> FloatArray:
        """Rows of an expert that is gone through, on average, one at least."""
        return np.maximum(self.tokens * self.chosen / self.distinct, 1.0)

    @property
    def tile(self) -> FloatArray:
        """Rows of an expert that are computed at once."""
        powers = 2.0 ** np.ceil(np.log2(self.expert_rows))
        return np.clip(powers, LEAST_TILE, MOST_TILE)

    @property
    def flops(self) -> FloatArray:
        """Operations, where the rows of every expert are padded to whole tiles."""
        rows = self.distinct * np.ceil(self.expert_rows / self.tile) * self.tile
        return 2.0 * rows * self.matrices * self.width * self.inner_size

    @property
    def moved_bytes(self) -> FloatArray:
        """Bytes of the experts that are gone through and of the activations."""
        weights = self.distinct * self.matrices * self.width * self.inner_size
        vectors = 2 * self.width + self.matrices * self.inner_size
        activations = ACTIVATION_BYTES * self.tokens * self.chosen * vectors
        return weights * self.weight_bits / 8 + activations

    def features(self, multiprocessors: int) -> FloatArray:
        """Return logarithms to base 2 of sizes, work and how tiles fill multiprocessors."""
        flops, moved, rows = self.flops, self.moved_bytes, self.expert_rows
        tiles = self.distinct * np.ceil(rows / self.tile)
        up = tiles * np.ceil((self.matrices - 1) * self.inner_size / 128)
        down = tiles * np.ceil(self.width / 128)
        weights = self.width * self.inner_size
        return log_columns(
            self.tokens,
            self.distinct,
            self.chosen,
            self.width,
            self.inner_size,
            self.tokens * self.chosen,
            rows,
            flops,
            moved,
            flops / moved,
            weights,
            np.ceil(up / multiprocessors),
            np.ceil(down / multiprocessors),
        )


class WindowSizes(NamedTuple):
    """Sizes of attention over no more tokens than a window.

    Attributes:
        batch: sequences.
        queries: new tokens of each sequence: all of a prompt, or 1 in decode.
        tokens: that the last of them attends to but for the window.
        window: tokens that a token attends to.
        heads, kv_heads, head_dim: the layout; where keys and values differ, their mean width.
    """

    batch: FloatArray
    queries: FloatArray
    tokens: FloatArray
    window: FloatArray
    heads: FloatArray
    kv_heads: FloatArray
    head_dim: FloatArray

    @property
    def attended(self) -> FloatArray:
        """Tokens within the window of the last query."""
        return np.minimum(self.tokens, self.window)

    @property
    def pairs(self) -> FloatArray:
        """Pairs of tokens that a head computes: kernels work in tiles around a window."""
        tiled = self.queries * (self.window + ATTENTION_TILE)
        several = np.minimum(causal_pairs(self.queries, self.tokens), tiled)
        return np.where(self.queries > 1, several, self.attended)

    @property
    def flops(self) -> FloatArray:
        """Two operations per pair and element of a query, and of a value."""
        return 4.0 * self.batch * self.heads * self.head_dim * self.pairs

    @property
    def moved_bytes(self) -> FloatArray:
        """Bytes of queries, outputs, and the keys and values within a window of some query."""
        kept = np.minimum(self.tokens, self.window + self.queries - 1)
        vectors = 2 * self.batch * (self.heads * self.queries + self.kv_heads * kept)
        return ACTIVATION_BYTES * self.head_dim * vectors

    def features(self, multiprocessors: int) -> FloatArray:
        """Return logarithms to base 2 of sizes, work and how blocks fill multiprocessors."""
        flops, moved = self.flops, self.moved_bytes
        streams, all_heads = self.batch * self.kv_heads, self.batch * self.heads
        blocks = all_heads * np.ceil(self.queries / ATTENTION_TILE)
        waves = np.ceil(blocks / multiprocessors)
        return log_columns(
            self.batch,
            self.tokens,
            self.attended,
            self.window,
            self.heads,
            self.kv_heads,
            self.head_dim,
            flops,
            moved,
            self.heads / self.kv_heads,
            streams,
            blocks,
            waves * multiprocessors / blocks,
        )


class LatentSizes(NamedTuple):
    """Sizes of latent attention, its products apart.

    Decode is absorbed: queries meet the compressed vectors as they are kept, of ``kv_rank +
    rope_dim`` elements for all heads. Prefill is expanded: every head has keys of ``nope_dim +
    rope_dim`` and values of ``value_dim`` elements.

    Attributes:
        batch: sequences.
        queries: new tokens of each sequence: all of a prompt, or 1 in decode.
        tokens: that the last of them attends to.
        heads, kv_rank, nope_dim, rope_dim, value_dim: the layout.
    """

    batch: FloatArray
    queries: FloatArray
    tokens: FloatArray
    heads: FloatArray
    kv_rank: FloatArray
    nope_dim: FloatArray
    rope_dim: FloatArray
    value_dim: FloatArray

    @property
    def flops(self) -> FloatArray:
        """Two operations per pair of tokens and element of a key, and of a value."""
        expanded = self.nope_dim + self.rope_dim + self.value_dim
        prompt = causal_pairs(self.queries, self.tokens) * expanded
        cache = self.tokens * (2 * self.kv_rank + self.rope_dim)
        return 2.0 * self.batch * self.heads * np.where(self.queries > 1, prompt, cache)

    @property
    def moved_bytes(self) -> FloatArray:
        """Bytes of queries and outputs, and of keys and values as the phase reads them."""
        keys = self.nope_dim + self.rope_dim
        prompt = self.heads * (self.queries + self.tokens) * (keys + self.value_dim)
        cached = self.tokens * (self.kv_rank + self.rope_dim)
        cache = cached + self.heads * (2 * self.kv_rank + self.rope_dim)
        return ACTIVATION_BYTES * self.batch * np.where(self.queries > 1, prompt, cache)

    def features(self, multiprocessors: int) -> FloatArray:
        """Return logarithms to base 2 of sizes, work and how blocks fill multiprocessors."""
        flops, moved = self.flops, self.moved_bytes
        blocks = self.batch * self.heads * np.ceil(self.queries / ATTENTION_TILE)
        waves = np.ceil(blocks / multiprocessors)
        return log_columns(
            self.batch,
            self.queries,
            self.tokens,
            self.heads,
            flops,
            moved,
            flops / moved,
            self.batch * self.heads,
            self.batch * self.tokens,
            blocks,
            waves * multiprocessors / blocks,
        )


class ConvolutionSizes(NamedTuple):
    """Sizes of the short convolution of a recurrent mixer.

    Attributes:
        batch: sequences.
        tokens: of each prompt; 1 in decode.
        channels: that are convolved, each alone.
    """

    batch: FloatArray
    tokens: FloatArray
    channels: FloatArray

    @property
    def flops(self) -> FloatArray:
        """A multiplication and an addition for each token that a channel spans."""
        return 2.0 * CONVOLUTION_TOKENS * self.batch * self.tokens * self.channels

    @property
    def moved_bytes(self) -> FloatArray:
        """Bytes of inputs and outputs, and of the inputs that are kept."""
        kept = CONVOLUTION_TOKENS - 1
        return 2.0 * ACTIVATION_BYTES * self.batch * (self.tokens + kept) * self.channels

    def features(self, multiprocessors: int) -> FloatArray:
        """Return logarithms to base 2 of sizes and bytes."""
        blocks = self.batch * np.ceil(self.tokens / 8) * np.ceil(self.channels / 256)
        waves = np.ceil(blocks / multiprocessors)
        return log_columns(
            self.batch,
            self.tokens,
            self.channels,
            self.batch * self.tokens,
            self.moved_bytes,
            waves * multiprocessors / blocks,
        )


class ScanSizes(NamedTuple):
    """Sizes of the recurrence of a mixer, its convolution and products apart.

    Attributes:
        batch: sequences.
        tokens: of each prompt; 1 in decode.
        heads, key_dim, value_dim: of the state.
        state_bytes: of a sequence.
        channels: of the convolution: queries, keys and values of a token.
        chunk: tokens of a prompt that are multiplied at once; 1 where they are scanned.
    """

    batch: FloatArray
    tokens: FloatArray
    heads: FloatArray
    key_dim: FloatArray
    value_dim: FloatArray
    state_bytes: FloatArray
    channels: FloatArray
    chunk: FloatArray

    @property
    def flops(self) -> FloatArray:
        """Operations on chunks of prompts, or on every element of the state for each token."""
        elements = self.key_dim * self.value_dim
        chunked = 2 * (self.chunk * (self.key_dim + self.value_dim) + 2 * elements)
        is_chunked = (self.tokens > 1) & (self.chunk > 1)
        per_token = np.where(is_chunked, chunked, SCAN_OPERATIONS * elements)
        return self.batch * self.tokens * self.heads * per_token

    @property
    def moved_bytes(self) -> FloatArray:
        """Bytes of the state, read and written once, and of what goes in and out for a token."""
        vectors = self.channels + self.heads * self.value_dim
        per_sequence = 2 * self.state_bytes + ACTIVATION_BYTES * self.tokens * vectors
        return self.batch * per_sequence

    def features(self, multiprocessors: int) -> FloatArray:
        """Return logarithms to base 2 of sizes, work and how heads fill multiprocessors."""
        flops, moved = self.flops, self.moved_bytes
        blocks = self.batch * self.heads
        waves = np.ceil(blocks / multiprocessors)
        return log_columns(
            self.batch,
            self.tokens,
            self.heads,
            self.channels,
            flops,
            moved,
            self.batch * self.tokens,
            blocks,
            waves,
            waves * multiprocessors / blocks,
        )


def causal_pairs(queries: FloatArray, tokens: FloatArray) -> FloatArray:
    """Return the pairs of queries and tokens up to them, the last query at the last token."""
    return queries * (tokens - queries) + queries * (queries + 1) / 2


def sizes_of(kind: Any, **sizes: Any) -> Any:
    """Return sizes of a kind as float arrays of one shape."""
    return kind(*broadcast_floats(*(sizes[name] for name in kind._fields)))
