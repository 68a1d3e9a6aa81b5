"""Reading of a decoder's config.json by what its family means by it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, kind_of
from llmpq_sim.core.layers import LayerKind
from llmpq_sim.core.limits import MOST_LAYERS
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.io.family_config import FamilyConfig, Keys, Switch
from llmpq_sim.io.layer_parts import GroupedQuery, Plain, Rule
from llmpq_sim.io.layer_patterns import DENSE, FULL, Pattern, all_of, layer_names

ReadFamily = Callable[[Fields, str], ModelSpec]
"""Reads the config of one family, given the model's name."""

DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp16"}

UNSCALED_ROPE = ("default", "llama3", "longrope", "su", "mrope")
"""Types of rotary scaling whose config already states the lengthened context (vLLM,
``_get_and_verify_max_len``)."""

SHAPE_KEYS = (
    "adapter_layers",
    "altup_num_inputs",
    "attn_res_block_size",
    "block_configs",
    "compress_ratios",
    "conv_L_cache",
    "cross_attention_layers",
    "embedding_size",
    "enable_moe_block",
    "experts_per_token",
    "global_head_dim",
    "hc_mult",
    "hidden_size_per_layer_input",
    "hybrid_override_pattern",
    "index_topk",
    "kv_lora_rank",
    "laurel_rank",
    "layer_types",
    "layers_block_type",
    "linear_attn_config",
    "linear_num_value_heads",
    "mamba_d_state",
    "mlp_layer_types",
    "moe_intermediate_size",
    "moe_k",
    "moe_latent_size",
    "moe_num_experts",
    "moe_topk",
    "n_routed_experts",
    "n_shared_experts",
    "num_dense_layers",
    "num_experts",
    "num_experts_per_tok",
    "num_experts_per_token",
    "num_kv_shared_layers",
    "num_local_experts",
    "num_shared_experts",
    "o_lora_rank",
    "per_layer_config",
    "q_lora_rank",
    "qk_nope_head_dim",
    "routed_expert_hidden_size",
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
    "sparse_attention_config",
    "ssm_state_size",
    "top_k_experts",
    "use_double_wide_mlp",
    "v_head_dim",
    "word_embed_proj_dim",
    "zero_expert_num",
)
"""Keys that change the shapes of layers: a family that does not read one of them has none."""


ALL_FULL, ALL_DENSE = all_of(FULL), all_of(DENSE)


