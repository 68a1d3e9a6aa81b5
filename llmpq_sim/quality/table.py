"""Quality table: losses per layer and format, which add up to a plan's loss."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS

NOMINAL_INT4_LOSS_NATS = 0.058
"""Mean loss per token when every layer is int4, rounded to nearest: ln of the perplexity ratio to
8 bit, 0.070 for OPT-1.3b and 0.046 for BLOOM-3b on WikiText2 (LLM-PQ's notebooks), averaged."""

STANDARD_ERRORS = 2.0
"""Standard errors on each side of an interval, about 95 % of a normal distribution."""

LARGEST_EXPONENT = math.log(sys.float_info.max)


@dataclass(frozen=True)
class QualityTable:
    """Loss of each layer in each format; a plan's loss is their sum.

    Attributes:
        measure: what the numbers are, such as ``nominal nats``.
        losses: per format, one number per layer; infinite where the format breaks the layer.
        standard_errors: of the losses, per format and layer; a format without is exact.
        error_fraction: how far the sum over layers was measured to be off, or None if it was not.
        reference_nats: cross-entropy per token of the 16-bit model on the text that losses were
            measured on, where the losses add to it; None where they do not.
    """

    measure: str
    losses: dict[str, tuple[float, ...]]
    standard_errors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    error_fraction: float | None = None
    reference_nats: float | None = None

    @property
    def is_measured(self) -> bool:
        """Whether it is known how far the losses may be off."""
        return bool(self.standard_errors) or self.error_fraction is not None

    def plan_loss(self, layer_formats: Sequence[str]) -> float:
        """Return the loss of a plan, in the table's measure.

        Raises:
            InputError: the table has no losses of a format.
        """
        try:
            return sum(self.losses[name][layer] for layer, name in enumerate(layer_formats))
        except KeyError as error:
            raise self._unknown(str(error.args[0])) from None

    def interval(self, layer_formats: Sequence[str]) -> float:
        """Return how far a plan's loss may be off to either side; 0.0 where nothing is known.

        Layers are measured on the same text, so their standard errors are added, not their squares.
        """
        if not self.is_measured:
            return 0.0
        errors = sum(
            self.standard_errors[name][layer]
            for layer, name in enumerate(layer_formats)
            if name in self.standard_errors
        )
        off = (self.error_fraction or 0.0) * self.plan_loss(layer_formats)
        return off + STANDARD_ERRORS * errors

    def uniform_loss(self, format_name: str) -> float:
        """Return the loss when every layer has this format.

        Raises:
            InputError: the table has no such format.
        """
        if format_name not in self.losses:
            raise self._unknown(format_name)
        return sum(self.losses[format_name])

    def _unknown(self, format_name: str) -> InputError:
        known = ", ".join(self.losses)
        return InputError(f"quality: expected a format of {known}, got {format_name!r}")

    def perplexity(self, loss: float) -> float | None:
        """Return the perplexity at a loss, as if cross-entropy rose by it; None if not known.

        The cross-entropy of a model rises by its KL divergence where the text is as likely as the
        16-bit model says: ``E_p[-ln q] = H(p) + KL(p, q)``.
        """
        if self.reference_nats is None:
            return None
        nats = self.reference_nats + loss
        return math.exp(nats) if nats < LARGEST_EXPONENT else math.inf


def stored_quality(formats: Sequence[str]) -> QualityTable:
    """Return the losses of a checkpoint that is published in these formats, one for each layer.

    What is stored loses nothing by definition; any other format is out of reach.
    """
    losses = {
        name: tuple(0.0 if name == stored else math.inf for stored in formats)
        for name in dict.fromkeys(formats)
    }
    return QualityTable("nats, as published", losses)


def nominal_quality(layers: int, sensitivity: Sequence[float] | None = None) -> QualityTable:
    """Return losses per format shared out over layers by their sensitivity.

    The damage of rounding to b bits grows with the variance it adds, so with the square of the
    scale ``(w_max - w_min) / (2^(b-1) - 1)``; it is anchored at int4's measured loss. That puts
    int3 at 0.316 nats, where OPT-1.3b measured 0.377 and BLOOM-3b 0.250. A quantized format whose
    rounding steps are not known is left out.
    Source: LLM-PQ, arXiv:2403.01136, Theorem 1.

    Args:
        layers: number of decoder layers.
        sensitivity: weight of each layer; only their proportions matter.
    """
    weights = [1.0] * layers if sensitivity is None else list(sensitivity)
    total = sum(weights)
    losses = {
        name: tuple(_nominal_loss_nats(name) * weight / total for weight in weights)
        for name, kept in FORMATS.items()
        if kept.steps is not None or not kept.is_quantized
    }
    measure = "nominal nats" if sensitivity is None else "nominal nats, weighted by sensitivity"
    return QualityTable(measure, losses)


def _nominal_loss_nats(format_name: str) -> float:
    steps, int4_steps = FORMATS[format_name].steps, FORMATS["int4"].steps
    if steps is None or int4_steps is None:
        return 0.0
    scale_ratio = int4_steps / steps
    return NOMINAL_INT4_LOSS_NATS * scale_ratio * scale_ratio
