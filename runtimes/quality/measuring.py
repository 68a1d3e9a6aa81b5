"""KL divergence of each layer in each format, and a check that the layers' losses add up."""

from collections.abc import Callable, Sequence

import numpy as np

from llmpq_sim.io.quality import shape_sha256
from llmpq_sim.quality.measured import (
    MEASURES,
    Additivity,
    ExpertUse,
    MeasuredLoss,
    MeasuredQuality,
)
from runtimes.quality.candidates import (
    Candidate,
    is_quantized,
    mixed_candidates,
    single_layer_candidates,
)
from runtimes.quality.divergence import estimate, has_diverged
from runtimes.quality.measured_model import MeasuredModel, prepared_run
from runtimes.quality.progress import StreamProgress
from runtimes.quality.settings import QualitySettings
from runtimes.quality.streaming import Compared, Run, stream

LEAST_NATS = 1e-6
"""Measured KL below which a relative error says nothing: it is the noise of the arithmetic."""

PERCENTILE = 0.9
"""Of the relative errors of sums over layers, what is stated as their error."""


def measure_kl(
    measured_model: MeasuredModel,
    settings: QualitySettings,
    on_run: Callable[[Run], None] = lambda _: None,
    on_progress: Callable[[StreamProgress], None] = lambda _: None,
) -> MeasuredQuality:
    """Return the mean token KL of a model with one layer in one format, for each of them.

    Mixed assignments are measured in the same passes, by which it is judged how far the sum over
    layers is off.

    Args:
        measured_model: the model and the text.
        settings: formats and the like.
        on_run: told what is begun, before it is.
        on_progress: told how much of it is done.

    Raises:
        LlmpqError: the disk or memory is short, the 16-bit model gives no finite numbers, or what
            is to be taken up again is of another run.
    """
    layers = measured_model.spec.layers
    singles = single_layer_candidates(layers, settings.formats, measured_model.plain)
    mixed = mixed_candidates(
        layers, settings.formats, measured_model.plain, settings.check, settings.seed
    )
    run = prepared_run(measured_model, [*singles, *mixed], settings)
    on_run(run)
    compared = stream(run, resume=settings.resume, on_progress=on_progress)
    rows = [_row(single, number, compared) for number, single in enumerate(singles)]
    totals = compared.divergence_nats[len(singles) :]
    return MeasuredQuality(
        method="kl",
        measure=MEASURES["kl"],
        seed=settings.seed,
        model_name=measured_model.spec.name,
        shape_sha256=shape_sha256(measured_model.spec),
        weights_sha256=measured_model.weights_sha256,
        text=measured_model.windows.text,
        quantizers=settings.format_quantizers(),
        reference_nats=reference_nats(compared),
        additivity=additivity(rows, mixed, totals),
        rows=tuple(rows),
        expert_use=tuple(
            ExpertUse(layer, choices)
            for layer, choices in enumerate(compared.expert_choices)
            if choices
        ),
    )


def reference_nats(compared: Compared) -> float:
    """Return the cross-entropy of the 16-bit model on the text, in nats per token."""
    return estimate(compared.cross_entropy_nats[0].tolist()).mean


def _row(candidate: Candidate, number: int, compared: Compared) -> MeasuredLoss:
    nats = compared.divergence_nats[number].tolist()
    entropy = compared.cross_entropy_nats[1 + number] - compared.cross_entropy_nats[0]
    layer, seconds = candidate.start, compared.stream_s[1 + number]
    if has_diverged(nats):
        return MeasuredLoss(layer, candidate.formats[layer], None, 0.0, 0.0, seconds)
    found = estimate(nats)
    return MeasuredLoss(
        layer,
        candidate.formats[layer],
        max(0.0, found.mean),  # below it by rounding only: KL is never negative
        found.standard_error,
        estimate(entropy.tolist()).mean,
        seconds,
    )


def additivity(
    rows: Sequence[MeasuredLoss], mixed: Sequence[Candidate], nats: np.ndarray
) -> Additivity | None:
    """Return how far the sum over layers is from the measured KL of whole assignments.

    The error of one is ``|sum - measured| / measured``; of all, the 90th percentile (interpolated
    linearly) is stated. Assignments with fewer than two quantized layers, with a layer that
    diverged, that diverged themselves, or whose KL is below ``LEAST_NATS`` tell nothing and are not
    counted.

    Args:
        rows: of single layers.
        mixed: the assignments.
        nats: their KL per window, (assignments, windows).

    Returns:
        None where no assignment is left to count.
    """
    loss = {(row.layer, row.format): row.loss for row in rows}
    errors = []
    for candidate, windows in zip(mixed, nats.tolist(), strict=True):
        parts = [
            loss[layer, name] for layer, name in enumerate(candidate.formats) if is_quantized(name)
        ]
        known = [part for part in parts if part is not None]
        if len(parts) < 2 or len(known) < len(parts) or has_diverged(windows):
            continue
        measured = estimate(windows).mean
        if measured >= LEAST_NATS:
            errors.append(abs(sum(known) - measured) / measured)
    if not errors:
        return None
    return Additivity(len(errors), float(np.quantile(errors, PERCENTILE)))
