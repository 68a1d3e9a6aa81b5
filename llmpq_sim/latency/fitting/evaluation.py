"""Errors of fitted models on held-out matrix shapes and head layouts.

Errors are absolute and relative to the measurement: 0.03 is 3 %. The baseline is LLM-PQ's linear
latency model. Source: arXiv:2403.01136, sec. 4; features as in its reference implementation.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.units import US
from llmpq_sim.latency.fitting.kernels import (
    attention_sizes_of,
    by_format,
    fit_attention,
    fit_gemm,
    gemm_sizes_of,
)
from llmpq_sim.latency.fitting.rows import Measurements, UsableRows
from llmpq_sim.latency.models import AttentionModel, GemmModel
from llmpq_sim.latency.work import BoolArray, FloatArray, attention_sizes, gemm_sizes

HELD_OUT_SHAPES = 0.20
HELD_OUT_LAYOUTS = 0.25
HELD_OUT_POINTS = 0.30
FEWEST_GROUPS = 5
"""With fewer shapes or layouts none is held out, and no error is stated."""

FOLDS = 5
MANY_GROUPS = 25
"""With so many shapes a fifth of them says enough; among fewer every one is held out in turn."""

DECODE_TOKENS = 64
"""Up to so many tokens a matrix product counts as decode."""

FEWEST_POINTS = 10
PHASES = ("prefill", "decode")


@dataclass(frozen=True)
class FitError:
    """Error of a model on rows it was not fitted to.

    Attributes:
        op: ``gemm``, ``attention``, ``layer`` or ``head``, or a part: ``experts``, ``window``,
            ``latent``, ``convolution``, ``recurrent``.
        format: weight format; of attention, the format of its vectors.
        phase: ``prefill``, ``decode`` or ``any``.
        median_ape, p90_ape: median and 90th percentile of the absolute relative error.
        rows: how many rows it was taken over.
    """

    op: str
    format: str
    phase: str
    median_ape: float
    p90_ape: float
    rows: int


@dataclass(frozen=True)
class DenseLayer:
    """A layer whose kernels occur in public tables, with heads of 128."""

    hidden_size: int
    up_features: int
    down_features: int
    heads: int
    kv_heads: int
    head_dim: int = 128

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Output and input features of QKV, output, up and down projection."""
        attention = self.heads * self.head_dim
        return (
            (attention + 2 * self.kv_heads * self.head_dim, self.hidden_size),
            (self.hidden_size, attention),
            (self.up_features, self.hidden_size),
            (self.hidden_size, self.down_features),
        )


DENSE_LAYERS = (
    DenseLayer(4096, 16384, 16384, heads=32, kv_heads=4),
    DenseLayer(5120, 16384, 8192, heads=40, kv_heads=8),
    DenseLayer(8192, 16384, 16384, heads=64, kv_heads=8),
)
"""The sizes of 8, 14 and 70 billion parameters, MLP widths rounded to tabulated ones; the second
has a gate."""


@dataclass(frozen=True)
class LayerTimes:
    """Measured times of one layer: the sums of its measured kernels.

    Attributes:
        layer: which one.
        format: weight format.
        phase: ``prefill`` or ``decode``.
        batch, tokens: sequences, and prompt or context tokens of each.
        time_s: sums of four matrix products and attention.
    """

    layer: DenseLayer
    format: str
    phase: str
    batch: FloatArray
    tokens: FloatArray
    time_s: FloatArray


def kernel_errors(usable: UsableRows, device: Device, seed: int) -> list[FitError]:
    """Return errors of matrix products on unseen shapes and of attention on unseen layouts."""
    errors: list[FitError] = []
    for name, rows in by_format(usable.gemms).items():
        held_out = _held_out(_shapes(rows), HELD_OUT_SHAPES, seed)
        if held_out.any():
            model = fit_gemm(rows.where(~held_out), device, name, seed)
            errors += _gemm_errors(model, rows.where(held_out), name)
    for phase in PHASES:
        rows = usable.attention.where(usable.attention.phase == phase)
        held_out = _held_out(_layouts(rows), HELD_OUT_LAYOUTS, seed)
        if held_out.any():
            attention = fit_attention(rows.where(~held_out), device, phase, seed)
            unseen = rows.where(held_out)
            predicted_s = attention.time_s(attention_sizes_of(unseen))
            errors.append(
                fit_error("attention", "fp16", phase, predicted_s, unseen.latency_us * US)
            )
    return errors


