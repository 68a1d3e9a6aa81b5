"""Overheads of layers, model ends, steps and links beside their kernels.

Each is a constant and a time per byte, neither negative, with the least squared error relative to
the whole that was measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from llmpq_sim.core.cluster import Link
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.units import US
from llmpq_sim.latency.costs import elementwise_bytes_per_token
from llmpq_sim.latency.fitting.kernels import by_format, significant
from llmpq_sim.latency.fitting.layers import LayerRows, layer_rows
from llmpq_sim.latency.fitting.rows import Measurements, UsableRows
from llmpq_sim.latency.models import Overhead
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.latency.work import FloatArray

LARGEST_BYTES_PER_S = 1e15
"""Rate of a link whose messages take no longer the larger they are."""


@dataclass(frozen=True)
class TimedLayers:
    """Whole layers of one format beside what a profile says of their kernels.

    Attributes:
        rows: sizes and measured times.
        kernels_s: matrix products and attention together.
        moved_bytes: activations moved outside them.
    """

    rows: LayerRows
    kernels_s: FloatArray
    moved_bytes: FloatArray


def timed_layers(
    rows: Measurements, models: Mapping[str, ModelSpec], profile: DeviceProfile
) -> list[TimedLayers]:
    """Return whole-layer rows by format, with a profile's times of their kernels.

    Raises:
        InputError: a row names a model that is not known.
    """
    layers = []
    for name, own in by_format(rows).items():
        sizes = layer_rows(own, models, name)
        tokens = sizes.products.tokens[:, 0]
        per_token = [
            elementwise_bytes_per_token(models[model].only_kind) for model in own.model.tolist()
        ]
        layers.append(TimedLayers(sizes, kernels_s(sizes, profile), tokens * np.asarray(per_token)))
    return layers


def kernels_s(rows: LayerRows, profile: DeviceProfile) -> FloatArray:
    """Return the times that a profile gives to the products and the attention of layers."""
    products_s = profile.gemm_s(rows.format, *rows.products).sum(axis=1)
    attention_s = np.where(
        rows.is_prefill,
        profile.prefill_attention_s(*rows.attention),
        profile.decode_attention_s(*rows.attention),
    )
    return np.asarray(products_s + attention_s)


def layer_overhead(layers: list[TimedLayers], without: tuple[int, int] | None = None) -> Overhead:
    """Return what a layer costs beside its kernels.

    Args:
        layers: what was timed.
        without: format and row that is left out, by their positions.
    """
    if not layers:
        return Overhead(0.0, 0.0)
    moved, rest_s, time_s = [], [], []
    for number, part in enumerate(layers):
        kept = np.ones(len(part.kernels_s), np.bool_)
        if without is not None and without[0] == number:
            kept[without[1]] = False
        moved.append(part.moved_bytes[kept])
        rest_s.append((part.rows.time_s - part.kernels_s)[kept])
        time_s.append(part.rows.time_s[kept])
    return fit_overhead(*(np.concatenate(parts) for parts in (moved, rest_s, time_s)))


def fit_overhead(moved_bytes: FloatArray, rest_s: FloatArray, time_s: FloatArray) -> Overhead:
    """Return the overhead that explains what is left of measured times.

    Args:
        moved_bytes: of each measurement.
        rest_s: what kernels leave of it.
        time_s: the whole of it, to which errors are relative.
    """
    from scipy.optimize import nnls

    if not len(time_s):
        return Overhead(0.0, 0.0)
    matrix = np.stack([np.ones_like(time_s), moved_bytes], axis=1) / time_s[:, np.newaxis]
    scale = np.maximum(matrix.max(axis=0), np.finfo(np.float64).tiny)
    found, _ = nnls(matrix / scale, rest_s / time_s)
    fixed_s, byte_s = (significant(value) for value in (found / scale).tolist())
    return Overhead(fixed_s, byte_s)


def with_layer_overhead(profile: DeviceProfile, overhead: Overhead) -> DeviceProfile:
    """Return a profile whose layers cost so much beside their kernels."""
    rate = significant(1 / overhead.byte_s) if overhead.byte_s else None
    return replace(profile, layer_overhead_s=overhead.fixed_s, elementwise_bytes_per_s=rate)


def with_overheads(
    profile: DeviceProfile, layer: Overhead | None, usable: UsableRows
) -> DeviceProfile:
    """Return a profile with what layers cost beside their kernels, and what surrounds layers."""
    return with_step_overheads(with_layer_overhead(profile, layer) if layer else profile, usable)


def with_step_overheads(profile: DeviceProfile, usable: UsableRows) -> DeviceProfile:
    """Return a profile that knows what surrounds layers, as far as it was timed."""
    heads, embeddings = usable.heads, usable.embeddings
    if len(heads):
        product_s = profile.gemm_s("fp16", heads.m, heads.n, heads.k)
        logits_bytes, time_s = 8.0 * heads.m * heads.n, heads.latency_us * US
        head = fit_overhead(logits_bytes, time_s - product_s, time_s)
        profile = replace(profile, head_overhead=head)
    if len(embeddings):
        time_s = embeddings.latency_us * US
        moved = 4.0 * embeddings.m * embeddings.n
        profile = replace(profile, embedding_overhead=fit_overhead(moved, time_s, time_s))
    if len(usable.empty_steps):
        step_s = significant(float(np.median(usable.empty_steps.latency_us)) * US)
        profile = replace(profile, step_overhead_s=step_s)
    return replace(profile, link=fit_link(usable.links))


def fit_link(rows: Measurements) -> Link | None:
    """Return the alpha-beta model of timed messages, or None where there are none."""
    if not len(rows):
        return None
    time_s = rows.latency_us * US
    found = fit_overhead(rows.bytes, time_s, time_s)
    rate = 1 / max(found.byte_s, 1 / LARGEST_BYTES_PER_S)
    return Link(found.fixed_s, significant(rate))