@dataclass(frozen=True)
class DecoderFamily:
    """What a config of a family means; defaults are those of most families.

    Attributes:
        model_class: transformers' class for causal language models.
        classes: other classes that a config may name.
        tied: whether embeddings are tied where the config does not say.
        norms: vectors of the norms of a layer: a LayerNorm has two, an RMS norm one.
        has_norms: whether norms have vectors at all.
        has_position_table: whether positions are learned.
        extra_positions: rows of the table before the first position.
        keys: its names of keys by the usual ones, empty for what it never says.
        defaults: values by the usual names where the config does not say.
        mixers: how each mixer is read, by its name.
        arrangement: which mixer each layer has, where the config does not list them.
        parts: how each feed-forward part is read, by its name.
        part_of_layer: which feed-forward part each layer has, where the config does not list them.
        ignored: keys of shapes that say nothing here, such as what another version reads.
        most: largest values of keys, above which layers are made in a way that is not read.
        note: what a reader should know of every model of the family.
    """

    model_class: str
    classes: tuple[str, ...] = ()
    tied: bool = False
    norms: int = 2
    has_norms: Switch = True
    has_position_table: bool = False
    extra_positions: int = 0
    keys: Keys = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    mixers: Mapping[str, Rule] = field(default_factory=lambda: {FULL: GroupedQuery()})
    arrangement: Pattern = ALL_FULL
    parts: Mapping[str, Rule] = field(default_factory=lambda: {DENSE: Plain()})
    part_of_layer: Pattern = ALL_DENSE
    ignored: tuple[str, ...] = ()
    most: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    def read(
        self, fields: Fields, name: str, usual: Mapping[str, object] | None = None
    ) -> ModelSpec:
        """Return the model that a config of this family describes.

        Args:
            fields: the config.
            name: what to call the model.
            usual: values by the family's own names of keys where neither it nor the config says.

        Raises:
            InputError: a value is missing or cannot be, or a key says what is not understood.
        """
        config = FamilyConfig(fields, self.keys, self.defaults, usual or {})
        self._check_most(config)
        layers = layer_count(config)
        hidden = config.integer("hidden_size")
        kinds, kind_of_layer = distinct(self._kinds(config, layers, hidden))
        positions = config.integer("max_position_embeddings")
        spec = ModelSpec(
            name=name,
            family=fields.text("model_type"),
            hidden_size=hidden,
            vocab_size=config.integer("vocab_size"),
            max_positions=lengthened(fields, positions),
            tied_embeddings=config.flag("tie_word_embeddings", self.tied),
            position_rows=(positions + self.extra_positions) * self.has_position_table,
            dtype=dtype_of(fields),
            kinds=kinds,
            kind_of_layer=kind_of_layer,
        )
        check_shape_keys(fields, self.ignored)
        return spec

    def _check_most(self, config: FamilyConfig) -> None:
        for key, most in self.most.items():
            value = config.integer(key, 0, least=0)
            if value > most:
                raise InputError(
                    f"{config.where(key)}: expected at most {most}, got {value}; such layers are "
                    "not understood"
                )

    def _kinds(self, config: FamilyConfig, layers: int, hidden: int) -> list[LayerKind]:
        """Return the kind of each layer."""
        mixers = layer_names(config, "layer_types", layers, self.arrangement)
        parts = layer_names(config, "mlp_layer_types", layers, self.part_of_layer)
        _check_known(config, "layer_types", mixers, self.mixers)
        _check_known(config, "mlp_layer_types", parts, self.parts)
        return [
            self._kind(config.of_layer(layer, layers), hidden, mixer, part)
            for layer, (mixer, part) in enumerate(zip(mixers, parts, strict=True))
        ]

    def _kind(self, config: FamilyConfig, hidden: int, mixer: str, part: str) -> LayerKind:
        mixing = self.mixers[mixer].read(config, hidden)
        feeding = self.parts[part].read(config, hidden)
        return LayerKind(
            hidden_size=hidden,
            mixer=mixing.content,  # type: ignore[arg-type]  # a rule of mixers reads mixers
            feed_forward=feeding.content,  # type: ignore[arg-type]  # and of parts, parts
            bias_elements=mixing.bias_elements + feeding.bias_elements,
            norm_elements=config.is_on(self.has_norms) * self.norms * hidden
            + mixing.norm_elements
            + feeding.norm_elements,
        )


def distinct(kinds: list[LayerKind]) -> tuple[tuple[LayerKind, ...], tuple[int, ...]]:
    """Return the different kinds in the order of their first layers, and each layer's number."""
    numbers: dict[LayerKind, int] = {}
    of_layer = tuple(numbers.setdefault(kind, len(numbers)) for kind in kinds)
    return tuple(numbers), of_layer


def layer_count(config: FamilyConfig) -> int:
    """Return the number of layers.

    Raises:
        InputError: it is missing, or there are too many.
    """
    listed = config.value("layer_types")
    own = config.value("hybrid_override_pattern")
    text = own if isinstance(own, str) else None
    pattern = text or (listed if isinstance(listed, list) else None)
    layers = config.integer("num_hidden_layers", *([len(pattern)] if pattern else []))
    if layers > MOST_LAYERS:
        raise InputError(
            f"{config.fields.where}: expected at most {MOST_LAYERS} layers, got {layers}"
        )
    return layers


def _check_known(
    config: FamilyConfig, key: str, names: tuple[str, ...], known: Mapping[str, Rule]
) -> None:
    """Raise InputError where a layer has a part that the family is not known to have."""
    for layer, name in enumerate(names):
        if name not in known:
            raise InputError(
                f"{config.where(key)}[{layer}]: expected {' or '.join(known)}, which layers of "
                f"this family are known to have, got {kind_of(name)}"
            )


def check_shape_keys(fields: Fields, ignored: tuple[str, ...] = ()) -> None:
    """Check that no key that changes shapes is left, which would be a model of another kind.

    Raises:
        InputError: there is one.
    """
    for key, value in fields.unread().items():
        if key in SHAPE_KEYS and key not in ignored and value not in (None, 0, False, [], {}, ""):
            raise InputError(
                f"{fields.where}.{key}: expected nothing of it from model_type "
                f"{fields.value('model_type', '')!r}, got {kind_of(value)}; layers that it "
                "changes are not understood"
            )


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
