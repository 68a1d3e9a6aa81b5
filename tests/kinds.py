"""Small made-up layers of every kind, and models of them."""

from collections.abc import Sequence
from dataclasses import replace

from llmpq_sim.core.layers import (
    Attention,
    Experts,
    LatentAttention,
    LayerKind,
    Linear,
    Recurrent,
)
from llmpq_sim.core.model import ModelSpec
from tests.builders import tiny_model

WIDTH = 256
DENSE = tiny_model().kinds[0]
WINDOW = replace(DENSE, mixer=Attention(4, 4, 64, 64, window=8))
EXPERTS = replace(DENSE, feed_forward=Experts(8, 2, 256, shared_inner_size=128))
LATENT = replace(DENSE, mixer=LatentAttention(4, 128, 64, 32, 16, 32))
RECURRENT = replace(
    DENSE,
    mixer=Recurrent(
        "gated-delta",
        (Linear("in", 640, WIDTH), Linear("out", WIDTH, 256)),
        heads=4,
        key_dim=32,
        value_dim=64,
        state_elements=4 * 32 * 64,
        state_element_bytes=4,
        convolution_elements=384,
        convolution_weights=512,
    ),
)
MIXER_ALONE = replace(DENSE, feed_forward=None)
MLP_ALONE = replace(DENSE, mixer=None)

EVERY_KIND = (DENSE, WINDOW, EXPERTS, LATENT, RECURRENT, MIXER_ALONE, MLP_ALONE)


def mixed_model(layers: Sequence[LayerKind], *, extra_first_bytes: int = 0) -> ModelSpec:
    """Return the tiny model with these layers."""
    kinds = tuple(dict.fromkeys(layers))
    return replace(
        tiny_model(),
        kinds=kinds,
        kind_of_layer=tuple(kinds.index(layer) for layer in layers),
        extra_first_bytes=extra_first_bytes,
    )


def in_twos(model: ModelSpec) -> ModelSpec:
    """Return the same model with each kind listed twice, its layers taking turns with them."""
    pairs = enumerate(model.kind_of_layer)
    return replace(
        model,
        kinds=tuple(kind for kind in model.kinds for _ in range(2)),
        kind_of_layer=tuple(2 * number + layer % 2 for layer, number in pairs),
    )
