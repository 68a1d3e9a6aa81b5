"""Models of the parts of a layer beyond dense ones, fitted or as rooflines, and their files."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.layers import Attention, Experts, LatentAttention, Recurrent
from llmpq_sim.core.records import Codec, from_dict, to_dict
from llmpq_sim.latency.corrections import Correction, correction_codec
from llmpq_sim.latency.models import AttentionModel, GemmModel, Roofline
from llmpq_sim.latency.part_work import (
    CONVOLUTION_TOKENS,
    ConvolutionSizes,
    ExpertsSizes,
    LatentSizes,
    ScanSizes,
    WindowSizes,
    Work,
    causal_pairs,
    sizes_of,
)
from llmpq_sim.latency.work import (
    ACTIVATION_BYTES,
    ATTENTION_TERMS,
    BoolArray,
    FloatArray,
    attention_sizes,
)

EXPERTS_KERNELS = 3
"""Up products, activation and down products: what each launch costs is paid so often."""

EXPERTS_RATE = 0.6
"""Arithmetic rate of experts on padded rows, relative to that of dense products: the median of
rooflines fitted to balanced 16-bit experts on six devices is 0.45 of the peak, where dense
products reach 0.77 of it."""

SCAN_CHUNK = 64
"""Tokens that chunked kernels of recurrent mixers multiply at once."""

ALGORITHMS = ("gated-delta", "kimi-delta", "mamba-2", "mamba-1")

PHASES = ("prefill", "decode")


@dataclass(frozen=True)
class PartModel:
    """Time of one part of a layer: a roofline, corrected by what trees learned.

    Attributes:
        base: fixed cost and sustained rates.
        correction: what trees learned, or None where there were too few measurements.
        multiprocessors: of the device.
    """

    base: Roofline
    correction: Correction | None
    multiprocessors: int

    def time_s(self, sizes: Work) -> FloatArray:
        """Return the times of kernels of these sizes."""
        base_s = self.base.time_s(sizes.flops, sizes.moved_bytes)
        if self.correction is None:
            return base_s
        clamped = sizes.__class__(*self.correction.clamp(tuple(sizes)))
        return base_s * self.correction.factor(clamped.features(self.multiprocessors))

    def beyond(self, sizes: Work) -> BoolArray:
        """Return where the sizes lie outside what was profiled; nowhere if nothing was."""
        if self.correction is None:
            return np.zeros(np.shape(sizes.flops), np.bool_)
        return self.correction.beyond(tuple(sizes))


def parts_codec(kind: Any, names: Iterable[str]) -> Codec:
    """Return the codec of models of one kind of work by name.

    Args:
        kind: class of its sizes.
        names: the names there are.
    """
    listed = tuple(names)
    some = np.full(1, 2.0)
    correction = correction_codec(kind._fields, kind(*(some,) * len(kind._fields)).features(1).size)

    def read(fields: Fields, key: str) -> dict[str, PartModel]:
        with fields.fields(key) as parts:
            found = parts.names()
            for name in found:
                if name not in listed:
                    raise InputError(
                        f"{parts.where}: expected {', '.join(listed)} as keys, got {name!r}"
                    )
            return {name: read_part(parts, name) for name in found}

    def read_part(parts: Fields, name: str) -> PartModel:
        with parts.fields(name) as part:
            with part.fields("base") as base:
                roofline = from_dict(Roofline, base)
            return PartModel(
                roofline, correction.read(part, "correction"), part.integer("multiprocessors")
            )

    def write(models: dict[str, PartModel]) -> dict[str, Any]:
        return {
            name: {
                "base": to_dict(model.base),
                "multiprocessors": model.multiprocessors,
                **correction.write(model.correction),
            }
            for name, model in models.items()
        }

    return Codec(read, write)


def part_roofline(gemm: GemmModel, kernels: int = 1, rate: float = 1.0) -> PartModel:
    """Return the model of a part that was not timed: at the rates of dense products.

    Args:
        gemm: dense products in 16 bits.
        kernels: that the part launches, each at the fixed cost of a product.
        rate: of arithmetic, relative to that of dense products.
    """
    base = Roofline(
        kernels * gemm.base.fixed_s, rate * gemm.base.flops_per_s, gemm.base.bytes_per_s
    )
    return PartModel(base, None, gemm.multiprocessors)


def experts_roofline(gemm: GemmModel) -> PartModel:
    """Return the model of experts in a format in which they were not timed.

    Time is ``max(bytes / bandwidth, padded operations / rate)`` and three launches.

    Args:
        gemm: dense products in the format.
    """
    return part_roofline(gemm, EXPERTS_KERNELS, EXPERTS_RATE)


def experts_sizes(
    tokens: Any, experts: Experts, hidden_size: int, weight_bits: float
) -> ExpertsSizes:
    """Return the sizes of the routed experts, all alike likely to be chosen."""
    counts = np.asarray(tokens, np.float64)
    distinct = experts.count * (1 - (1 - experts.chosen / experts.count) ** counts)
    sizes: ExpertsSizes = sizes_of(
        ExpertsSizes,
        tokens=counts,
        distinct=distinct,
        chosen=experts.chosen,
        width=experts.latent_size or hidden_size,
        inner_size=experts.inner_size,
        matrices=3 if experts.is_gated else 2,
        weight_bits=weight_bits,
    )
    return sizes


def window_sizes(phase: str, batch: Any, tokens: Any, mixer: Attention) -> WindowSizes:
    """Return the sizes of attention within a window."""
    sizes: WindowSizes = sizes_of(
        WindowSizes,
        batch=batch,
        tokens=tokens,
        window=np.inf if mixer.window is None else mixer.window,
        heads=mixer.heads,
        kv_heads=mixer.kv_heads,
        head_dim=mean_width(mixer),
        queries=queries_of(phase, tokens),
    )
    return sizes


def mean_width(mixer: Attention) -> float:
    """Return the width of heads that do the same work with keys and values alike."""
    return (mixer.key_dim + mixer.value_dim) / 2


def queries_of(phase: str, tokens: Any) -> FloatArray:
    """Return the new tokens of each sequence."""
    counts = np.asarray(tokens, np.float64)
    return counts if phase == "prefill" else np.ones_like(counts)


def latent_sizes(phase: str, batch: Any, tokens: Any, mixer: LatentAttention) -> LatentSizes:
    """Return the sizes of latent attention to so many tokens."""
    sizes: LatentSizes = sizes_of(
        LatentSizes,
        batch=batch,
        tokens=tokens,
        heads=mixer.heads,
        kv_rank=mixer.kv_rank,
        nope_dim=mixer.nope_dim,
        rope_dim=mixer.rope_dim,
        value_dim=mixer.value_dim,
        queries=queries_of(phase, tokens),
    )
    return sizes


def convolution_sizes(phase: str, batch: Any, tokens: Any, mixer: Recurrent) -> ConvolutionSizes:
    """Return the sizes of a mixer's convolution; the tokens of decode are one each."""
    sizes: ConvolutionSizes = sizes_of(
        ConvolutionSizes, batch=batch, tokens=queries_of(phase, tokens), channels=channels_of(mixer)
    )
    return sizes


