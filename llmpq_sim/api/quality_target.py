"""Quality target of a search, from options and the files that they name."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log1p
from pathlib import Path

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.io.quality import check_shape, load_quality
from llmpq_sim.io.tasks import QualityTarget, load_sensitivity, quality_target
from llmpq_sim.quality.measured import MeasuredQuality

DEFAULT_AT_LEAST = "int4"
"""The target where nothing is said and nothing was measured."""


@dataclass(frozen=True)
class QualityOptions:
    """What options say of quality; None where one was not given.

    Attributes:
        at_least: a format, or the largest loss as a number.
        max_kl_nats: largest KL divergence from the 16-bit model in nats per token.
        max_perplexity_increase: largest increase over the 16-bit model's perplexity.
        measured: file of measured losses.
        sensitivity: file with a weight of each layer.
    """

    at_least: str | None = None
    max_kl_nats: float | None = None
    max_perplexity_increase: float | None = None
    measured: Path | None = None
    sensitivity: Path | None = None

    @property
    def limits(self) -> dict[str, float | str]:
        """The targets that were given, by the names of their options."""
        named = {
            "--max-kl": self.max_kl_nats,
            "--max-perplexity-increase": self.max_perplexity_increase,
            "--quality-at-least": self.at_least,
        }
        return {name: value for name, value in named.items() if value is not None}


def load_target(options: QualityOptions, model: ModelSpec) -> QualityTarget:
    """Return the quality target of a search, with the losses that it is in.

    Raises:
        InputError: options do not go together, or a file is not of the model.
    """
    _check_together(options)
    if options.measured is None:
        weights = load_sensitivity(options.sensitivity, model) if options.sensitivity else None
        return quality_target(options.at_least or DEFAULT_AT_LEAST, weights)
    measured, where = load_quality(options.measured), options.measured.name
    check_shape(measured, model, where)
    if options.at_least is not None:
        return quality_target(options.at_least, measured=measured)
    return QualityTarget(None, _most_kl_nats(options, measured, where), None, measured)


def offered_formats(
    formats: Sequence[str], measured: MeasuredQuality | None, layers: int
) -> tuple[tuple[str, ...], list[str]]:
    """Return the formats whose losses are known, and a sentence for each that is held back.

    A format is held back as a whole where some layers were not measured in it, and from the layers
    that it breaks.

    Raises:
        InputError: none is left.
    """
    if measured is None:
        return tuple(formats), []
    losses = measured.table(layers).losses
    missing = measured.missing_layers(layers)
    sentences = []
    for name in formats:
        if name not in losses:
            lacking = missing.get(name, layers)
            sentences.append(f"{name} is not offered: {lacking} of {layers} layers not measured")
            continue
        broken = [str(layer) for layer, loss in enumerate(losses[name]) if not isfinite(loss)]
        if broken:
            sentences.append(f"{name} is not given to layers it breaks: {', '.join(broken)}")
    kept = tuple(name for name in formats if name in losses)
    if not kept:
        raise InputError(
            f"--formats: none of {', '.join(formats)} was measured in every layer; measure them "
            f"with llmpq quality, or allow some of {', '.join(losses)}"
        )
    return kept, sentences


def _check_together(options: QualityOptions) -> None:
    """Raise InputError unless there is one target, in units that are known."""
    limits = list(options.limits)
    if len(limits) > 1:
        raise InputError(f"{limits[0]}: expected one quality target, got {limits[1]} too")
    if options.measured is None:
        if options.at_least is None and limits:
            raise InputError(
                f"{limits[0]}: is in measured units; give the file of llmpq quality with --quality"
            )
        return
    if options.sensitivity is not None:
        raise InputError("--sensitivity: --quality has the loss of each layer; leave one out")
    if not limits:
        raise InputError(
            "--quality: expected a target in its units, one of --max-kl, "
            "--max-perplexity-increase and --quality-at-least"
        )


def _most_kl_nats(options: QualityOptions, measured: MeasuredQuality, where: str) -> float:
    """Return the largest KL divergence in nats per token that an option allows.

    Perplexity is the exponential of cross-entropy, so ``ppl + P`` is ``ln(1 + P / ppl)`` nats more.
    A model's expected cross-entropy rises by its KL divergence where the text is as likely as the
    16-bit model says; how far that holds is measured with a plan.
    """
    ((option, limit),) = options.limits.items()
    if not isinstance(limit, float) or not isfinite(limit) or limit < 0:
        raise InputError(f"{option}: expected a number of at least 0, got {limit}")
    if measured.method != "kl":
        raise InputError(
            f"{option}: {where} holds the {measured.measure}, not KL divergences; give "
            "--quality-at-least with a format or a number in its measure"
        )
    if options.max_perplexity_increase is None:
        return limit
    perplexity = measured.reference_perplexity
    if perplexity is None:
        raise InputError(
            f"{option}: {where} does not say the perplexity of the 16-bit model; give --max-kl"
        )
    return log1p(limit / perplexity)
