"""Work of a kernel: operations, bytes moved, and features for prediction."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

TILES = ((128, 128), (64, 64), (16, 64), (64, 256))
"""Rows and columns of the output that a thread block may compute: kernels choose among several,
and how well each would fill the multiprocessors shows where they switch."""

ATTENTION_TILE = 128
"""Query tokens that a block of a prefill attention kernel takes."""

ACTIVATION_BYTES = 2

FEATURE_DECIMALS = 6
"""Features are rounded, so that a threshold never depends on the last bit of a logarithm."""

GEMM_FEATURES = (
    "tokens",
    "out_features",
    "in_features",
    "flops",
    "bytes",
    "intensity",
    "weights",
    *(
        f"{part}_{rows}x{columns}"
        for rows, columns in TILES
        for part in ("tiles", "waves", "waste")
    ),
)
ATTENTION_TERMS = ("flops", "bytes", "wave_elements", "heads", "streams", "kernels")
ATTENTION_FEATURES = (
    "batch",
    "tokens",
    "heads",
    "kv_heads",
    "head_dim",
    "flops",
    "bytes",
    "group",
    "all_heads",
    "streams",
    "blocks",
    "waste",
)


class GemmSizes(NamedTuple):
    """Sizes of matrix products ``y[tokens, out] = x[tokens, in] W[out, in]^T``."""

    tokens: FloatArray
    out_features: FloatArray
    in_features: FloatArray

    @property
    def flops(self) -> FloatArray:
        """A multiplication and an addition for each weight and token."""
        return 2.0 * self.tokens * self.out_features * self.in_features

    def moved_bytes(self, weight_bits: float) -> FloatArray:
        """Return the bytes of the packed weights and of the 16-bit activations in and out."""
        weights = self.out_features * self.in_features * weight_bits / 8
        return weights + ACTIVATION_BYTES * self.tokens * (self.out_features + self.in_features)

    def features(self, weight_bits: float, multiprocessors: int) -> FloatArray:
        """Return GEMM_FEATURES, logarithms to base 2: (rows, 19)."""
        moved = self.moved_bytes(weight_bits)
        filling: list[FloatArray] = []
        for rows, columns in TILES:
            tiles = np.ceil(self.tokens / rows) * np.ceil(self.out_features / columns)
            waves = np.ceil(tiles / multiprocessors)
            filling += [tiles, waves, waves * multiprocessors / tiles]
        weights = self.out_features * self.in_features
        return log_columns(*self, self.flops, moved, self.flops / moved, weights, *filling)


class AttentionSizes(NamedTuple):
    """Sizes of attention kernels.

    Attributes:
        batch: sequences.
        tokens: of each prompt, or of each cache that one new token attends to.
        heads, kv_heads, head_dim: the layout.
    """

    batch: FloatArray
    tokens: FloatArray
    heads: FloatArray
    kv_heads: FloatArray
    head_dim: FloatArray

    @property
    def all_heads(self) -> FloatArray:
        """Query heads of all sequences."""
        return self.batch * self.heads

    @property
    def streams(self) -> FloatArray:
        """KV heads of all sequences."""
        return self.batch * self.kv_heads

    def terms(self, phase: str, multiprocessors: int) -> FloatArray:
        """Return ATTENTION_TERMS, in which the time is roughly linear: (rows, 6).

        Prefill is causal: a token attends to itself and to those before it. A block computes a
        tile of queries in prefill, and all queries of a KV head in decode.
        """
        if phase == "prefill":
            pairs, queries = self.tokens * (self.tokens + 1) / 2, self.tokens
            blocks = self.all_heads * np.ceil(self.tokens / ATTENTION_TILE)
        else:
            pairs, queries = self.tokens + 1, np.ones_like(self.tokens)
            blocks = self.streams
        flops = 4.0 * self.all_heads * self.head_dim * pairs
        vectors = 2 * self.all_heads * queries + 2 * self.streams * (self.tokens + 1)
        moved = ACTIVATION_BYTES * self.head_dim * vectors
        wave_elements = np.ceil(blocks / multiprocessors) * self.tokens * self.head_dim
        one = np.ones_like(flops)
        return np.stack([flops, moved, wave_elements, self.all_heads, self.streams, one], axis=-1)

    def features(self, phase: str, multiprocessors: int) -> FloatArray:
        """Return ATTENTION_FEATURES, logarithms to base 2: (rows, 12)."""
        terms = self.terms(phase, multiprocessors)
        blocks = self.all_heads * np.ceil(self.tokens / ATTENTION_TILE)
        waste = np.ceil(blocks / multiprocessors) * multiprocessors / blocks
        group = self.heads / self.kv_heads
        derived = (terms[..., 0], terms[..., 1], group, self.all_heads, self.streams, blocks, waste)
        return log_columns(*self, *derived)


def gemm_sizes(tokens: Any, out_features: Any, in_features: Any) -> GemmSizes:
    """Return sizes as float arrays of one shape."""
    return GemmSizes(*broadcast_floats(tokens, out_features, in_features))


def attention_sizes(
    batch: Any, tokens: Any, heads: Any, kv_heads: Any, head_dim: Any
) -> AttentionSizes:
    """Return the sizes of a layout and batch as float arrays of one shape."""
    return AttentionSizes(*broadcast_floats(batch, tokens, heads, kv_heads, head_dim))


def broadcast_floats(*arrays: Any) -> tuple[FloatArray, ...]:
    """Return float arrays of one shape."""
    return tuple(np.broadcast_arrays(*(np.asarray(array, np.float64) for array in arrays)))


def log_columns(*columns: FloatArray) -> FloatArray:
    """Return the rounded logarithms to base 2 of features side by side: (rows, columns)."""
    logs = np.stack([np.log2(column) for column in columns], axis=-1)
    return np.round(logs, FEATURE_DECIMALS)
