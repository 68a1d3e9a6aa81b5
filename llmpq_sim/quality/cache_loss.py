"""Quality loss of a quantized KV cache."""

from dataclasses import replace

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.kv_formats import KV_FORMATS
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.quality.table import NOMINAL_INT4_LOSS_NATS, QualityTable

NOISY_SHARE = 2 / 7
"""Of the seven matrices of a layer, noise on keys and values is that of two: of the projections
that make them, whose outputs are off by the same fraction as their weights."""


def nominal_cache_loss_nats(kv_format: str) -> float:
    """Return the mean loss per token when the caches of all layers are kept so.

    It grows with the square of the noise, as that of weights does, on the scale of int4's.
    """
    steps, int4_steps = KV_FORMATS[kv_format].steps, FORMATS["int4"].steps
    if steps is None or int4_steps is None:
        return 0.0
    return NOISY_SHARE * NOMINAL_INT4_LOSS_NATS * (int4_steps / steps) ** 2


def with_cache_loss(table: QualityTable, model: ModelSpec) -> QualityTable:
    """Return a table whose losses hold those of the model's KV cache, shared out over layers.

    Layers without a cache that grows have none of it.

    Raises:
        InputError: losses are in a measure that nats do not add to.
    """
    shares = [
        nominal_cache_loss_nats(model.layer_kind(layer).kv_format) / model.layers
        for layer in range(model.layers)
    ]
    if not any(shares):
        return table
    if "nats" not in table.measure:
        raise InputError(
            f"--kv-formats: the loss of a cache is in nats, and does not add to {table.measure}"
        )
    losses = {
        name: tuple(loss + share for loss, share in zip(of_layers, shares, strict=True))
        for name, of_layers in table.losses.items()
    }
    return replace(table, losses=losses)
