"""Fit of the parts of layers beyond dense ones, with errors on shapes held out of a fit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.units import US
from llmpq_sim.latency.fitting.boosting import Growth, fit_trees
from llmpq_sim.latency.fitting.evaluation import FitError, fit_error, folds_of
from llmpq_sim.latency.fitting.kernels import (
    FEWEST_ROWS_FOR_TREES,
    boxed,
    by_format,
    fit_roofline,
)
from llmpq_sim.latency.fitting.part_rows import (
    PartRows,
    convolutions_of_rows,
    experts_of_rows,
    latent_of_rows,
    scans_of_rows,
    windows_of_rows,
)
from llmpq_sim.latency.fitting.rows import Measurements
from llmpq_sim.latency.models import Roofline
from llmpq_sim.latency.part_work import Work
from llmpq_sim.latency.parts import (
    PHASES,
    PartModel,
    experts_roofline,
    part_roofline,
    recurrent_name,
)
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.latency.spec import spec_gemm
from llmpq_sim.latency.work import BoolArray, FloatArray

FEW_TOKENS = 512
"""Up to so many tokens experts count as decode: few rows reach each of them."""

PART_READINGS = Growth(
    "squared_error", iterations=250, leaves=6, leaf_rows=3, learning_rate=0.08, leaf_unit=1e-5
)
"""Small trees carry over to other shapes where few were timed. Chosen on held-out shapes of four
devices: 24 leaves gain 1 point of the median where many shapes were timed, and lose 10 points of
the 90th percentile where few were."""

NOUNS = {
    "window": "attention within windows",
    "latent": "latent attention",
    "convolution": "convolutions of recurrent mixers",
    "recurrent": "recurrences",
}
"""What sentences call parts."""

LAYOUT = ("heads", "kv_heads", "head_dim", "window")


@dataclass(frozen=True)
class PartFit:
    """Rows of one part, and how its model is kept and called.

    Attributes:
        op: what errors call it, such as ``experts`` or ``recurrent``.
        format: weight format of experts, algorithm of a recurrence, else the format of vectors.
        phase: ``any`` for experts.
        field, key: where a profile holds the model.
        rows: what was timed.
        sizes: of the rows.
        start: a roofline from the data sheet.
        shape: what no held-out row shares with a row that was fitted: (rows, sizes).
    """

    op: str
    format: str
    phase: str
    field: str
    key: str
    rows: Measurements
    sizes: Work
    start: Roofline
    shape: FloatArray

    @property
    def name(self) -> str:
        """Return what progress calls it."""
        return " ".join((self.op, self.format, self.phase))


def part_fits(rows: PartRows, device: Device) -> Iterator[PartFit]:
    """Yield what there is to fit."""
    fp16 = spec_gemm(device, "fp16")
    for name, own in by_format(rows.experts).items():
        experts = experts_of_rows(own)
        shape = np.stack([experts.width, experts.inner_size, experts.chosen, own.experts], axis=1)
        start = experts_roofline(spec_gemm(device, name)).base
        yield PartFit("experts", name, "any", "experts", name, own, experts, start, shape)
    start = part_roofline(fp16).base
    layouts: dict[str, tuple[str, Callable[[Measurements], Any], Measurements]] = {
        "windows": ("window", windows_of_rows, rows.windows),
        "latent": ("latent", latent_of_rows, rows.latent),
        "convolutions": ("convolution", convolutions_of_rows, rows.convolutions),
    }
    for field, (op, sizes_of_rows, all_rows) in layouts.items():
        for phase, own in _by_phase(all_rows):
            sizes = sizes_of_rows(own)
            shape = _layout(own) if field != "convolutions" else sizes.channels[:, np.newaxis]
            yield PartFit(op, "fp16", phase, field, phase, own, sizes, start, shape)
    for algorithm in np.unique(rows.scans.algorithm).tolist():
        for phase, own in _by_phase(rows.scans.where(rows.scans.algorithm == algorithm)):
            key, sizes, shape = recurrent_name(algorithm, phase), scans_of_rows(own), _layout(own)
            yield PartFit("recurrent", algorithm, phase, "recurrent", key, own, sizes, start, shape)


def fit_part(part: PartFit, device: Device, seed: int, mask: BoolArray | None = None) -> PartModel:
    """Return the model of a part; below 30 rows it is the roofline alone.

    Args:
        part: what to fit.
        device: what it was timed on.
        seed: of the library's draws.
        mask: rows to fit to, None for all.
    """
    kept = np.ones(len(part.rows), np.bool_) if mask is None else mask
    sizes = part.sizes.__class__(*(each[kept] for each in part.sizes))
    time_s = part.rows.latency_us[kept] * US
    base = fit_roofline(sizes.flops, sizes.moved_bytes, time_s, part.start)
    model = PartModel(base, None, device.multiprocessors)
    if len(time_s) < FEWEST_ROWS_FOR_TREES:
        return model
    features = sizes.features(device.multiprocessors)
    residual = np.log(time_s / model.time_s(sizes))
    trees = fit_trees(features, residual, seed, PART_READINGS)
    return replace(model, correction=boxed(trees, tuple(sizes)))


def part_errors(part: PartFit, device: Device, seed: int) -> list[FitError]:
    """Return errors on shapes that the models had not seen; none where there is one shape only.

    Shares of experts, which few rows are fitted to beside, are no whole layers: they do not count.
    """
    predicted_s = np.full(len(part.rows), np.nan)
    for held_out in folds_of(part.shape, seed):
        model = fit_part(part, device, seed, ~held_out)
        unseen = part.sizes.__class__(*(each[held_out] for each in part.sizes))
        predicted_s[held_out] = model.time_s(unseen)
    known = np.isfinite(predicted_s) & ~(part.rows.expert_ranks > 1)
    if not known.any():
        return []
    phases = {part.phase: known}
    if part.phase == "any":
        few = part.rows.m <= FEW_TOKENS
        phases |= {"decode": known & few, "prefill": known & ~few}
    time_s = part.rows.latency_us * US
    return [
        fit_error(part.op, part.format, phase, predicted_s[mask], time_s[mask])
        for phase, mask in phases.items()
        if mask.any()
    ]


def error_fractions(errors: Mapping[str, Sequence[FitError]]) -> dict[str, float]:
    """Return 90th percentiles by field, on average over the rows of formats and phases."""
    found = {}
    for name, own in errors.items():
        whole = [error for error in own if error.op != "experts" or error.phase == "any"]
        if whole:
            weights = [error.rows for error in whole]
            found[name] = float(np.average([error.p90_ape for error in whole], weights=weights))
    return {name: round(value, 4) for name, value in found.items()}


def with_parts(profile: DeviceProfile, models: dict[str, dict[str, PartModel]]) -> DeviceProfile:
    """Return a profile with models by the field that holds them, beside those it has."""
    fields: dict[str, Any] = {
        field: {**getattr(profile, field), **own} for field, own in models.items()
    }
    return replace(profile, **fields)


def library_note(parts: list[PartFit]) -> tuple[str, ...]:
    """Return a sentence on which libraries' kernels were timed for which parts."""
    by_library: dict[str, dict[str, list[str]]] = {}
    for part in parts:
        library = " ".join((part.rows.backend[0].lower(), part.rows.version[0])).strip() or "own"
        formats = by_library.setdefault(library, {}).setdefault(part.op, [])
        if part.op == "experts":
            formats.append(part.format)
    timed = [
        f"{'; '.join(_called(op, formats) for op, formats in own.items())} ({library})"
        for library, own in by_library.items()
    ]
    return (f"Beside dense layers were timed: {'; '.join(timed)}.",) if timed else ()


def _called(op: str, formats: list[str]) -> str:
    return f"experts in {', '.join(formats)}" if op == "experts" else NOUNS[op]


def _by_phase(rows: Measurements) -> Iterator[tuple[str, Measurements]]:
    for phase in PHASES:
        own = rows.where(rows.phase == phase)
        if len(own):
            yield phase, own


def _layout(rows: Measurements) -> FloatArray:
    """Return heads, widths and window of each row, 0 where there is none."""
    columns = [np.nan_to_num(getattr(rows, name)) for name in (*LAYOUT, "value_dim")]
    return np.stack(columns, axis=1)
