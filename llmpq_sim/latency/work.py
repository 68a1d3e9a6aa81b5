"""How much a kernel computes and moves, and by which features its time is predicted."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

TILE = 128
"""Rows and columns of the output that a thread block computes, typical of 16-bit kernels."""

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
    "tiles",
    "waves",
    "weights",
    "waste",
)
ATTENTION_TERMS = ("flops", "bytes", "wave_tokens", "heads", "streams", "kernels")
ATTENTION_FEATURES = (
    "streams",
    "group",
    "tokens",
    "head_dim",
    "flops",
    "bytes",
    "heads",
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
        """Return GEMM_FEATURES, logarithms to base 2: (rows, 10)."""
        moved = self.moved_bytes(weight_bits)
        tiles = np.ceil(self.tokens / TILE) * np.ceil(self.out_features / TILE)
        waves = np.ceil(tiles / multiprocessors)
        return _log_columns(
            *self,
            self.flops,
            moved,
            self.flops / moved,
            tiles,
            waves,
            self.out_features * self.in_features,
            waves * multiprocessors / tiles,
        )


class AttentionSizes(NamedTuple):
    """Sizes of attention kernels: nothing else of a layout matters to them.

    Attributes:
        streams: sequences times KV heads.
        group: query heads that share a KV head.
        tokens: of each prompt, or of each cache that one new token attends to.
        head_dim: elements of a head.
    """

    streams: FloatArray
    group: FloatArray
    tokens: FloatArray
    head_dim: FloatArray

    @property
    def heads(self) -> FloatArray:
        """Query heads of all sequences."""
        return self.streams * self.group

    def terms(self, phase: str, multiprocessors: int) -> FloatArray:
        """Return ATTENTION_TERMS, in which the time is roughly linear: (rows, 6).

        Prefill is causal: a token attends to itself and to those before it.
        """
        if phase == "prefill":
            pairs, queries = self.tokens * (self.tokens + 1) / 2, self.tokens
            blocks = self.heads * np.ceil(self.tokens / TILE)
        else:
            pairs, queries = self.tokens + 1, np.ones_like(self.tokens)
            blocks = self.streams
        flops = 4.0 * self.heads * self.head_dim * pairs
        vectors = 2 * self.heads * queries + 2 * self.streams * (self.tokens + 1)
        moved = ACTIVATION_BYTES * self.head_dim * vectors
        wave_tokens = np.ceil(blocks / multiprocessors) * self.tokens
        one = np.ones_like(flops)
        return np.stack([flops, moved, wave_tokens, self.heads, self.streams, one], axis=-1)

    def features(self, phase: str, multiprocessors: int) -> FloatArray:
        """Return ATTENTION_FEATURES, logarithms to base 2: (rows, 9)."""
        terms = self.terms(phase, multiprocessors)
        blocks = self.heads * np.ceil(self.tokens / TILE)
        waste = np.ceil(blocks / multiprocessors) * multiprocessors / blocks
        flops, moved = terms[..., 0], terms[..., 1]
        return _log_columns(*self, flops, moved, self.heads, blocks, waste)


def gemm_sizes(tokens: Any, out_features: Any, in_features: Any) -> GemmSizes:
    """Return sizes as float arrays of one shape."""
    return GemmSizes(*_floats(tokens, out_features, in_features))


def attention_sizes(
    batch: Any, tokens: Any, heads: Any, kv_heads: Any, head_dim: Any
) -> AttentionSizes:
    """Return the sizes of a layout and batch as float arrays of one shape."""
    batch, tokens, heads, kv_heads, head_dim = _floats(batch, tokens, heads, kv_heads, head_dim)
    return AttentionSizes(batch * kv_heads, heads / kv_heads, tokens, head_dim)


def _floats(*arrays: Any) -> tuple[FloatArray, ...]:
    return tuple(np.broadcast_arrays(*(np.asarray(array, np.float64) for array in arrays)))


def _log_columns(*columns: FloatArray) -> FloatArray:
    logs = np.stack([np.log2(column) for column in columns], axis=-1)
    return np.round(logs, FEATURE_DECIMALS)
