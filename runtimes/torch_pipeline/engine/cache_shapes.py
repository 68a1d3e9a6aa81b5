"""Sizes of the KV cache that a model's layers need, as its configuration says them."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from llmpq_sim.core.errors import InputError
from runtimes.torch_pipeline.engine.kv_cache import KvCache


@dataclass(frozen=True)
class CacheShape:
    """How much KV cache a stage has.

    Attributes:
        rows: sequences at once.
        context_tokens: of the longest of them.
    """

    rows: int
    context_tokens: int


def empty_cache(
    config: Any, shape: CacheShape, dtype: torch.dtype, device: torch.device
) -> KvCache:
    """Return the cache of a stage; a layer that sees a window keeps no more than that.

    Args:
        config: of the model, cut to the stage's layers.
        shape: how many sequences, how long.
        dtype: of keys and values.
        device: where they are.

    Raises:
        InputError: some layer keeps something else than keys and values.
    """
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    layers = []
    for window in windows(config):
        tokens = shape.context_tokens if window is None else min(window, shape.context_tokens)
        size = (2, shape.rows, _kv_heads(config), tokens, head_dim)
        layers.append(torch.zeros(size, dtype=dtype, device=device))
    return KvCache(layers, shape.context_tokens)


def windows(config: Any) -> list[int | None]:
    """Return how many tokens each layer's tokens see, None for all, as transformers' cache does.

    Raises:
        InputError: some layer keeps something else than keys and values.
    """
    found: list[int | None] = []
    for number, layer in enumerate(DynamicCache(config=config).layers):
        kind = type(layer).__name__
        if kind not in ("DynamicLayer", "DynamicSlidingWindowLayer"):
            raise InputError(
                f"model {config.model_type}: layer {number} keeps a {kind}; the torch runtime "
                "keeps keys and values of a context or of a window"
            )
        found.append(getattr(layer, "sliding_window", None))
    return found


def _kv_heads(config: Any) -> int:
    heads: int = config.num_attention_heads
    if config.model_type == "falcon":
        if config.new_decoder_architecture:
            return int(config.num_kv_heads)
        return 1 if config.multi_query else heads
    return getattr(config, "num_key_value_heads", None) or heads
