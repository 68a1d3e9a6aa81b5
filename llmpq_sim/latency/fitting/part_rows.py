"""Rows of the parts of layers beyond dense ones, and the sizes that they were timed at."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.latency.fitting.rows import (
    Measurements,
    UsableRows,
    drop,
    formats_of,
    other_format,
    other_library,
    positive,
    quantized_cache,
    without_repeats,
)
from llmpq_sim.latency.part_work import (
    ConvolutionSizes,
    ExpertsSizes,
    LatentSizes,
    ScanSizes,
    WindowSizes,
    sizes_of,
)
from llmpq_sim.latency.parts import PHASES, SCAN_CHUNK
from llmpq_sim.latency.work import BoolArray, FloatArray

BALANCED = "balanced"

FEW_SHAPES = 16
"""Shapes of whole experts in a format below which the shares of expert ranks are taken too, where
tokens are spread evenly: else what was timed is the busiest of the ranks."""

DEEPSEEK_WIDTHS = {"kv_rank": 512.0, "nope_dim": 128.0, "rope_dim": 64.0, "value_dim": 128.0}
"""Widths of latent attention in every public table: those of DeepSeek-V2 and later."""

HALF_BYTES = 2.0
"""State elements in the kernels of public tables: 4 bytes would exceed the bandwidth of a card."""


@dataclass(frozen=True)
class PartRows:
    """Usable rows by part."""

    experts: Measurements
    windows: Measurements
    latent: Measurements
    convolutions: Measurements
    scans: Measurements

    def __len__(self) -> int:
        return sum(map(len, vars(self).values()))


def part_rows(usable: UsableRows, kernels: str | None) -> tuple[PartRows, dict[str, int]]:
    """Return the rows of parts that a fit may use, and how many were dropped for which reason.

    Args:
        usable: rows of one device.
        kernels: the kernel set asked for.
    """
    rows, dropped = usable.parts, Counter[str]()
    experts = _experts(rows.where(rows.op == "experts"), dropped, kernels)
    windows = rows.where(rows.op == "attention")
    latent = rows.where(rows.op == "latent")
    for test in (_incomplete_latent, _with_products, quantized_cache):
        latent = drop(latent, dropped, test)
    windows = drop(windows, dropped, _incomplete_window)
    recurrent = drop(rows.where(rows.op == "recurrent"), dropped, _incomplete_recurrent)
    convolutions = recurrent.where(recurrent.kernel == "convolution")
    scans = recurrent.where(recurrent.kernel == "scan")
    windows, latent, convolutions, scans = (
        without_repeats(_of_one_library(each, dropped, kernels), dropped)
        for each in (windows, latent, convolutions, scans)
    )
    return PartRows(experts, windows, latent, convolutions, scans), dict(dropped)


def experts_of_rows(rows: Measurements) -> ExpertsSizes:
    """Return the sizes of experts that were timed.

    Balanced rows fill every expert as much; of others it is taken that all experts were alike
    likely. A device among several has its share of the experts, or of each of them.
    """
    tensor, expert = (_ranks(each) for each in (rows.tensor_ranks, rows.expert_ranks))
    own, chosen = rows.experts / expert, rows.chosen / expert
    likely = own * (1 - (1 - rows.chosen / rows.experts) ** rows.m)
    distinct = np.where(_is_even(rows), np.minimum(rows.m * chosen, own), likely)
    bits = [FORMATS[name].bits_per_weight() for name in formats_of(rows).tolist()]
    sizes: ExpertsSizes = sizes_of(
        ExpertsSizes,
        tokens=rows.m,
        distinct=np.maximum(distinct, 1.0),
        chosen=chosen,
        width=rows.k,
        inner_size=rows.n / tensor,
        matrices=3.0,
        weight_bits=np.asarray(bits, np.float64),
    )
    return sizes


def windows_of_rows(rows: Measurements) -> WindowSizes:
    """Return the sizes of attention within a window that was timed."""
    sizes: WindowSizes = sizes_of(
        WindowSizes,
        batch=rows.batch,
        queries=_queries(rows),
        tokens=rows.seq,
        window=rows.window,
        heads=rows.heads,
        kv_heads=rows.kv_heads,
        head_dim=rows.head_dim,
    )
    return sizes


def latent_of_rows(rows: Measurements) -> LatentSizes:
    """Return the sizes of latent attention that was timed."""
    sizes: LatentSizes = sizes_of(
        LatentSizes,
        batch=rows.batch,
        queries=_queries(rows),
        tokens=rows.seq + np.nan_to_num(rows.cached),
        heads=rows.heads,
        **DEEPSEEK_WIDTHS,
    )
    return sizes


def convolutions_of_rows(rows: Measurements) -> ConvolutionSizes:
    """Return the sizes of short convolutions that were timed."""
    sizes: ConvolutionSizes = sizes_of(
        ConvolutionSizes, batch=rows.batch, tokens=rows.seq, channels=_channels(rows)
    )
    return sizes


def scans_of_rows(rows: Measurements) -> ScanSizes:
    """Return the sizes of recurrent scans that were timed."""
    sizes: ScanSizes = sizes_of(
        ScanSizes,
        batch=rows.batch,
        tokens=rows.seq,
        heads=rows.heads,
        key_dim=rows.head_dim,
        value_dim=rows.value_dim,
        state_bytes=rows.heads * rows.head_dim * rows.value_dim * HALF_BYTES,
        channels=_channels(rows),
        chunk=SCAN_CHUNK,
    )
    return sizes


def _channels(rows: Measurements) -> FloatArray:
    """Return the channels of the convolution: queries, keys and values."""
    return 2 * rows.kv_heads * rows.head_dim + rows.heads * rows.value_dim


def _queries(rows: Measurements) -> FloatArray:
    return np.where(rows.phase == "prefill", rows.seq, 1.0)


def _ranks(column: FloatArray) -> FloatArray:
    """Return the devices that share a part, 1 where nothing is said."""
    return np.where(np.isfinite(column) & (column > 0), column, 1.0)


def _experts(rows: Measurements, dropped: Counter[str], kernels: str | None) -> Measurements:
    """Return usable rows of experts, of one library for each format."""
    for test in (other_format, _incomplete_experts, _unbalanced):
        rows = drop(rows, dropped, test)
    formats = formats_of(rows)
    kept = [rows.where(np.zeros(len(rows), np.bool_))]
    for name in np.unique(formats).tolist():
        own = _of_one_library(rows.where(formats == name), dropped, kernels)
        whole = own.where(~_shared(own)[1])
        shapes = np.stack([whole.k, whole.n, whole.chosen, whole.experts, whole.tensor_ranks])
        if np.unique(shapes, axis=1).shape[1] >= FEW_SHAPES or not _is_even(own).all():
            own = drop(own, dropped, _shared)
        kept.append(without_repeats(own, dropped))
    first, *others = kept
    for each in others:
        first = first.joined(each)
    return first


def _of_one_library(rows: Measurements, dropped: Counter[str], kernels: str | None) -> Measurements:
    return drop(rows, dropped, lambda each: other_library(each, kernels))


def _incomplete_experts(rows: Measurements) -> tuple[str, BoolArray]:
    sizes = positive(rows.m, rows.n, rows.k, rows.experts, rows.chosen)
    return "experts row lacks a size", ~sizes


def _unbalanced(rows: Measurements) -> tuple[str, BoolArray]:
    """Return the rows of uneven routing; where nothing else was timed they are kept."""
    even = _is_even(rows)
    return "tokens are spread unevenly over experts", ~even if even.any() else np.zeros_like(even)


def _is_even(rows: Measurements) -> BoolArray:
    return np.isin(rows.routing, ("", BALANCED))


def _shared(rows: Measurements) -> tuple[str, BoolArray]:
    return "a share of the experts", _ranks(rows.expert_ranks) > 1


def _incomplete_window(rows: Measurements) -> tuple[str, BoolArray]:
    sizes = positive(rows.batch, rows.seq, rows.heads, rows.kv_heads, rows.head_dim, rows.window)
    return "attention row lacks a phase or a size", ~(sizes & np.isin(rows.phase, PHASES))


def _incomplete_latent(rows: Measurements) -> tuple[str, BoolArray]:
    sizes = positive(rows.batch, rows.seq, rows.heads) & (rows.quant != "fp8")
    return "latent row lacks a phase or a size", ~(sizes & np.isin(rows.phase, PHASES))


def _with_products(rows: Measurements) -> tuple[str, BoolArray]:
    return "latent attention with its products", rows.kernel == "module"


def _incomplete_recurrent(rows: Measurements) -> tuple[str, BoolArray]:
    sizes = positive(rows.batch, rows.seq, rows.heads, rows.head_dim, rows.value_dim)
    known = (rows.algorithm != "") & np.isin(rows.phase, PHASES)
    return "recurrent row lacks an algorithm, a phase or a size", ~(sizes & known)
