"""Kernel models of a local machine profile: medians on the served shapes.

Base and trees are those of public measurements. But what the trees learn is first drawn as curves
between the sizes that were timed, so that their steps become many and small; and trees follow the
rows closely, because these are few, quiet, and of the very shapes that will be asked for.
"""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.units import US
from llmpq_sim.latency.fitting.boosting import REPEATED_READINGS, fit_trees
from llmpq_sim.latency.fitting.crossover import DENSE, FUSED, used_rows
from llmpq_sim.latency.fitting.kernels import (
    attention_sizes_of,
    boxed,
    fit_roofline,
    fit_terms,
    gemm_sizes_of,
    read_bits,
)
from llmpq_sim.latency.fitting.rows import Measurements
from llmpq_sim.latency.models import AttentionModel, GemmModel
from llmpq_sim.latency.spec import spec_attention, spec_gemm
from llmpq_sim.latency.work import AttentionSizes, FloatArray, GemmSizes

PARTS = 6
"""Pieces into which the logarithm of the tokens is cut between two timed counts."""

ATTENTION_PARTS = 3
"""Likewise of sequences and of their tokens."""

Curve = dict[float, float]


def fit_local_gemm(
    rows: Measurements, device: Device, format_name: str, crossover: int | None, seed: int
) -> GemmModel:
    """Return the model of a format's products, by the kernel used at each number of tokens.

    Args:
        rows: all timed products of the format, of both kernels.
        device: what they were timed on.
        format_name: the format.
        crossover: tokens from which the dense kernel is used, or None.
        seed: of the trees.
    """
    used = used_rows(rows, {} if crossover is None else {format_name: crossover})
    sizes, time_s = gemm_sizes_of(used), used.latency_us * US
    weight_bits = read_bits(format_name)
    start = spec_gemm(device, format_name).base
    base = fit_roofline(sizes.flops, sizes.moved_bytes(weight_bits), time_s, start)
    model = GemmModel(weight_bits, base, None, device.multiprocessors)
    filled, target = _gemm_curves(rows, model, crossover)
    features = filled.features(weight_bits, device.multiprocessors)
    trees = fit_trees(features, target, seed, REPEATED_READINGS)
    return GemmModel(weight_bits, base, boxed(trees, sizes), device.multiprocessors)


def fit_local_attention(
    rows: Measurements, device: Device, phase: str, seed: int
) -> AttentionModel:
    """Return the model of attention in a phase."""
    sizes, time_s = attention_sizes_of(rows), rows.latency_us * US
    terms = sizes.terms(phase, device.multiprocessors)
    seconds = fit_terms(terms / time_s[:, np.newaxis], spec_attention(device, phase).seconds)
    model = AttentionModel(phase, seconds, None, device.multiprocessors)
    filled, target = _attention_surface(sizes, np.log(time_s / model.time_s(sizes)))
    features = filled.features(phase, device.multiprocessors)
    trees = fit_trees(features, target, seed, REPEATED_READINGS)
    return AttentionModel(phase, seconds, boxed(trees, sizes), device.multiprocessors)


def between(sizes: Iterable[float], parts: int) -> FloatArray:
    """Return sizes with whole numbers between each two of them, evenly in the logarithm."""
    known = np.asarray(sorted(set(sizes)), np.float64)
    pieces = [np.geomspace(low, high, parts + 1).round() for low, high in pairwise(known.tolist())]
    return np.unique(np.concatenate([known, *pieces]))


def _gemm_curves(
    rows: Measurements, base: GemmModel, crossover: int | None
) -> tuple[GemmSizes, FloatArray]:
    """Return sizes between those timed, and the logarithm of what the base misses there.

    Between two token counts the time of a shape is taken as linear, each kernel's by itself: what a
    kernel does once, such as to decode weights, and what it does for each token both are.
    """
    tokens = between(rows.m.tolist(), PARTS)
    edge = np.inf if crossover is None else float(crossover)
    if tokens[0] < edge <= tokens[-1]:
        tokens = np.unique([*tokens, edge - 1, edge])
    sizes: list[tuple[float, float, float]] = []
    time_us: list[float] = []
    for n, k in sorted(set(zip(rows.n.tolist(), rows.k.tolist(), strict=True))):
        own = rows.where((rows.n == n) & (rows.k == k))
        fused = own.where(own.kernel != DENSE)
        dense = own.where(own.kernel != FUSED)
        for part, chosen in ((fused, tokens[tokens < edge]), (dense, tokens[tokens >= edge])):
            kernel = part if len(part) else own
            curve = dict(zip(kernel.m.tolist(), kernel.latency_us.tolist(), strict=True))
            for m, drawn_us in _drawn(curve, chosen).items():
                sizes.append((m, n, k))
                time_us.append(drawn_us)
    filled = GemmSizes(*np.asarray(sizes, np.float64).T)
    return filled, np.log(np.asarray(time_us) * US / base.time_s(filled))


def _attention_surface(
    sizes: AttentionSizes, missed: FloatArray
) -> tuple[AttentionSizes, FloatArray]:
    """Return sizes between those timed, first in tokens and then in sequences, and the misses.

    The misses are linear in the logarithms of sizes: the base itself has the powers that times
    grow with.
    """
    surface: dict[tuple[float, ...], Curve] = {}
    for batch, tokens, *layout, value in zip(
        *(part.tolist() for part in (*sizes, missed)), strict=True
    ):
        surface.setdefault((*layout, batch), {})[tokens] = value
    across: dict[tuple[float, ...], Curve] = {}
    for (*layout, batch), curve in surface.items():
        for tokens, value in _drawn_in_logs(curve).items():
            across.setdefault((*layout, tokens), {})[batch] = value
    filled = [
        (batch, tokens, *layout, value)
        for (*layout, tokens), curve in across.items()
        for batch, value in _drawn_in_logs(curve).items()
    ]
    *columns, target = np.asarray(filled, np.float64).T
    return AttentionSizes(*columns), np.asarray(target)


def _drawn(curve: Curve, chosen: FloatArray) -> Curve:
    """Return a curve at some sizes within its ends, linear between those that it knows."""
    known = np.asarray(sorted(curve))
    inside = chosen[(chosen >= known[0]) & (chosen <= known[-1])]
    values = np.interp(inside, known, [curve[size] for size in known.tolist()])
    return dict(zip(inside.tolist(), values.tolist(), strict=True))


def _drawn_in_logs(curve: Curve) -> Curve:
    """Return a curve with sizes between those that it knows, linear in their logarithms."""
    chosen = between(curve, ATTENTION_PARTS)
    logs = {float(np.log(size)): value for size, value in curve.items()}
    drawn = _drawn(logs, np.clip(np.log(chosen), min(logs), max(logs)))
    return dict(zip(chosen.tolist(), drawn.values(), strict=True))
