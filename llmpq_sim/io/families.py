"""Every family of decoders that is read, by the ``model_type`` of its config.json."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.io.decoder_family import DecoderFamily
from llmpq_sim.io.dense_families import DENSE_FAMILIES
from llmpq_sim.io.expert_families import EXPERT_FAMILIES
from llmpq_sim.io.layer_parts import GroupedQuery, Plain
from llmpq_sim.io.layer_patterns import DENSE, FULL
from llmpq_sim.io.nas_family import NEMOTRON_NAS
from llmpq_sim.io.recurrent_families import RECURRENT_FAMILIES

_BIAS = ("bias", False)
_OPT_BIAS = ("enable_bias", True)
_OPT = DecoderFamily(
    "OPTForCausalLM",
    tied=True,
    norms=4,
    has_norms=("layer_norm_elementwise_affine", True),
    has_position_table=True,
    extra_positions=2,  # the table starts at an offset of two
    keys={"intermediate_size": "ffn_dim", "num_key_value_heads": "", "head_dim": ""},
    mixers={FULL: GroupedQuery(qkv_bias=_OPT_BIAS, out_bias=_OPT_BIAS)},
    parts={DENSE: Plain(is_gated=False, bias=_OPT_BIAS)},
)
_BLOOM = DecoderFamily(
    "BloomForCausalLM",
    tied=True,
    norms=4,
    keys={
        "hidden_size": ("hidden_size", "n_embed"),
        "num_attention_heads": ("n_head", "num_attention_heads"),
        "num_hidden_layers": ("n_layer", "num_hidden_layers"),
        "num_key_value_heads": "",
        "intermediate_size": "",
        "head_dim": "",
        "max_position_embeddings": "seq_length",
    },
    defaults={"max_position_embeddings": 2048},
    mixers={FULL: GroupedQuery(qkv_bias=True, out_bias=True)},
    parts={DENSE: Plain(is_gated=False, bias=True, ratio=4)},
)
_FALCON = DecoderFamily(
    "FalconForCausalLM",
    tied=True,
    mixers={FULL: GroupedQuery(qkv_bias=_BIAS, out_bias=_BIAS)},
    parts={DENSE: Plain(is_gated=False, bias=_BIAS, inner="ffn_hidden_size", ratio=4)},
)
_MPT = DecoderFamily(
    "MPTForCausalLM",
    classes=("MptForCausalLM",),
    tied=True,
    keys={
        "hidden_size": "d_model",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "num_key_value_heads": "",
        "intermediate_size": "",
        "max_position_embeddings": "max_seq_len",
    },
    parts={DENSE: Plain(is_gated=False, ratio=4)},
)


def _opt(fields: Fields) -> DecoderFamily:
    """Source: OPTConfig, OPTDecoderLayer and OPTLearnedPositionalEmbedding of transformers."""
    hidden = fields.integer("hidden_size")
    embedded = fields.integer("word_embed_proj_dim", hidden)
    if embedded != hidden:
        raise InputError(
            f"{fields.where}.word_embed_proj_dim: expected hidden_size, {hidden}, got {embedded}; "
            "projected embeddings are not supported"
        )
    return _OPT


def _falcon(fields: Fields) -> DecoderFamily:
    """Source: FalconConfig and FalconDecoderLayer of transformers."""
    heads = fields.integer("num_attention_heads")
    if fields.flag("new_decoder_architecture", False):
        norms = fields.integer("num_ln_in_parallel_attn", 2)
        kv_heads = fields.integer("num_kv_heads", heads)
    else:
        norms = 1 if fields.flag("parallel_attn", True) else 2
        kv_heads = 1 if fields.flag("multi_query", True) else heads
    return replace(
        _FALCON,
        norms=2 * norms,
        keys={"num_key_value_heads": ""},
        defaults={"num_key_value_heads": kv_heads},
    )


def _mpt(fields: Fields) -> DecoderFamily:
    """Source: MptConfig and MptBlock of transformers, which have no biases."""
    if fields.has("attn_config"):
        attention = fields.fields("attn_config")
        if attention.flag("qk_ln", False):
            raise InputError(
                f"{attention.where}.qk_ln: expected false, got true; norms of queries are "
                "not known of this family"
            )
    if fields.integer("expansion_ratio", 4) != 4:  # which transformers' MptMLP takes for granted
        raise InputError(
            f"{fields.where}.expansion_ratio: expected 4, got {fields.integer('expansion_ratio')}"
        )
    return _MPT


_CHOSEN: Mapping[str, Callable[[Fields], DecoderFamily]] = {
    "opt": _opt,
    "falcon": _falcon,
    "mpt": _mpt,
}
"""Families that are not the same for every config."""

FAMILIES: Mapping[str, DecoderFamily] = MappingProxyType(
    {
        "opt": _OPT,
        "bloom": _BLOOM,
        **DENSE_FAMILIES,
        "falcon": _FALCON,
        "mpt": _MPT,
        **EXPERT_FAMILIES,
        **RECURRENT_FAMILIES,
        "nemotron-nas": NEMOTRON_NAS,
    }
)
"""What is known of each family."""

SAME_AS: Mapping[str, str] = MappingProxyType(
    {
        "mimo": "qwen2",
        "kimi_k2": "deepseek_v3",
        "glm4v_text": "glm4",
        "glm4v_moe_text": "glm4_moe",
        "minimax_m3": "minimax_m3_vl_text",
        "qwen2_5_vl_text": "qwen2",
        "qwen2_vl_text": "qwen2",
        "qwen3_vl_text": "qwen3",
        "qwen3_vl_moe_text": "qwen3_moe",
    }
)
"""Families that are read as another one is, such as language models within others."""

BY_CLASS: Mapping[tuple[str, str], str] = MappingProxyType(
    {("minimax", "MiniMaxM2ForCausalLM"): "minimax_m2"}
)
"""Families whose first configs bear the ``model_type`` of another one, by that and their class."""

MISSING_PARTS: Mapping[str, str] = MappingProxyType(
    {
        "deepseek_v4": "attention over compressed keys, and several residual streams",
        "falcon_h1": "attention and Mamba side by side in one layer",
        "gemma3n": "per-layer embeddings, and keys shared by the last layers",
        "gemma3n_text": "per-layer embeddings, and keys shared by the last layers",
        "hymba": "attention and Mamba side by side in one layer",
        "kimi_k3": "residual attention between blocks of layers, and experts of another width",
        "lfm2": "short convolutions in place of attention",
        "lfm2_moe": "short convolutions in place of attention",
        "longcat_flash": "two attentions in one layer, and experts that do nothing",
        "minimax": "lightning attention",
        "minimax_m1": "lightning attention",
        "mllama": "cross-attention layers",
        "recurrent_gemma": "gated linear recurrences",
        "rwkv": "RWKV's recurrence",
        "step3p5": "numbers of heads that differ by layer",
        "step3p7": "numbers of heads that differ by layer",
        "t5": "an encoder",
        "whisper": "an encoder",
        "zamba2": "attention layers that share their weights",
    }
)
"""What layers of other families have that is not understood here."""


def is_known(name: str) -> bool:
    """Return whether a ``model_type`` is of a listed family."""
    return name in FAMILIES or name in SAME_AS


def family_of(fields: Fields, name: str) -> DecoderFamily:
    """Return what is known of a listed family, as a config of it says.

    Raises:
        InputError: a value cannot be.
    """
    name = SAME_AS.get(name, name)
    return _CHOSEN[name](fields) if name in _CHOSEN else FAMILIES[name]
