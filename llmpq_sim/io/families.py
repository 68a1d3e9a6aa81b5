"""Families of dense decoders whose layers are all alike, and how each one's config.json is read.

Every family is listed with what its layers hold beside their matrices. Each listed one is compared
with transformers' own model of a config, tensor by tensor, by a test.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.model import ModelSpec, dense_model
from llmpq_sim.io.decoder_family import DecoderFamily, ReadFamily, dtype_of, head_dim_of

_ATTENTION, _MLP, _BIAS = ("attention_bias", False), ("mlp_bias", False), ("bias", False)


def _read_opt(fields: Fields, name: str) -> ModelSpec:
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
    return dense_model(
        name=name,
        family="opt",
        layers=fields.integer("num_hidden_layers"),
        hidden_size=hidden,
        intermediate_size=ffn,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim_of(fields, hidden, heads),
        vocab_size=fields.integer("vocab_size"),
        max_positions=positions,
        gated_mlp=False,
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        position_rows=positions + 2,  # the table starts at an offset of two
        bias_elements=5 * hidden + ffn if fields.flag("enable_bias", True) else 0,
        norm_elements=4 * hidden if fields.flag("layer_norm_elementwise_affine", True) else 0,
        dtype=dtype_of(fields),
    )


def _read_bloom(fields: Fields, name: str) -> ModelSpec:
    """Source: BloomConfig and BloomBlock of transformers; ALiBi needs no position table."""
    hidden = fields.integer("hidden_size" if fields.has("hidden_size") else "n_embed")
    heads = fields.integer("n_head" if fields.has("n_head") else "num_attention_heads")
    return dense_model(
        name=name,
        family="bloom",
        layers=fields.integer("n_layer" if fields.has("n_layer") else "num_hidden_layers"),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim_of(fields, hidden, heads),
        vocab_size=fields.integer("vocab_size"),
        max_positions=fields.integer("seq_length", 2048),
        gated_mlp=False,
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        position_rows=0,
        bias_elements=9 * hidden,
        norm_elements=4 * hidden,
        dtype=dtype_of(fields),
    )


def _read_falcon(fields: Fields, name: str) -> ModelSpec:
    """Source: FalconConfig and FalconDecoderLayer of transformers."""
    heads = fields.integer("num_attention_heads")
    if fields.flag("new_decoder_architecture", False):
        norms = fields.integer("num_ln_in_parallel_attn", 2)
        kv_heads = fields.integer("num_kv_heads", heads)
    else:
        norms = 1 if fields.flag("parallel_attn", True) else 2
        kv_heads = 1 if fields.flag("multi_query", True) else heads
    family = DecoderFamily(
        "FalconForCausalLM",
        gated=False,
        tied=True,
        norms=2 * norms,
        qkv_bias=_BIAS,
        out_bias=_BIAS,
        mlp_bias=_BIAS,
        inner_ratio=4,
        kv_heads=kv_heads,
        keys={"num_key_value_heads": "", "intermediate_size": "ffn_hidden_size"},
    )
    return family.read(fields, name)


def _read_mpt(fields: Fields, name: str) -> ModelSpec:
    """Source: MptConfig and MptBlock of transformers, which have no biases."""
    if fields.has("attn_config"):
        attention = fields.fields("attn_config")
        if attention.flag("qk_ln", False):
            raise InputError(
                f"{attention.where}.qk_ln: expected false, got true; norms of queries are "
                "not known of this family"
            )
    keys = {
        "hidden_size": "d_model",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "num_key_value_heads": "",
        "intermediate_size": "",
        "max_position_embeddings": "max_seq_len",
    }
    if fields.integer("expansion_ratio", 4) != 4:  # which transformers' MptMLP takes for granted
        raise InputError(
            f"{fields.where}.expansion_ratio: expected 4, got {fields.integer('expansion_ratio')}"
        )
    family = DecoderFamily("", gated=False, tied=True, inner_ratio=4, keys=keys)
    return family.read(fields, name)


_LLAMA = DecoderFamily("LlamaForCausalLM", qkv_bias=_ATTENTION, out_bias=_ATTENTION, mlp_bias=_MLP)
_ATTENTION_BIASED = replace(_LLAMA, mlp_bias=False)
_GPT = DecoderFamily(
    "GPT2LMHeadModel",
    gated=False,
    norms=4,
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    inner_ratio=4,
    keys={
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "num_key_value_heads": "",
        "max_position_embeddings": "n_positions",
    },
)

DECODERS: Mapping[str, DecoderFamily] = MappingProxyType(
    {
        "llama": _LLAMA,
        "mistral": DecoderFamily("MistralForCausalLM", kv_heads=8),
        "ministral3": DecoderFamily("Ministral3ForCausalLM", kv_heads=8),
        "qwen2": DecoderFamily("Qwen2ForCausalLM", qkv_bias=True),
        "qwen3": replace(
            _ATTENTION_BIASED, model_class="Qwen3ForCausalLM", has_head_norms=True, head_dim=128
        ),
        "gemma": replace(
            _ATTENTION_BIASED, model_class="GemmaForCausalLM", tied=True, head_dim=256
        ),
        "phi3": DecoderFamily("Phi3ForCausalLM"),
        "granite": replace(_LLAMA, model_class="GraniteForCausalLM"),
        "smollm3": replace(_LLAMA, model_class="SmolLM3ForCausalLM", tied=True, kv_heads=4),
        "helium": replace(_LLAMA, model_class="HeliumForCausalLM", out_bias=False, head_dim=128),
        "arcee": replace(_LLAMA, model_class="ArceeForCausalLM", gated=False),
        "hunyuan_v1_dense": replace(
            _ATTENTION_BIASED, model_class="HunYuanDenseV1ForCausalLM", has_head_norms=True
        ),
        "seed_oss": replace(
            _LLAMA,
            model_class="SeedOssForCausalLM",
            qkv_bias=("attention_bias", True),
            out_bias=("attention_out_bias", False),
            head_dim=128,
            kv_heads=8,
        ),
        "olmo": replace(_ATTENTION_BIASED, model_class="OlmoForCausalLM", norms=0),
        "olmo2": replace(
            _ATTENTION_BIASED,
            model_class="Olmo2ForCausalLM",
            has_head_norms=True,
            head_norms="each",
        ),
        "cohere": replace(
            _ATTENTION_BIASED,
            model_class="CohereForCausalLM",
            tied=True,
            norms=1,
            has_head_norms=("use_qk_norm", False),
            head_norms="each",
        ),
        "glm": DecoderFamily(
            "GlmForCausalLM", qkv_bias=("attention_bias", True), head_dim=128, kv_heads=2
        ),
        "glm4": DecoderFamily(
            "Glm4ForCausalLM", norms=4, qkv_bias=("attention_bias", True), head_dim=128, kv_heads=2
        ),
        "apertus": replace(
            _ATTENTION_BIASED,
            model_class="ApertusForCausalLM",
            gated=False,
            has_head_norms=True,
            extra=2,
        ),
        "ernie4_5": DecoderFamily(
            "Ernie4_5ForCausalLM",
            tied=True,
            qkv_bias=("use_bias", False),
            out_bias=("use_bias", False),
            mlp_bias=("use_bias", False),
            head_dim=128,
        ),
        "nemotron": replace(_LLAMA, model_class="NemotronForCausalLM", gated=False, norms=4),
        "starcoder2": DecoderFamily(
            "Starcoder2ForCausalLM",
            gated=False,
            tied=True,
            norms=4,
            qkv_bias=("use_bias", True),
            out_bias=("use_bias", True),
            mlp_bias=("use_bias", True),
            kv_heads=2,
        ),
        "gpt_neox": replace(
            _GPT,
            model_class="GPTNeoXForCausalLM",
            qkv_bias=("attention_bias", True),
            out_bias=("attention_bias", True),
            inner_ratio=None,
            keys={"num_key_value_heads": ""},
        ),
        "phi": replace(
            _GPT,
            model_class="PhiForCausalLM",
            norms=2,
            has_head_norms=("qk_layernorm", False),
            head_norms="shared-biased",
            inner_ratio=None,
            keys={},
        ),
        "gpt2": replace(_GPT, tied=True, has_position_table=True),
        "gptj": replace(
            _GPT, model_class="GPTJForCausalLM", norms=2, qkv_bias=False, out_bias=False
        ),
    }
)
"""By the ``model_type`` of config.json. Source: each family's configuration and modelling files in
transformers."""

FAMILIES: Mapping[str, tuple[str, ReadFamily]] = MappingProxyType(
    {
        "opt": ("OPTForCausalLM", _read_opt),
        "bloom": ("BloomForCausalLM", _read_bloom),
        **{name: (family.model_class, family.read) for name, family in DECODERS.items()},
        "falcon": ("FalconForCausalLM", _read_falcon),
        "mpt": ("MPTForCausalLM", _read_mpt),
    }
)
"""The class of each family's models, and what reads its config."""
