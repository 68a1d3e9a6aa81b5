"""Reading of a dense decoder's config.json by what its family means by it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.model import ModelSpec, dense_model

ReadFamily = Callable[[Fields, str], ModelSpec]
"""Reads the config of one family, given the model's name."""

Switch = bool | tuple[str, bool]
"""Whether something is there: always, never, or what a key says and where it is silent."""

DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp16"}

UNSCALED_ROPE = ("default", "llama3", "longrope", "su", "mrope")
"""Types of rotary scaling whose config already states the lengthened context (vLLM,
``_get_and_verify_max_len``)."""


@dataclass(frozen=True)
class Shapes:
    """What the products of a layer are made of."""

    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def qkv(self) -> int:
        """Rows of the query, key and value projections."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim


@dataclass(frozen=True)
class DecoderFamily:
    """What a config of a family means; defaults are those of most families.

    Attributes:
        model_class: transformers' class for causal language models.
        gated: whether the MLP has a gate beside its up projection.
        tied: whether embeddings are tied where the config does not say.
        norms: vectors of the norms of a layer: a LayerNorm has two, an RMS norm one.
        has_head_norms: whether queries and keys are normalised.
        head_norms: a vector for all heads (``shared``), two (``shared-biased``), or one for every
            head of its own (``each``).
        qkv_bias, out_bias, mlp_bias: which products have biases.
        head_dim: of a head where the config does not say; None for hidden size over heads.
        kv_heads: where the config does not say; None for as many as heads.
        inner_ratio: inner size over hidden size where the config does not say.
        extra: other elements of a layer.
        has_position_table: whether positions are learned.
        keys: its names of keys by the usual ones, empty for what it never says.
    """

    model_class: str
    gated: bool = True
    tied: bool = False
    norms: int = 2
    has_head_norms: Switch = False
    head_norms: Literal["shared", "shared-biased", "each"] = "shared"
    qkv_bias: Switch = False
    out_bias: Switch = False
    mlp_bias: Switch = False
    head_dim: int | None = None
    kv_heads: int | None = None
    inner_ratio: int | None = None
    extra: int = 0
    has_position_table: bool = False
    keys: Mapping[str, str] = field(default_factory=dict)

    def read(self, fields: Fields, name: str) -> ModelSpec:
        """Return the shapes that a config of this family describes.

        Raises:
            InputError: a value is missing or cannot be.
        """
        shapes = self._shapes(fields)
        positions = fields.integer(self._key("max_position_embeddings"))
        return dense_model(
            name=name,
            family=fields.text("model_type"),
            layers=fields.integer(self._key("num_hidden_layers")),
            hidden_size=shapes.hidden,
            intermediate_size=shapes.inner,
            heads=shapes.heads,
            kv_heads=shapes.kv_heads,
            head_dim=shapes.head_dim,
            vocab_size=fields.integer("vocab_size"),
            max_positions=lengthened(fields, positions),
            gated_mlp=self.gated,
            tied_embeddings=fields.flag("tie_word_embeddings", self.tied),
            position_rows=positions if self.has_position_table else 0,
            bias_elements=self._biases(fields, shapes),
            norm_elements=self.norms * shapes.hidden + self._head_norms(fields, shapes),
            dtype=dtype_of(fields),
        )

    def _key(self, usual: str) -> str:
        return self.keys.get(usual, usual)

    def _shapes(self, fields: Fields) -> Shapes:
        hidden = fields.integer(self._key("hidden_size"))
        ratio = self.inner_ratio
        inner = fields.integer(self._key("intermediate_size"), *([ratio * hidden] if ratio else []))
        heads = fields.integer(self._key("num_attention_heads"))
        head_dim = self.head_dim
        if head_dim is None and not fields.has("head_dim"):
            head_dim = head_dim_of(fields, hidden, heads)
        return Shapes(
            hidden=hidden,
            inner=inner,
            heads=heads,
            kv_heads=fields.integer(self._key("num_key_value_heads"), self.kv_heads or heads),
            head_dim=fields.integer("head_dim", head_dim),
        )

    def _biases(self, fields: Fields, shapes: Shapes) -> int:
        up = (2 if self.gated else 1) * shapes.inner
        return (
            is_on(fields, self.qkv_bias) * shapes.qkv
            + is_on(fields, self.out_bias) * shapes.hidden
            + is_on(fields, self.mlp_bias) * (up + shapes.hidden)
        )

    def _head_norms(self, fields: Fields, shapes: Shapes) -> int:
        """Return the elements of the norms of queries and keys, and of what else a layer has."""
        if not is_on(fields, self.has_head_norms):
            return self.extra
        vectors = {
            "shared": 2,
            "shared-biased": 4,
            "each": shapes.heads + shapes.kv_heads,
        }
        return vectors[self.head_norms] * shapes.head_dim + self.extra


def is_on(fields: Fields, switch: Switch) -> bool:
    """Return what a switch says of this config."""
    return switch if isinstance(switch, bool) else fields.flag(*switch)


def head_dim_of(fields: Fields, hidden_size: int, heads: int) -> int:
    """Return the width of a head where heads share the hidden size.

    Raises:
        InputError: they cannot share it equally.
    """
    if hidden_size % heads:
        raise InputError(
            f"{fields.where}: expected a hidden size that {heads} attention heads divide, "
            f"got {hidden_size}"
        )
    return hidden_size // heads


def dtype_of(fields: Fields) -> str:
    """Return the 16-bit type of the weights; 32-bit ones are loaded as fp16."""
    key = "dtype" if fields.has("dtype") else "torch_dtype"
    return DTYPES[fields.choice(key, tuple(DTYPES), "float32")]


def lengthened(fields: Fields, positions: int) -> int:
    """Return the longest context, with what a scaled rotary embedding adds as vLLM counts it.

    YaRN lengthens the context it was trained with; others the one that the config states.
    Source: vLLM, ``_get_and_verify_max_len``.
    """
    key = "rope_parameters" if fields.has("rope_parameters") else "rope_scaling"
    if not isinstance(fields.value(key, None), Mapping):
        return positions
    rope = fields.fields(key)
    kind = rope.value("rope_type" if rope.has("rope_type") else "type", "default")
    if not isinstance(kind, str) or kind in UNSCALED_ROPE or not rope.has("factor"):
        return positions
    trained = rope.integer("original_max_position_embeddings", positions)
    return int((trained if kind == "yarn" else positions) * rope.number("factor"))
