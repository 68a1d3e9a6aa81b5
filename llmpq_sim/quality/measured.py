"""Measured quality loss of each layer of a model in each format, on a text."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.records import Finite, Natural, NotNegative
from llmpq_sim.quality.table import QualityTable

MEASURES = {
    "kl": "nats of KL per token",
    "variance": "LLM-PQ variance indicator",
    "variance-stochastic": "LLM-PQ variance indicator of stochastic rounding",
    "hessian": "Hessian indicator",
}
"""What the losses of each method are."""


@dataclass(frozen=True)
class TextFacts:
    """The text that a model was measured on, cut into windows of equal length."""

    name: str
    sha256: str
    tokens: int
    windows: int
    window_tokens: int


@dataclass(frozen=True)
class Additivity:
    """How well the sum over layers tells the loss of a whole assignment of formats.

    Attributes:
        assignments: mixed assignments that were measured whole.
        error_fraction: 90th percentile of the relative error of the sum.
    """

    assignments: int
    error_fraction: NotNegative


@dataclass(frozen=True)
class MeasuredLoss:
    """What one layer in one format does to the model, every other layer kept at 16 bits.

    Attributes:
        layer: its number, from 0.
        format: of its weights.
        loss: in the unit of the method; None where the layer diverged.
        standard_error: of the loss over windows; 0.0 where the method has none.
        cross_entropy_increase: nats per token on the text; 0.0 where the method has none.
        seconds: what the measurement took.
    """

    layer: Natural
    format: str
    loss: NotNegative | None
    standard_error: NotNegative
    cross_entropy_increase: Finite
    seconds: NotNegative

    @property
    def diverged(self) -> bool:
        """Whether the model is of no use with the layer in this format."""
        return self.loss is None


@dataclass(frozen=True)
class ExpertUse:
    """How often the text's tokens chose each expert of a layer, in the 16-bit model."""

    layer: Natural
    choices: tuple[Natural, ...]


@dataclass(frozen=True)
class MeasuredQuality:
    """The measured losses of a model.

    Attributes:
        method: one of MEASURES.
        measure: what the losses are, such as ``nats of KL per token``.
        seed: of every random draw.
        model_name: what the model was called.
        shape_sha256: hash of the model's shapes.
        weights_sha256: hash of its checkpoint.
        text: what it was measured on.
        quantizers: how the weights of each measured format were chosen, by name.
        reference_nats: cross-entropy per token of the 16-bit model; None of indicators.
        additivity: how far sums over layers are off; None where that was not measured.
        rows: one per layer and format; 16-bit formats have none, for they lose nothing.
        expert_use: of each layer that has experts, where that was counted.
    """

    method: str
    measure: str
    seed: int
    model_name: str
    shape_sha256: str
    weights_sha256: str
    text: TextFacts
    quantizers: Mapping[str, str]
    reference_nats: float | None
    additivity: Additivity | None
    rows: tuple[MeasuredLoss, ...]
    expert_use: tuple[ExpertUse, ...] = ()

    @property
    def reference_perplexity(self) -> float | None:
        """Perplexity of the 16-bit model on the text; None of indicators."""
        return None if self.reference_nats is None else math.exp(self.reference_nats)

    def table(self, layers: int) -> QualityTable:
        """Return the losses as a table: 16 bits lose nothing, diverged layers lose infinitely.

        A format is left out unless every layer was measured in it.

        Raises:
            InputError: a layer was measured that the model does not have.
        """
        by_format = self._by_format(layers)
        complete = {name: rows for name, rows in by_format.items() if len(rows) == layers}
        exact = (0.0,) * layers
        losses = {name: exact for name, kept in FORMATS.items() if not kept.is_quantized}
        errors = {}
        for name, rows in complete.items():
            ordered = [rows[layer] for layer in range(layers)]
            losses[name] = tuple(math.inf if row.loss is None else row.loss for row in ordered)
            errors[name] = tuple(row.standard_error for row in ordered)
        if not any(map(any, errors.values())):  # a method without standard errors is not exact
            errors = {}
        off = None if self.additivity is None else self.additivity.error_fraction
        return QualityTable(self.measure, losses, errors, off, self.reference_nats)

    def missing_layers(self, layers: int) -> dict[str, int]:
        """Return how many layers were not measured, for each format that lacks some."""
        by_format = self._by_format(layers)
        lacking = {name: layers - len(by_format.get(name, {})) for name in self.quantizers}
        return {name: missing for name, missing in lacking.items() if missing}

    def _by_format(self, layers: int) -> dict[str, dict[int, MeasuredLoss]]:
        found: dict[str, dict[int, MeasuredLoss]] = {}
        for row in self.rows:
            if row.layer >= layers:
                raise InputError(
                    f"quality of {self.model_name}: expected rows of layers 0 to {layers - 1}, "
                    f"got one of layer {row.layer}"
                )
            found.setdefault(row.format, {})[row.layer] = row
        return found