def layer_errors(usable: UsableRows, device: Device, seed: int) -> list[FitError]:
    """Return errors on whole layers none of whose shapes and layouts the models have seen."""
    measured = composed_layers(usable)
    shapes = [shape for layer in DENSE_LAYERS for shape in layer.shapes]
    layouts = [(layer.heads, layer.kv_heads, layer.head_dim) for layer in DENSE_LAYERS]
    attention = {
        phase: fit_attention(_without(rows, _layouts(rows), layouts), device, phase, seed)
        for phase in sorted({times.phase for times in measured})
        for rows in [usable.attention.where(usable.attention.phase == phase)]
    }
    gemms = {
        name: fit_gemm(_without(rows, _shapes(rows), shapes), device, name, seed)
        for name, rows in by_format(usable.gemms).items()
        if any(times.format == name for times in measured)
    }
    predicted = [_layer_s(times, gemms[times.format], attention[times.phase]) for times in measured]
    return _errors_of_layers(measured, predicted)


def baseline_errors(usable: UsableRows, seed: int) -> list[FitError]:
    """Return errors of LLM-PQ's linear model on the same layers.

    It is fitted to each layer, format and phase on its own; only points are held out.
    """
    measured, predicted = [], []
    for times in composed_layers(usable):
        features = linear_features(times.phase, times.batch, times.tokens)
        points = np.stack([times.batch, times.tokens], axis=1)
        held_out = _held_out(points, HELD_OUT_POINTS, seed)
        coefficients = fit_linear(features[~held_out], times.time_s[~held_out])
        measured.append(_points(times, held_out))
        predicted.append(features[held_out] @ coefficients)
    return _errors_of_layers(measured, predicted)


def linear_features(phase: str, batch: FloatArray, tokens: FloatArray) -> FloatArray:
    """Return the features of one layer in a phase: (rows, 5) in prefill, (rows, 4) in decode."""
    one = np.ones_like(batch)
    if phase == "prefill":
        return np.stack([batch, tokens, batch * tokens, batch * tokens**2, one], axis=-1)
    return np.stack([batch * (1 + tokens), batch, tokens, one], axis=-1)


def fit_linear(features: FloatArray, time_s: FloatArray) -> FloatArray:
    """Return the coefficients of ordinary least squares.

    The columns are scaled first, because their sizes differ by eight orders of magnitude.
    """
    scale = np.abs(features).max(axis=0)
    coefficients, *_ = np.linalg.lstsq(features / scale, time_s, rcond=None)
    return np.asarray(coefficients / scale, np.float64)


def composed_layers(usable: UsableRows) -> list[LayerTimes]:
    """Return the layers all of whose kernels were measured, at the points where all were."""
    found = []
    for (name, rows), layer in product(by_format(usable.gemms).items(), DENSE_LAYERS):
        gemm_us = _products_us(rows, layer)
        for phase in PHASES:
            times = _composed(usable.attention, layer, name, phase, gemm_us)
            if len(times.time_s) >= FEWEST_POINTS:
                found.append(times)
    return found


def _products_us(rows: Measurements, layer: DenseLayer) -> dict[float, float]:
    """Return the summed time of a layer's matrix products by tokens, where all were timed."""
    per_shape = []
    for out_features, in_features in layer.shapes:
        own = rows.where((rows.n == out_features) & (rows.k == in_features))
        per_shape.append(dict(zip(own.m.tolist(), own.latency_us.tolist(), strict=True)))
    common = set.intersection(*(set(times) for times in per_shape))
    return {tokens: sum(times[tokens] for times in per_shape) for tokens in common}


def _composed(
    attention: Measurements, layer: DenseLayer, name: str, phase: str, gemm_us: dict[float, float]
) -> LayerTimes:
    own = attention.where(
        (attention.phase == phase)
        & (attention.heads == layer.heads)
        & (attention.kv_heads == layer.kv_heads)
        & (attention.head_dim == layer.head_dim)
    )
    tokens = own.batch * own.seq if phase == "prefill" else own.batch
    own = own.where(np.isin(tokens, list(gemm_us)))
    tokens = own.batch * own.seq if phase == "prefill" else own.batch
    products_us = np.asarray([gemm_us[count] for count in tokens.tolist()])
    time_s = (own.latency_us + products_us) * US
    return LayerTimes(layer, name, phase, own.batch, own.seq, time_s)


