"""Measured losses for tests: made up, of the shapes of a bundled model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from llmpq_sim.core.model import ModelSpec
from llmpq_sim.io.quality import shape_sha256
from llmpq_sim.quality.measured import (
    MEASURES,
    Additivity,
    MeasuredLoss,
    MeasuredQuality,
    TextFacts,
)

Columns = Mapping[str, Sequence[float | None]]
"""Losses by format and layer; None is a layer that diverged."""

LAYER_LOSSES = {"int8": 0.0001, "int4": 0.004, "int3": 0.02}
"""Mean loss of a layer; the last layer of a model loses three times as much as the first."""


def measured_quality(model: ModelSpec, losses: Columns | None = None) -> MeasuredQuality:
    """Return losses as if measured by KL divergence."""
    columns = losses or {
        name: [mean * (0.5 + layer / (model.layers - 1)) for layer in range(model.layers)]
        for name, mean in LAYER_LOSSES.items()
    }
    rows = [
        MeasuredLoss(layer, name, loss, 0.05 * (loss or 0.0), loss or 0.0, 0.5)
        for name, column in columns.items()
        for layer, loss in enumerate(column)
    ]
    return MeasuredQuality(
        method="kl",
        measure=MEASURES["kl"],
        seed=0,
        model_name=model.name,
        shape_sha256=shape_sha256(model),
        weights_sha256="0" * 64,
        text=TextFacts("text.txt", "1" * 64, 4096, 8, 512),
        quantizers=dict.fromkeys(columns, "rtn"),
        reference_nats=3.0,
        additivity=Additivity(8, 0.05),
        rows=tuple(rows),
    )


def as_indicator(measured: MeasuredQuality, method: str) -> MeasuredQuality:
    """Return the same numbers as if an indicator had given them."""
    return replace(
        measured,
        method=method,
        measure=MEASURES[method],
        reference_nats=None,
        additivity=None,
        rows=tuple(replace(row, standard_error=0.0) for row in measured.rows),
    )
