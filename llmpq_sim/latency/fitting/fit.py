"""Fit of a latency profile to measured rows, with held-out errors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS, WeightFormat
from llmpq_sim.core.machine import Machine
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.latency.fitting.evaluation import (
    FitError,
    baseline_errors,
    kernel_errors,
    layer_errors,
)
from llmpq_sim.latency.fitting.kernels import by_format, fit_attention, fit_gemm
from llmpq_sim.latency.fitting.layers import fit_layers
from llmpq_sim.latency.fitting.machine import local_profile, local_rows
from llmpq_sim.latency.fitting.notes import local_notes
from llmpq_sim.latency.fitting.part_rows import part_rows
from llmpq_sim.latency.fitting.parts import (
    PartFit,
    error_fractions,
    fit_part,
    library_note,
    part_errors,
    part_fits,
    with_parts,
)
from llmpq_sim.latency.fitting.rows import Measurements, UsableRows, usable_rows
from llmpq_sim.latency.models import AttentionModel, GemmModel
from llmpq_sim.latency.parts import PartModel
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.latency.spec import spec_attention, spec_gemm, spec_profile

__all__ = ["FitError", "FitReport", "fit_profile"]

CALIBRATED_ERROR_FRACTION = 0.15
"""Least interval of a profile whose error on unseen layers is not known."""

NO_GAIN_TOKENS = 1024.0
"""Above this all public tables are limited by arithmetic."""

LOCAL_KERNELS = "own"
"""Name of a kernel set whose rows name no library."""

UNTIMED_PRODUCTS = "Dense products in {} follow the data sheet: they were not timed."

PHASES = ("prefill", "decode")


def _silently(_: str) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class FitReport:
    """A fitted profile and what is known about it.

    Attributes:
        profile: fitted to all usable rows.
        rows_used: how many those are.
        rows_dropped: how many were not, by reason.
        errors: on matrix shapes and head layouts held out of a second fit.
        baseline_errors: of LLM-PQ's linear model, on the same layers.
    """

    profile: DeviceProfile
    rows_used: int
    rows_dropped: dict[str, int]
    errors: list[FitError]
    baseline_errors: list[FitError]


def fit_profile(
    measurements: Measurements,
    device: Device,
    kernels: str | None,
    seed: int,
    *,
    models: Mapping[str, ModelSpec] | None = None,
    source: str | None = None,
    machine: Machine | None = None,
    on_progress: Callable[[str], None] = _silently,
) -> FitReport:
    """Return the profile that measurements give, and its errors on what was held out of a fit.

    Medians of repeats, which state their spread, are followed closely; single readings are not.

    Args:
        measurements: timed kernels, or whole layers where no kernel was timed.
        device: what they were timed on.
        kernels: name of the kernel set; None takes it from the rows.
        seed: picks what is held out; the same seed gives the same report.
        models: the models that whole-layer rows name.
        source: where the measurements are from; None takes it from the rows.
        machine: what the rows were measured on, where they are local ones.
        on_progress: called with a sentence before each step.

    Raises:
        InputError: no row can be used, or one names an unknown model.
    """
    on_progress(f"reading {len(measurements):,} rows")
    also_called = (machine.device,) if machine else ()
    usable = usable_rows(measurements, device, also_called, kernels)
    rows, dropped = part_rows(usable, kernels)
    parts = list(part_fits(rows, device))
    if usable.are_repeated:
        report = _report_of_local(usable, device, kernels, seed, models or {}, source, on_progress)
        report = replace(report, profile=replace(report.profile, machine=machine))
    elif len(usable.gemms):
        report = _report_of_kernels(usable, device, kernels, seed, source, on_progress)
    elif len(usable.layers):
        on_progress(f"fitting {len(usable.layers)} whole layers")
        report = _report_of_layers(usable, device, kernels, models or {}, source)
    elif parts or len(usable.attention):
        report = _report_without_products(usable, parts, device, kernels, seed, source)
    else:
        all_dropped = {**usable.dropped, **dropped}
        reasons = [f"; {count:,} dropped: {reason}" for reason, count in all_dropped.items()]
        raise InputError(
            f"expected timed matrix products or layers, got none among {len(measurements):,} rows"
            + "".join(reasons)
        )
    report = replace(report, rows_dropped={**report.rows_dropped, **dropped})
    return _with_parts(report, parts, device, seed, on_progress)


def _with_parts(
    report: FitReport,
    parts: list[PartFit],
    device: Device,
    seed: int,
    on_progress: Callable[[str], None],
) -> FitReport:
    """Return a report with models of parts beyond dense layers, and their errors."""
    models: dict[str, dict[str, PartModel]] = {}
    errors: list[FitError] = []
    by_field: dict[str, list[FitError]] = {}
    for part in parts:
        on_progress(f"fitting {part.name}: {len(part.rows):,} rows")
        own = part_errors(part, device, seed)
        errors += own
        by_field.setdefault(part.field, []).extend(own)
        models.setdefault(part.field, {})[part.key] = fit_part(part, device, seed)
    profile = replace(
        with_parts(report.profile, models),
        part_notes=library_note(parts),
        part_error_fractions=error_fractions(by_field),
    )
    untimed = [name for name in profile.experts if name not in profile.formats]
    profile = replace(
        profile,
        gemms={**profile.gemms, **{name: spec_gemm(device, name) for name in untimed}},
        notes=(*profile.notes, *(UNTIMED_PRODUCTS.format(name) for name in untimed)),
    )
    return replace(
        report,
        profile=profile,
        rows_used=report.rows_used + sum(len(part.rows) for part in parts),
        errors=[*report.errors, *errors],
    )


def _report_of_kernels(
    usable: UsableRows,
    device: Device,
    kernels: str | None,
    seed: int,
    source: str | None,
    on_progress: Callable[[str], None],
) -> FitReport:
    on_progress("holding out matrix shapes and head layouts")
    errors = kernel_errors(usable, device, seed)
    on_progress("holding out whole layers")
    of_layers = layer_errors(usable, device, seed)
    on_progress("fitting LLM-PQ's linear model to the same layers")
    of_baseline = baseline_errors(usable, seed)
    gemms: dict[str, GemmModel] = {}
    for name, rows in by_format(usable.gemms).items():
        on_progress(f"fitting {name} matrix products: {len(rows):,} rows")
        gemms[name] = fit_gemm(rows, device, name, seed)
    on_progress(f"fitting attention: {len(usable.attention):,} rows")
    prefill, decode = (_attention(usable, device, phase, seed) for phase in PHASES)
    corrections = [gemm.correction for gemm in gemms.values()]
    timed = None not in (*corrections, prefill.correction, decode.correction)
    worst = max((error.p90_ape for error in of_layers), default=CALIBRATED_ERROR_FRACTION)
    profile = replace(
        _profile_of(gemms, usable, device, kernels, source),
        status="measured" if timed else "calibrated",
        error_fraction=round(worst, 4),
        prefill_attention=prefill,
        decode_attention=decode,
        no_gain_tokens=NO_GAIN_TOKENS if "fp16" in gemms else None,
    )
    return FitReport(
        profile,
        profile.calibration_rows,
        _dropped(usable, usable.layers),
        [*errors, *of_layers],
        of_baseline,
    )


def _report_without_products(
    usable: UsableRows,
    parts: list[PartFit],
    device: Device,
    kernels: str | None,
    seed: int,
    source: str | None,
) -> FitReport:
    """Return a report whose matrix products follow the data sheet: none was timed."""
    rows, profile = usable.attention, spec_profile(device)
    timed = [each for each in (rows, *(part.rows for part in parts)) if len(each)]
    profile = replace(
        profile,
        kernels=kernels or _kernel_set(timed[0]),
        status="calibrated",
        calibration_rows=sum(map(len, timed)),
        notes=("Matrix products follow the data sheet: none was timed.", *profile.notes[1:]),
        source=source or _source(device, timed),
        prefill_attention=_attention(usable, device, "prefill", seed),
        decode_attention=_attention(usable, device, "decode", seed),
    )
    errors = kernel_errors(usable, device, seed)
    return FitReport(profile, len(rows), dict(usable.dropped), errors, [])


def _report_of_local(
    usable: UsableRows,
    device: Device,
    kernels: str | None,
    seed: int,
    models: Mapping[str, ModelSpec],
    source: str | None,
    on_progress: Callable[[str], None],
) -> FitReport:
    rows = local_rows(usable, kernels)
    if not rows.gemms:
        raise InputError(f"--kernels: no product was timed with the kernels of {kernels}")
    start = {name: spec_gemm(device, name) for name in rows.gemms}
    base = replace(_profile_of(start, usable, device, kernels, source), notes=())
    profile, errors = local_profile(base, usable, rows, models, device, seed, on_progress)
    of_layers = [error.p90_ape for error in errors if error.op == "layer"]
    timed = all(len(own) for own in rows.attention.values()) and "fp16" in rows.gemms
    profile = replace(
        profile,
        status="measured" if timed else "calibrated",
        calibration_rows=len(usable),
        error_fraction=round(max(of_layers, default=CALIBRATED_ERROR_FRACTION), 4),
    )
    notes = local_notes(profile, rows, [error for error in errors if error.op == "layer"])
    return FitReport(replace(profile, notes=notes), len(usable), dict(usable.dropped), errors, [])


def _report_of_layers(
    usable: UsableRows,
    device: Device,
    kernels: str | None,
    models: Mapping[str, ModelSpec],
    source: str | None,
) -> FitReport:
    fitted = fit_layers(usable.layers, models, device)
    own_error = (
        f"Fitted to {len(usable.layers)} whole layers, which it meets within "
        f"{fitted.median_ape:.1%} (median) and {fitted.p90_ape:.1%} (90th percentile); other "
        "hidden sizes follow the roofline."
    )
    profile = _profile_of(fitted.gemms, usable, device, kernels, source)
    profile = replace(
        profile,
        error_fraction=round(max(fitted.p90_ape, CALIBRATED_ERROR_FRACTION), 4),
        notes=(own_error, *profile.notes),
        prefill_attention=fitted.prefill_attention,
        decode_attention=fitted.decode_attention,
        elementwise_bytes_per_s=None,
        layer_overhead_s=fitted.layer_overhead_s,
    )
    dropped = _dropped(usable, usable.attention)
    return FitReport(profile, profile.calibration_rows, dropped, [], [])


def _profile_of(
    gemms: dict[str, GemmModel],
    usable: UsableRows,
    device: Device,
    kernels: str | None,
    source: str | None,
) -> DeviceProfile:
    """Return a calibrated profile with these matrix products, and what it assumes."""
    used = [usable.gemms, usable.attention] if len(usable.gemms) else [usable.layers]
    completed = gemms if "fp16" in gemms else {"fp16": spec_gemm(device, "fp16"), **gemms}
    aliases = _aliases(completed, device)
    notes = [f"{name} is priced as {aliases[name]}: it was not timed." for name in aliases]
    if "fp16" not in gemms:
        notes.append("fp16 follows the data sheet: it was not timed.")
    if len(usable.gemms):
        untimed = [phase for phase in PHASES if phase not in usable.attention.phase]
        notes += [f"Attention in {phase} follows the data sheet." for phase in untimed]
        notes.append("Times are sums of kernels: gaps between launches are not in them.")
        if "fp16" in gemms and len(gemms) > 1:
            has_own = any(FORMATS[name].rate_fraction > 1.0 for name in gemms)
            limited = "weight-only format" if has_own else "format"
            notes.append(
                f"From {NO_GAIN_TOKENS:,.0f} tokens on no {limited} is taken as faster than fp16."
            )
    return replace(
        spec_profile(device),
        kernels=kernels or _kernel_set(used[0]),
        status="calibrated",
        calibration_rows=sum(len(rows) for rows in used),
        notes=tuple(notes),
        source=source or _source(device, used),
        gemms=completed,
        aliases=aliases,
        elementwise_bytes_per_s=completed["fp16"].base.bytes_per_s,
    )


def _aliases(gemms: Mapping[str, GemmModel], device: Device) -> dict[str, str]:
    """Return for each format without a model the next wider one that has a model.

    That is cautious in decode, where fewer bits are rarely slower. A format with arithmetic of its
    own is priced as 16 bits.
    """
    missing = [name for name in device.formats if name not in gemms]
    return {
        name: min(
            (other for other in gemms if _is_wider(FORMATS[other], FORMATS[name])),
            key=lambda other: FORMATS[other].bits,
        )
        for name in missing
    }


def _is_wider(other: WeightFormat, than: WeightFormat) -> bool:
    if than.rate_fraction > 1.0:
        return not other.is_quantized
    return other.bits >= than.bits and other.rate_fraction <= 1.0


def _attention(usable: UsableRows, device: Device, phase: str, seed: int) -> AttentionModel:
    rows = usable.attention.where(usable.attention.phase == phase)
    if not len(rows):
        return spec_attention(device, phase)
    return fit_attention(rows, device, phase, seed)


def _dropped(usable: UsableRows, unused: Measurements) -> dict[str, int]:
    """Return the rows not used by reason; layers and kernels do not go into one fit."""
    if not len(unused):
        return dict(usable.dropped)
    return {**usable.dropped, f"{unused.op[0]} rows beside those the fit is of": len(unused)}


def _kernel_set(rows: Measurements) -> str:
    """Return a name such as ``trtllm-1.0`` from the rows' library."""
    backend, version = str(rows.backend[0]).lower(), str(rows.version[0])
    if not backend:
        return LOCAL_KERNELS
    return "-".join(part for part in (backend, ".".join(version.split(".")[:2])) if part)


def _source(device: Device, used: list[Measurements]) -> str:
    """Return which libraries' kernels were timed."""
    parts = [
        f"{rows.op[0]} rows of {' '.join((rows.backend[0], rows.version[0])).strip() or 'own'}"
        for rows in used
        if len(rows)
    ]
    return f"measurements on {device.name}: {', '.join(parts)} kernels"
