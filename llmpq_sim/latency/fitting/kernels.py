"""Fit of the model of one kind of kernel.

A physical base is fitted first; gradient-boosted trees then learn the logarithm of what it misses.
"""

from dataclasses import replace

import numpy as np

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.units import US
from llmpq_sim.latency.corrections import Correction
from llmpq_sim.latency.fitting.boosting import SINGLE_READINGS, fit_trees
from llmpq_sim.latency.fitting.rows import Measurements, formats_of
from llmpq_sim.latency.models import SHORTEST_S, AttentionModel, GemmModel, Roofline
from llmpq_sim.latency.spec import spec_attention, spec_gemm
from llmpq_sim.latency.trees import Trees
from llmpq_sim.latency.work import AttentionSizes, FloatArray, GemmSizes

FEWEST_ROWS_FOR_TREES = 30

PRIOR_WEIGHT = 0.1
"""Pull of a roofline's logarithms towards the data sheet, shared among the rows: decides what few
rows leave open and vanishes among many."""

MANY_ROWS = 10_000
MANY_READINGS = replace(SINGLE_READINGS, leaf_unit=1e-5)
"""Averages over graph replays, in many rows: leaves of fewer digits take a fifth of the space off
and change no time by more than 0.1 %."""

SIGNIFICANT_DIGITS = 6


def gemm_sizes_of(rows: Measurements) -> GemmSizes:
    """Return the sizes of matrix-product rows."""
    return GemmSizes(rows.m, rows.n, rows.k)


def attention_sizes_of(rows: Measurements) -> AttentionSizes:
    """Return the sizes of attention rows."""
    return AttentionSizes(rows.batch, rows.seq, rows.heads, rows.kv_heads, rows.head_dim)


def by_format(rows: Measurements) -> dict[str, Measurements]:
    """Return the rows of each weight format, the one of most bits first."""
    formats = formats_of(rows)
    names = sorted(set(formats.tolist()), key=lambda name: -FORMATS[name].bits)
    return {name: rows.where(formats == name) for name in names}


def read_bits(format_name: str) -> float:
    """Return the bits of a weight that kernels behind measurements read: scales are per column."""
    return float(FORMATS[format_name].bits)


def significant(value: float, digits: int = SIGNIFICANT_DIGITS) -> float:
    """Return a fitted constant without the digits that depend on the machine of the fit."""
    return float(f"{value:.{digits}g}")


def fit_gemm(rows: Measurements, device: Device, format_name: str, seed: int) -> GemmModel:
    """Return the model of matrix products in a format, for both phases.

    Below 30 rows it is the roofline alone.
    """
    sizes, time_s = gemm_sizes_of(rows), rows.latency_us * US
    weight_bits = read_bits(format_name)
    start = spec_gemm(device, format_name).base
    base = fit_roofline(sizes.flops, sizes.moved_bytes(weight_bits), time_s, start)
    model = GemmModel(weight_bits, base, None, device.multiprocessors)
    if len(rows) < FEWEST_ROWS_FOR_TREES:
        return model
    features = sizes.features(weight_bits, device.multiprocessors)
    growth = MANY_READINGS if len(rows) > MANY_ROWS else SINGLE_READINGS
    trees = fit_trees(features, np.log(time_s / model.time_s(sizes)), seed, growth)
    return GemmModel(weight_bits, base, boxed(trees, sizes), device.multiprocessors)


def fit_attention(rows: Measurements, device: Device, phase: str, seed: int) -> AttentionModel:
    """Return the model of attention in a phase.

    The base is linear with non-negative coefficients. Below 30 rows it is all there is.
    """
    sizes, time_s = attention_sizes_of(rows), rows.latency_us * US
    terms = sizes.terms(phase, device.multiprocessors)
    seconds = fit_terms(terms / time_s[:, np.newaxis], spec_attention(device, phase).seconds)
    model = AttentionModel(phase, seconds, None, device.multiprocessors)
    if len(rows) < FEWEST_ROWS_FOR_TREES:
        return model
    features = sizes.features(phase, device.multiprocessors)
    trees = fit_trees(features, np.log(time_s / model.time_s(sizes)), seed)
    return AttentionModel(phase, seconds, boxed(trees, sizes), device.multiprocessors)


def fit_terms(relative: FloatArray, start: tuple[float, ...]) -> tuple[float, ...]:
    """Return non-negative seconds per term with the least squared relative error.

    ``relative`` holds terms per measured second. The data sheet counts as one row for each term it
    knows, so that no term is free of charge because few rows did not vary it.
    """
    from scipy.optimize import nnls

    known = np.flatnonzero(start)
    weight = np.sqrt(PRIOR_WEIGHT)
    prior = np.zeros((len(known), len(start)))
    prior[np.arange(len(known)), known] = weight / np.asarray(start)[known]
    matrix = np.concatenate([relative, prior])
    target = np.concatenate([np.ones(len(relative)), np.full(len(known), weight)])
    scale = np.maximum(matrix.max(axis=0), SHORTEST_S)
    coefficients, _ = nnls(matrix / scale, target)
    return tuple(significant(value) for value in (coefficients / scale).tolist())


def fit_roofline(
    flops: FloatArray, moved_bytes: FloatArray, time_s: FloatArray, start: Roofline
) -> Roofline:
    """Return the roofline with the least mean absolute error of the logarithm.

    Its three constants are sought by Nelder and Mead's simplex from ``start``.
    """
    from scipy.optimize import minimize

    origin = np.log([start.fixed_s, start.flops_per_s, start.bytes_per_s])

    def error(logs: FloatArray) -> float:
        predicted_s = Roofline(*np.exp(logs)).time_s(flops, moved_bytes)
        prior = PRIOR_WEIGHT * np.sum((logs - origin) ** 2) / len(time_s)
        return float(np.mean(np.abs(np.log(time_s / predicted_s))) + prior)

    options = {"xatol": 1e-5, "fatol": 1e-8, "maxiter": 2000}
    found = minimize(error, origin, method="Nelder-Mead", options=options)
    return Roofline(*(significant(value) for value in np.exp(found.x).tolist()))


def boxed(trees: Trees, sizes: tuple[FloatArray, ...]) -> Correction:
    """Return a correction that holds within the smallest box around some sizes."""
    least = tuple(float(size.min()) for size in sizes)
    most = tuple(float(size.max()) for size in sizes)
    return Correction(trees, least, most)
