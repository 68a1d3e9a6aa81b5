"""Model shapes: Hugging Face's config.json, and plain data in our own files.

Foreign names stop here: every family's config becomes one ModelSpec.
"""

import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from llmpq_sim.core.errors import InputError, encodable
from llmpq_sim.core.extensions import ExtensionPoint
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.limits import MOST_LAYERS
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.records import from_dict
from llmpq_sim.io.files import is_folder, read_json
from llmpq_sim.io.resources import bundled_dir, bundled_names, is_path, unknown_name

ReadFamily = Callable[[Fields, str], ModelSpec]
"""Reads the config of one family, given the model's name."""

FAMILIES = ExtensionPoint("llmpq.model_families", "model family")
"""Families of installed packages, by ``model_type``: those that are planned, not executed."""

EXPECTED = "a bundled model, a folder with a config.json, or a config.json"
_DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp16"}


def bundled_models() -> tuple[str, ...]:
    """Return the names of the bundled models."""
    return bundled_names("cluster_profiles", "models", ".json")


def load_model(name_or_path: str) -> ModelSpec:
    """Return a bundled model by name, or the model of a folder or a config.json.

    Raises:
        InputError: there is none, or its config.json says something that cannot be.
    """
    if name_or_path in bundled_models():
        return _bundled_model(name_or_path)
    path = Path(name_or_path)
    if is_folder(path):
        path = path / "config.json"
    elif not (is_path(name_or_path, (".json",)) and os.path.lexists(path)):
        raise unknown_name("model", EXPECTED, name_or_path, bundled_models())
    name = path.resolve().parent.name if path.name == "config.json" else path.stem
    return model_from_config(read_json(path), _printable(name) or "model", path.name)


def _printable(name: str) -> str:
    """Return a folder's name as it can stand in files: one line of characters that print."""
    return "".join(letter if letter.isprintable() else "?" for letter in encodable(name))


@cache
def _bundled_model(name: str) -> ModelSpec:
    path = bundled_dir("cluster_profiles") / "models" / f"{name}.json"
    return model_from_config(read_json(path), name, path.name)


def model_from_config(content: object, name: str, where: str) -> ModelSpec:
    """Return the shapes that a config.json describes.

    Keys that neither time nor memory depends on are left alone: the file belongs to others.
    A sliding window is left alone, too, so that the memory of such a model is overestimated.

    Args:
        content: the parsed config.json.
        name: what to call the model.
        where: what messages call the file.

    Raises:
        InputError: the architecture is not supported, or a value cannot be.
    """
    fields = Fields(content, where)
    read = _family(fields)
    if fields.has("quantization_config"):
        raise InputError(
            f"{where}.quantization_config: expected a model with 16-bit weights, got a quantized "
            "one; give the model it was made from"
        )
    return _checked(read(fields, name), where)


def _family(fields: Fields) -> ReadFamily:
    """Return what reads the config of a family that is known here, or to an installed package.

    Raises:
        InputError: none does, or the package cannot be loaded.
    """
    name = fields.text("model_type")
    if name in _FAMILIES:
        return _FAMILIES[name]
    if name not in FAMILIES.names():
        known = ", ".join((*_FAMILIES, *FAMILIES.names()))
        raise InputError(
            f"{fields.where}: model_type {name!r} is not supported; supported are {known}"
        )
    read: ReadFamily = FAMILIES.load(name)
    if not callable(read):
        raise FAMILIES.unfit(name, "a function", read)
    return read


def _checked(spec: ModelSpec, where: str) -> ModelSpec:
    if spec.layers > MOST_LAYERS:
        raise InputError(f"{where}: expected at most {MOST_LAYERS} layers, got {spec.layers}")
    if spec.heads % spec.kv_heads:
        raise InputError(
            f"{where}: expected attention heads in groups of equal size, got {spec.heads} heads "
            f"for {spec.kv_heads} key-value heads"
        )
    return spec


def _head_dim(fields: Fields, hidden_size: int, heads: int) -> int:
    if hidden_size % heads:
        raise InputError(
            f"{fields.where}: expected a hidden size that {heads} attention heads divide, "
            f"got {hidden_size}"
        )
    return hidden_size // heads


def _dtype(fields: Fields) -> str:
    """Return the 16-bit type of the weights; 32-bit ones are loaded as fp16."""
    key = "dtype" if fields.has("dtype") else "torch_dtype"
    return _DTYPES[fields.choice(key, tuple(_DTYPES), "float32")]


# ---- families; names as in the transformers configuration class of each


