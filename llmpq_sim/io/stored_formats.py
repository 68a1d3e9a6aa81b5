"""Formats in which a published checkpoint stores its layers, and what its files prove of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.io.decoder_family import distinct
from llmpq_sim.io.quantization_files import (
    FormatRules,
    StoredFormat,
    rules_of_config,
    rules_of_files,
)
from llmpq_sim.io.tensor_headers import tensor_types

PREFIXES = ("model.layers", "model.language_model.layers", "language_model.model.layers")
"""Where layers stand in checkpoints."""

MIXERS = ("self_attn", "linear_attn", "mixer", "mamba")
FEED_FORWARDS = ("mlp", "mixer", "feed_forward", "block_sparse_moe")
"""What layers call their parts."""

LEAVES: Mapping[str, tuple[str, ...]] = {
    "qkv": ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value"),
    "out": ("o_proj", "out_proj", "dense"),
    "q": ("q_proj",),
    "q_a": ("q_a_proj",),
    "q_b": ("q_b_proj",),
    "kv_a": ("kv_a_proj_with_mqa",),
    "kv_b": ("kv_b_proj",),
    "index_q": ("indexer.wq_b",),
    "index_k": ("indexer.wk",),
    "in": ("in_proj", "in_proj_qkv", "in_proj_qkvz"),
    "x": ("x_proj",),
    "dt": ("dt_proj",),
    "up": ("up_proj", "gate_proj", "gate_up_proj"),
    "down": ("down_proj",),
    "experts_up": ("experts.0.up_proj", "experts.0.w1", "experts.gate_up_proj"),
    "experts_down": ("experts.0.down_proj", "experts.0.w2", "experts.down_proj"),
    "shared_up": (
        "shared_experts.up_proj",
        "shared_expert.up_proj",
        "shared_mlp.up_proj",
    ),
    "shared_down": (
        "shared_experts.down_proj",
        "shared_expert.down_proj",
        "shared_mlp.down_proj",
    ),
    "latent_in": ("fc1_latent_proj",),
    "latent_out": ("fc2_latent_proj",),
}
"""What checkpoints call the products of a layer."""

IN_MIXERS = frozenset(
    ("qkv", "out", "q", "q_a", "q_b", "kv_a", "kv_b", "index_q", "index_k", "in", "x", "dt")
)

TYPES: Mapping[str, frozenset[str]] = {
    "fp8": frozenset(("F8_E4M3", "F8_E5M2")),
    "fp8-block": frozenset(("F8_E4M3",)),
    "w8a8-fp8": frozenset(("F8_E4M3",)),
    "w8a8-int8": frozenset(("I8",)),
    "int8": frozenset(("I8", "U8", "I32", "U32")),
    "int4-g32": frozenset(("I32", "U32", "U8")),
    "int4-g128": frozenset(("I32", "U32", "U8")),
    "mxfp4": frozenset(("U8", "I8", "F4")),
    "nvfp4": frozenset(("U8", "I8", "F4")),
}
"""Types of tensors in which codes of a format are stored."""

PACKED_NAMES = ("qweight", "weight_packed", "_blocks", "weight_q")
SIXTEEN_BITS = frozenset(("F16", "BF16", "F32", "F64"))


@dataclass(frozen=True)
class StoredFormats:
    """Formats of a published checkpoint.

    Attributes:
        source: where they are said.
        of_layers: the format of each layer, by its name here or else as the checkpoint calls it.
        unknown: descriptions of formats that have no name here.
        kept: for each layer the products that stay at 16 bits.
        is_binding: whether there is a checkpoint of them; else they are what is usual.
    """

    source: str
    of_layers: tuple[str, ...]
    unknown: tuple[str, ...]
    kept: tuple[tuple[str, ...], ...]
    is_binding: bool = True

    @property
    def summary(self) -> str:
        """The formats and how many layers have each."""
        counts = {name: self.of_layers.count(name) for name in dict.fromkeys(self.of_layers)}
        return ", ".join(f"{count} layers {name}" for name, count in counts.items())

    def applied(self, model: ModelSpec) -> ModelSpec:
        """Return the model with the products that stay at 16 bits marked."""
        kinds = [
            replace(model.layer_kind(layer), kept_linears=names)
            for layer, names in enumerate(self.kept)
        ]
        found, of_layer = distinct(kinds)
        return replace(model, kinds=found, kind_of_layer=of_layer)


def stored_formats(fields: Fields, model: ModelSpec, folder: Path | None) -> StoredFormats | None:
    """Return the formats in which a checkpoint's layers are stored, None for 16 bits.

    Args:
        fields: its config.json.
        model: what the config describes.
        folder: where its other files are, None where the config is all there is.

    Raises:
        InputError: files disagree, or say something that is not understood.
    """
    rules = [rule for rule in (rules_of_config(fields),) if rule is not None]
    rules += rules_of_files(folder) if folder else []
    found = [_applied(rule, model) for rule in rules]
    for other in found[1:]:
        if other.of_layers != found[0].of_layers:
            raise InputError(
                f"{other.source}: expected {found[0].summary} as {found[0].source} says, got "
                f"{other.summary}"
            )
    stored = found[0] if found and any(name != model.dtype for name in found[0].of_layers) else None
    if folder is not None:
        _check_headers(stored, tensor_types(folder), folder)
    return stored


def usual_formats(
    model: ModelSpec, name: str, linears: tuple[str, ...], source: str
) -> StoredFormats:
    """Return the formats of a model that is published in one format alone.

    Args:
        model: the model.
        name: the format.
        linears: the products that have it, empty for all; layers without them have 16 bits.
        source: where that is said.
    """
    of_layers, kept = [], []
    for layer in range(model.layers):
        names = [each.name for each in model.layer_kind(layer).linears if each.is_formatted]
        stored = [each for each in names if not linears or each in linears]
        of_layers.append(name if stored else model.dtype)
        kept.append(tuple(each for each in names if each not in stored) if stored else ())
    return StoredFormats(source, tuple(of_layers), (), tuple(kept), is_binding=False)


def _applied(rules: FormatRules, model: ModelSpec) -> StoredFormats:
    """Return what rules say of each layer."""
    names, kept, unknown = [], [], []
    for layer in range(model.layers):
        kind = model.layer_kind(layer)
        formats = {
            linear.name: rules.format_of(modules(layer, linear.name))
            for linear in kind.linears
            if linear.is_formatted
        }
        stored = _only(rules, layer, formats)
        names.append(model.dtype if stored is None else stored.name or stored.described)
        unknown += [stored.described] if stored is not None and not stored.name else []
        plain = tuple(name for name, each in formats.items() if each is None)
        kept.append(plain if stored is not None else ())
    return StoredFormats(rules.source, tuple(names), tuple(dict.fromkeys(unknown)), tuple(kept))


def _only(
    rules: FormatRules, layer: int, formats: Mapping[str, StoredFormat | None]
) -> StoredFormat | None:
    """Return the one format that quantized products of a layer have, None for none.

    Raises:
        InputError: they have several.
    """
    found = list(dict.fromkeys(each for each in formats.values() if each is not None))
    if len(found) > 1:
        raise InputError(
            f"{rules.source}: expected one format for all quantized matrices of a layer, got "
            f"{' and '.join(each.described for each in found)} in layer {layer}"
        )
    return found[0] if found else None


def modules(layer: int, linear: str) -> list[str]:
    """Return the names that checkpoints may have for a product of a layer."""
    parts = MIXERS if linear in IN_MIXERS else FEED_FORWARDS
    leaves = LEAVES.get(linear, (linear,))
    return [
        f"{prefix}.{layer}.{part}.{leaf}" for prefix, part, leaf in product(PREFIXES, parts, leaves)
    ]


def _check_headers(stored: StoredFormats | None, types: Mapping[str, str], folder: Path) -> None:
    """Check that tensors are stored in types that hold what the other files say.

    Raises:
        InputError: they are not.
    """
    weights = {name: each for name, each in types.items() if _is_weight(name)}
    codes = {name: each for name, each in weights.items() if each not in SIXTEEN_BITS}
    if stored is None:
        for name, each in codes.items():
            raise InputError(
                f"{folder}: expected 16-bit weights as config.json says, got {name} of type "
                f"{each}: quantized weights, of a format that no file names"
            )
        return
    known = [TYPES[name] for name in set(stored.of_layers) if name in TYPES]
    expected = frozenset().union(*known)
    if not weights or not known or set(codes.values()) & expected:
        return
    found = ", ".join(sorted(set(weights.values())))
    raise InputError(
        f"{folder}: expected weights of type {', '.join(sorted(expected))} as {stored.source} says "
        f"({stored.summary}), got tensors of type {found}"
    )


def _is_weight(name: str) -> bool:
    return name.endswith(".weight") or any(name.endswith(ending) for ending in PACKED_NAMES)
