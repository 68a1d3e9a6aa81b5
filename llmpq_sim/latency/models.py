"""Kernel latency models: a roofline or linear base, corrected by trees."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.records import Codec, NotNegative, Place
from llmpq_sim.latency.corrections import Correction, correction_codec
from llmpq_sim.latency.work import (
    ATTENTION_FEATURES,
    ATTENTION_TERMS,
    GEMM_FEATURES,
    AttentionSizes,
    BoolArray,
    FloatArray,
    GemmSizes,
)

SHORTEST_S = 1e-9
"""No kernel takes less: keeps times above zero where every constant of a fit is zero."""


def _factors(fields: Fields, key: str) -> tuple[tuple[float, float], ...]:
    factors = []
    for part in fields.each(key):
        with part:
            factors.append((part.number("tokens"), part.number("factor")))
    tokens = [count for count, _ in factors]
    if not factors or any(after <= before for before, after in pairwise(tokens)):
        raise InputError(f"{fields.where}.{key}: expected growing tokens, got {tokens}")
    return tuple(factors)


Factors = Annotated[
    tuple[tuple[float, float], ...],
    Codec(_factors, lambda pairs: [{"tokens": at, "factor": factor} for at, factor in pairs]),
]
"""Factors of times at growing numbers of tokens."""


def _seconds(fields: Fields, key: str) -> tuple[float, ...]:
    with fields.fields(key) as seconds:
        return tuple(seconds.number(term, positive=False) for term in ATTENTION_TERMS)


@dataclass(frozen=True)
class Roofline:
    """``fixed + max(flops / flops_per_s, bytes / bytes_per_s)`` at sustained rates.

    Source: Williams, Waterman, Patterson, Roofline, CACM 52(4), 2009, with a launch cost.
    """

    fixed_s: NotNegative
    flops_per_s: float
    bytes_per_s: float

    def time_s(self, flops: FloatArray, moved_bytes: FloatArray) -> FloatArray:
        """Return the time of kernels with this arithmetic and traffic."""
        work_s = np.maximum(flops / self.flops_per_s, moved_bytes / self.bytes_per_s)
        return np.maximum(self.fixed_s + work_s, SHORTEST_S)


@dataclass(frozen=True)
class Overhead:
    """What a part of a step costs beside its matrix products: ``fixed + bytes x byte_s``."""

    fixed_s: NotNegative
    byte_s: NotNegative

    def time_s(self, moved_bytes: FloatArray) -> FloatArray:
        """Return the time where so many bytes are moved."""
        return self.fixed_s + moved_bytes * self.byte_s


@dataclass(frozen=True)
class GemmModel:
    """Time of ``y[tokens, out] = x[tokens, in] W[out, in]^T`` in one weight format.

    Attributes:
        weight_bits: bits that a weight occupies in memory, as the kernel reads it.
        base: the fitted roofline.
        correction: what trees learned, or None where there were too few measurements.
        multiprocessors: of the device: how many tiles run at once.
    """

    weight_bits: float
    base: Annotated[Roofline, Place.INLINE]
    correction: Annotated[
        Correction | None,
        correction_codec(GemmSizes._fields, len(GEMM_FEATURES)),
        Place.INLINE,
        Place.LAST,
    ]
    multiprocessors: int

    def time_s(self, sizes: GemmSizes) -> FloatArray:
        """Return the times of products of these sizes."""
        base_s = self.base.time_s(sizes.flops, sizes.moved_bytes(self.weight_bits))
        if self.correction is None:
            return base_s
        clamped = GemmSizes(*self.correction.clamp(sizes))
        features = clamped.features(self.weight_bits, self.multiprocessors)
        return base_s * self.correction.factor(features)

    def beyond(self, sizes: GemmSizes) -> BoolArray:
        """Return where the sizes lie outside what was profiled; nowhere if nothing was."""
        if self.correction is None:
            return np.zeros(sizes.tokens.shape, np.bool_)
        return self.correction.beyond(sizes)


@dataclass(frozen=True)
class AttentionModel:
    """Time of the attention kernel of one phase, 16-bit keys and values.

    Attributes:
        phase: ``prefill`` (causal over the prompt) or ``decode`` (one token over the cache).
        seconds: of each term of ``ATTENTION_TERMS``; none is negative.
        correction: what trees learned, over the fields of ``AttentionSizes``.
        multiprocessors: of the device.
    """

    phase: Annotated[str, Place.ABSENT]
    seconds: Annotated[
        tuple[float, ...],
        Codec(_seconds, lambda seconds: dict(zip(ATTENTION_TERMS, seconds, strict=True))),
    ]
    correction: Annotated[
        Correction | None,
        correction_codec(AttentionSizes._fields, len(ATTENTION_FEATURES)),
        Place.INLINE,
        Place.LAST,
    ]
    multiprocessors: int

    def time_s(self, sizes: AttentionSizes) -> FloatArray:
        """Return the times of kernels of these sizes."""
        base_s = self.base_s(sizes)
        if self.correction is None:
            return base_s
        clamped = self._clamped(sizes, self.correction)
        features = clamped.features(self.phase, self.multiprocessors)
        return base_s * self.correction.factor(features)

    def base_s(self, sizes: AttentionSizes) -> FloatArray:
        """Return the times by the linear base alone."""
        terms = sizes.terms(self.phase, self.multiprocessors)
        base_s: FloatArray = np.maximum(terms @ np.asarray(self.seconds), SHORTEST_S)
        return base_s

    @staticmethod
    def _clamped(sizes: AttentionSizes, correction: Correction) -> AttentionSizes:
        """Return the sizes moved into the profiled box.

        More KV heads than were profiled are taken as more sequences: the same work in the same
        number of independent streams.
        """
        most_kv_heads = correction.most[AttentionSizes._fields.index("kv_heads")]
        split = np.maximum(sizes.kv_heads / most_kv_heads, 1.0)
        folded = sizes._replace(
            batch=sizes.batch * split,
            heads=sizes.heads / split,
            kv_heads=sizes.kv_heads / split,
        )
        return AttentionSizes(*correction.clamp(folded))