def _opt(fields: Fields, name: str) -> ModelSpec:
    """Source: OPTConfig, OPTDecoderLayer and OPTLearnedPositionalEmbedding of transformers."""
    hidden = fields.integer("hidden_size")
    embedded = fields.integer("word_embed_proj_dim", hidden)
    if embedded != hidden:
        raise InputError(
            f"{fields.where}.word_embed_proj_dim: expected hidden_size, {hidden}, got {embedded}; "
            "projected embeddings are not supported"
        )
    ffn, heads = fields.integer("ffn_dim"), fields.integer("num_attention_heads")
    positions = fields.integer("max_position_embeddings")
    return ModelSpec(
        name=name,
        family="opt",
        layers=fields.integer("num_hidden_layers"),
        hidden_size=hidden,
        intermediate_size=ffn,
        heads=heads,
        kv_heads=heads,
        head_dim=_head_dim(fields, hidden, heads),
        vocab_size=fields.integer("vocab_size"),
        max_positions=positions,
        gated_mlp=False,
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        position_rows=positions + 2,  # the table starts at an offset of two
        bias_elements=5 * hidden + ffn if fields.flag("enable_bias", True) else 0,
        norm_elements=4 * hidden if fields.flag("layer_norm_elementwise_affine", True) else 0,
        dtype=_dtype(fields),
    )


def _bloom(fields: Fields, name: str) -> ModelSpec:
    """Source: BloomConfig and BloomBlock of transformers; ALiBi needs no position table."""
    hidden = fields.integer("hidden_size" if fields.has("hidden_size") else "n_embed")
    heads = fields.integer("n_head" if fields.has("n_head") else "num_attention_heads")
    return ModelSpec(
        name=name,
        family="bloom",
        layers=fields.integer("n_layer" if fields.has("n_layer") else "num_hidden_layers"),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=_head_dim(fields, hidden, heads),
        vocab_size=fields.integer("vocab_size"),
        max_positions=fields.integer("seq_length", 2048),
        gated_mlp=False,
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        position_rows=0,
        bias_elements=9 * hidden,
        norm_elements=4 * hidden,
        dtype=_dtype(fields),
    )


def _gated(
    fields: Fields,
    name: str,
    *,
    tied: bool = False,
    qkv_bias: bool = False,
    head_norms: bool = False,
    head_dim: int | None = None,
) -> ModelSpec:
    """Read a family with gated MLPs, rotary positions and RMS norms.

    Args:
        fields: the config.
        name: what to call the model.
        tied: whether embeddings are tied where the config does not say.
        qkv_bias: whether its query, key and value projections always have biases.
        head_norms: whether each head's queries and keys are normalised.
        head_dim: the head's width where the config does not say; None for hidden size over heads.

    Source: the configuration and modelling files of each family in transformers.
    """
    hidden, inner = fields.integer("hidden_size"), fields.integer("intermediate_size")
    heads = fields.integer("num_attention_heads")
    if head_dim is None and not fields.has("head_dim"):
        head_dim = _head_dim(fields, hidden, heads)
    head_dim = fields.integer("head_dim", head_dim)
    kv_heads = fields.integer("num_key_value_heads", heads)
    qkv = (heads + 2 * kv_heads) * head_dim
    attention_bias = 0 if qkv_bias or not fields.flag("attention_bias", False) else qkv + hidden
    mlp_bias = 2 * inner + hidden if fields.flag("mlp_bias", False) else 0
    return ModelSpec(
        name=name,
        family=fields.text("model_type"),
        layers=fields.integer("num_hidden_layers"),
        hidden_size=hidden,
        intermediate_size=inner,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=fields.integer("vocab_size"),
        max_positions=fields.integer("max_position_embeddings"),
        gated_mlp=True,
        tied_embeddings=fields.flag("tie_word_embeddings", tied),
        position_rows=0,
        bias_elements=(qkv if qkv_bias else attention_bias) + mlp_bias,
        norm_elements=2 * hidden + (2 * head_dim if head_norms else 0),
        dtype=_dtype(fields),
    )


_FAMILIES: dict[str, ReadFamily] = {
    "opt": _opt,
    "bloom": _bloom,
    "llama": _gated,
    "mistral": _gated,
    "qwen2": partial(_gated, qkv_bias=True),
    "qwen3": partial(_gated, head_norms=True, head_dim=128),
    "gemma": partial(_gated, tied=True, head_dim=256),
}


# ---- our own files


def model_from_dict(fields: Fields) -> ModelSpec:
    """Return the model that ``to_dict`` made plain data of.

    Raises:
        InputError: a value is missing, unknown or cannot be.
    """
    return _checked(from_dict(ModelSpec, fields), fields.where)
