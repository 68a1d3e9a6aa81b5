"""How much quality a plan loses: an additive table of losses per layer and format."""

from collections.abc import Sequence
from dataclasses import dataclass

from llmpq_sim.errors import InputError
from llmpq_sim.formats import FORMATS

NOMINAL_INT4_LOSS_NATS = 0.058
"""Mean loss per token when every layer is int4, rounded to nearest: ln of the perplexity ratio to
8 bit, 0.070 for OPT-1.3b and 0.046 for BLOOM-3b on WikiText2 (LLM-PQ's notebooks), averaged."""


@dataclass(frozen=True)
class QualityTable:
    """Loss of each layer in each format; a plan's loss is their sum.

    Attributes:
        measure: what the numbers are, such as ``nominal nats``.
        losses: per format, one number per layer.
    """

    measure: str
    losses: dict[str, tuple[float, ...]]

    def plan_loss(self, layer_formats: Sequence[str]) -> float:
        """Return the loss of a plan, in the table's measure."""
        return sum(self.losses[name][layer] for layer, name in enumerate(layer_formats))

    def uniform_loss(self, format_name: str) -> float:
        """Return the loss when every layer has this format.

        Raises:
            InputError: the table has no such format.
        """
        if format_name not in self.losses:
            known = ", ".join(self.losses)
            raise InputError(f"quality: expected a format of {known}, got {format_name!r}")
        return sum(self.losses[format_name])


def nominal_quality(layers: int, sensitivity: Sequence[float] | None = None) -> QualityTable:
    """Return losses per format shared out over layers by their sensitivity.

    The damage of rounding to b bits grows with the variance it adds, so with the square of the
    scale ``(w_max - w_min) / (2^(b-1) - 1)``; it is anchored at int4's measured loss. That puts
    int3 at 0.316 nats, where OPT-1.3b measured 0.377 and BLOOM-3b 0.250.
    Source: LLM-PQ, arXiv:2403.01136, Theorem 1.

    Args:
        layers: number of decoder layers.
        sensitivity: weight of each layer; only their proportions matter.
    """
    weights = [1.0] * layers if sensitivity is None else list(sensitivity)
    total = sum(weights)
    losses = {
        name: tuple(_nominal_loss_nats(name) * weight / total for weight in weights)
        for name in FORMATS
    }
    measure = "nominal nats" if sensitivity is None else "nominal nats, weighted by sensitivity"
    return QualityTable(measure, losses)


def _nominal_loss_nats(format_name: str) -> float:
    weight_format = FORMATS[format_name]
    if not weight_format.is_quantized:
        return 0.0
    steps, int4_steps = (1 << weight_format.bits - 1) - 1, 7
    scale_ratio = int4_steps / steps
    return NOMINAL_INT4_LOSS_NATS * scale_ratio * scale_ratio
