"""Kinds of layers in words."""

from collections import Counter
from typing import Any

from llmpq_sim.core.layers import Attention, Dense, Experts, LatentAttention, LayerKind
from llmpq_sim.core.model import ModelSpec

LETTERS = "abcdefghijklmnopqrstuvwxyz"
"""Symbols of kinds of layers on a map; further ones begin again."""


def kind_texts(model: ModelSpec) -> tuple[str, ...]:
    """Return what each kind of layer of a model is, with sizes where others are called alike."""
    short = [_text(kind, with_sizes=False) for kind in model.kinds]
    counts = Counter(short)
    return tuple(
        text if counts[text] == 1 else _text(kind, with_sizes=True)
        for text, kind in zip(short, model.kinds, strict=True)
    )


def layer_parts(model: ModelSpec) -> list[str]:
    """Return how many layers a model has of each kind, none where all are plain and alike."""
    if is_plain(model):
        return []
    pairs = zip(model.layers_by_kind, kind_texts(model), strict=True)
    return [f"{count} x {text}" for count, text in pairs]


def layer_kinds_content(model: ModelSpec) -> dict[str, Any]:
    """Return the kinds of layers as plain data, nothing where all are plain and alike."""
    if is_plain(model):
        return {}
    pairs = zip(kind_texts(model), model.layers_by_kind, strict=True)
    return {"layer_kinds": [{"kind": text, "layers": count} for text, count in pairs]}


def is_plain(model: ModelSpec) -> bool:
    """Return whether all layers are alike, with attention to all tokens and an MLP."""
    kind = model.kinds[0]
    is_whole = isinstance(kind.mixer, Attention) and kind.mixer.window is None
    return len(model.kinds) == 1 and is_whole and isinstance(kind.feed_forward, Dense)


def _text(kind: LayerKind, *, with_sizes: bool) -> str:
    parts = [_mixer_text(kind, with_sizes), _feed_forward_text(kind, with_sizes)]
    return " + ".join(part for part in parts if part) or "nothing"


def _mixer_text(kind: LayerKind, with_sizes: bool) -> str:
    mixer = kind.mixer
    if mixer is None:
        return ""
    if not isinstance(mixer, Attention):
        return "latent attention" if isinstance(mixer, LatentAttention) else mixer.algorithm
    sizes = f" {mixer.heads}/{mixer.kv_heads} x {mixer.key_dim}" if with_sizes else ""
    window = "" if mixer.window is None else f" within {mixer.window}"
    return f"attention{sizes}{window}"


def _feed_forward_text(kind: LayerKind, with_sizes: bool) -> str:
    part = kind.feed_forward
    if part is None:
        return ""
    sizes = f" of {part.inner_size}" if with_sizes else ""
    if isinstance(part, Experts):
        return f"{part.chosen} of {part.count} experts{sizes}"
    return f"MLP{sizes}"