def scan_sizes(phase: str, batch: Any, tokens: Any, mixer: Recurrent) -> ScanSizes:
    """Return the sizes of a mixer's recurrence; the tokens of decode are one each."""
    sizes: ScanSizes = sizes_of(
        ScanSizes,
        batch=batch,
        tokens=queries_of(phase, tokens),
        heads=mixer.heads,
        key_dim=mixer.key_dim,
        value_dim=mixer.value_dim,
        state_bytes=mixer.state_elements * mixer.state_element_bytes,
        channels=channels_of(mixer),
        chunk=1 if mixer.algorithm == "mamba-1" else SCAN_CHUNK,
    )
    return sizes


def channels_of(mixer: Recurrent) -> float:
    """Return the channels of a mixer's convolution."""
    return mixer.convolution_weights / CONVOLUTION_TOKENS


def recurrent_name(algorithm: str, phase: str) -> str:
    """Return what profiles call the kernels of a recurrent mixer in a phase."""
    return f"{algorithm}-{phase}"


def windowed_prefill_s(
    model: AttentionModel, batch: Any, tokens: FloatArray, mixer: Attention
) -> FloatArray:
    """Return the time of prompts within a window, from that of whole ones.

    What exceeds the fixed cost shrinks with the pairs of tokens computed, whole tiles counted.
    """
    sizes = window_sizes("prefill", batch, tokens, mixer)
    whole = window_sizes("prefill", batch, tokens, replace(mixer, window=None))
    whole_s = model.time_s(
        attention_sizes(batch, tokens, mixer.heads, mixer.kv_heads, mean_width(mixer))
    )
    fixed_s = np.minimum(model.seconds[ATTENTION_TERMS.index("kernels")], whole_s)
    return np.minimum(fixed_s + (whole_s - fixed_s) * sizes.pairs / whole.pairs, whole_s)


def indexed_latent_s(
    model: PartModel, phase: str, batch: Any, tokens: Any, mixer: LatentAttention
) -> FloatArray:
    """Return the time of latent attention to the tokens that an indexer chooses.

    The indexer scores every token, a roofline; attention is to the chosen ones, its time that of
    all tokens times the share of the pairs that are left.
    """
    if mixer.indexer is None:
        raise ValueError("a mixer without an indexer attends to all tokens")
    indexer, counts = mixer.indexer, np.asarray(tokens, np.float64)
    queries = queries_of(phase, counts)
    pairs = causal_pairs(queries, counts)
    flops = 2.0 * batch * indexer.heads * indexer.head_dim * pairs
    moved = ACTIVATION_BYTES * batch * indexer.head_dim * (counts + indexer.heads * queries)
    chosen = np.minimum(counts, indexer.chosen_tokens)
    if phase == "prefill":
        left = np.minimum(pairs, counts * indexer.chosen_tokens) / pairs
        attended_s = model.time_s(latent_sizes(phase, batch, counts, mixer)) * left
    else:
        attended_s = model.time_s(latent_sizes(phase, batch, chosen, mixer))
    return attended_s + model.base.time_s(flops, moved)