def _layer_s(times: LayerTimes, gemm: GemmModel, attention: AttentionModel) -> FloatArray:
    layer = times.layer
    tokens = times.batch * times.tokens if times.phase == "prefill" else times.batch
    sizes = attention_sizes(times.batch, times.tokens, layer.heads, layer.kv_heads, layer.head_dim)
    total = attention.time_s(sizes)
    for out_features, in_features in layer.shapes:
        total = total + gemm.time_s(gemm_sizes(tokens, out_features, in_features))
    return total


def _points(times: LayerTimes, mask: BoolArray) -> LayerTimes:
    return LayerTimes(
        times.layer,
        times.format,
        times.phase,
        times.batch[mask],
        times.tokens[mask],
        times.time_s[mask],
    )


def _errors_of_layers(measured: list[LayerTimes], predicted: list[FloatArray]) -> list[FitError]:
    """Return one error for each format and phase, over all layers."""
    errors = []
    kinds = dict.fromkeys((times.format, times.phase) for times in measured)
    for name, phase in kinds:
        own = [
            i for i, times in enumerate(measured) if (times.format, times.phase) == (name, phase)
        ]
        time_s = np.concatenate([measured[i].time_s for i in own])
        errors.append(
            fit_error("layer", name, phase, np.concatenate([predicted[i] for i in own]), time_s)
        )
    return errors


def _gemm_errors(model: GemmModel, unseen: Measurements, name: str) -> list[FitError]:
    predicted_s, time_s = model.time_s(gemm_sizes_of(unseen)), unseen.latency_us * US
    decode = unseen.m <= DECODE_TOKENS
    parts = {"any": np.ones_like(decode), "decode": decode, "prefill": ~decode}
    return [
        fit_error("gemm", name, phase, predicted_s[mask], time_s[mask])
        for phase, mask in parts.items()
        if mask.any()
    ]


def fit_error(
    op: str, name: str, phase: str, predicted_s: FloatArray, time_s: FloatArray
) -> FitError:
    """Return the error of predicted times."""
    error = np.abs(predicted_s / time_s - 1)
    median, p90 = np.quantile(error, (0.5, 0.9)).tolist()
    return FitError(op, name, phase, median, p90, len(error))


def _shapes(rows: Measurements) -> FloatArray:
    return np.stack([rows.n, rows.k], axis=1)


def _layouts(rows: Measurements) -> FloatArray:
    return np.stack([rows.heads, rows.kv_heads, rows.head_dim], axis=1)


def _without(
    rows: Measurements, keys: FloatArray, excluded: Iterable[tuple[int, ...]]
) -> Measurements:
    unseen = set(excluded)
    return rows.where(np.asarray([tuple(key) not in unseen for key in keys.tolist()]))


def folds_of(keys: FloatArray, seed: int) -> Iterator[BoolArray]:
    """Yield masks of rows to hold out, by groups of equal keys: each row once where groups are few.

    Among many groups a fifth is held out once; among few each is in one of five folds, or alone.
    """
    groups, inverse = np.unique(keys, axis=0, return_inverse=True)
    picked = np.random.default_rng(seed).permutation(len(groups))
    folds = min(FOLDS, len(groups))
    if folds < 2:
        return
    for fold in range(1 if len(groups) >= MANY_GROUPS else folds):
        yield np.isin(inverse, picked[fold::folds])


def _held_out(keys: FloatArray, fraction: float, seed: int) -> BoolArray:
    """Return a mask of the rows of randomly picked groups, none if there are too few groups."""
    groups, inverse = np.unique(keys, axis=0, return_inverse=True)
    if len(groups) < FEWEST_GROUPS:
        return np.zeros(len(keys), np.bool_)
    picked = np.random.default_rng(seed).permutation(len(groups))
    mask: BoolArray = np.isin(inverse, picked[: max(round(fraction * len(groups)), 1)])
    return mask
