"""Families of dense decoders, with windows or without, and how each one's config.json is read.

Every family is listed with what its layers hold beside their matrices. Each listed one is compared
with transformers' own model of a config, layer by layer, by a test.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from llmpq_sim.io.decoder_family import DecoderFamily
from llmpq_sim.io.layer_parts import GroupedQuery, Plain
from llmpq_sim.io.layer_patterns import (
    DENSE,
    FULL,
    SLIDING,
    every,
    windowed,
    windowed_from,
)

ATTENTION_BIAS, MLP_BIAS = ("attention_bias", False), ("mlp_bias", False)
WINDOW = "sliding_window"


def both(attention: GroupedQuery, window: str = WINDOW) -> Mapping[str, GroupedQuery]:
    """Return the same attention without a window and with one."""
    return {FULL: attention, SLIDING: replace(attention, window=window)}


PLAIN = GroupedQuery(qkv_bias=ATTENTION_BIAS, out_bias=ATTENTION_BIAS)
"""Attention whose biases the config may ask for."""
NORMED = replace(PLAIN, has_head_norms=True)
"""The same with norms of queries and keys."""
WHOLE_NORMS = replace(NORMED, head_norms="each")
_BIASED = GroupedQuery(qkv_bias=True, out_bias=True)
_UNGATED = {DENSE: Plain(is_gated=False)}
_GPT_MLP = Plain(is_gated=False, bias=True, ratio=4)

LLAMA = DecoderFamily("LlamaForCausalLM", mixers={FULL: PLAIN}, parts={DENSE: Plain(bias=MLP_BIAS)})
_ATTENTION_BIASED = replace(LLAMA, parts={DENSE: Plain()})
_MISTRAL = DecoderFamily(
    "MistralForCausalLM",
    mixers=both(GroupedQuery()),
    arrangement=windowed,
)
_QWEN2 = DecoderFamily(
    "Qwen2ForCausalLM",
    classes=("MiMoForCausalLM",),
    mixers=both(GroupedQuery(qkv_bias=True)),
    arrangement=windowed_from,
)
GEMMA2 = replace(
    _ATTENTION_BIASED,
    model_class="Gemma2ForCausalLM",
    tied=True,
    norms=4,
    mixers=both(PLAIN),
    arrangement=every(2),
)
GEMMA3 = replace(
    GEMMA2,
    model_class="Gemma3ForCausalLM",
    mixers=both(NORMED),
    arrangement=every(6, "sliding_window_pattern"),
)
_OLMO2 = replace(_ATTENTION_BIASED, model_class="Olmo2ForCausalLM", mixers={FULL: WHOLE_NORMS})
_COHERE = replace(_ATTENTION_BIASED, model_class="CohereForCausalLM", tied=True, norms=1)
_GLM = DecoderFamily(
    "GlmForCausalLM",
    mixers={FULL: GroupedQuery(qkv_bias=("attention_bias", True))},
)
_ERNIE_BIAS = ("use_bias", False)
ERNIE = GroupedQuery(qkv_bias=_ERNIE_BIAS, out_bias=_ERNIE_BIAS)
_STARCODER_BIAS = ("use_bias", True)
_EXAONE4 = DecoderFamily(
    "Exaone4ForCausalLM",
    mixers=both(GroupedQuery(has_head_norms=True)),
    arrangement=every(4, "sliding_window_pattern"),
)
_GPT = DecoderFamily(
    "GPT2LMHeadModel",
    norms=4,
    keys={
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "num_key_value_heads": "",
        "max_position_embeddings": "n_positions",
    },
    mixers={FULL: _BIASED},
    parts={DENSE: _GPT_MLP},
)

DENSE_FAMILIES: Mapping[str, DecoderFamily] = MappingProxyType(
    {
        "llama": LLAMA,
        "mistral": _MISTRAL,
        "ministral": replace(_MISTRAL, model_class="MinistralForCausalLM"),
        "ministral3": replace(
            _MISTRAL,
            model_class="Ministral3ForCausalLM",
        ),
        "qwen2": _QWEN2,
        "qwen3": replace(
            _QWEN2,
            model_class="Qwen3ForCausalLM",
            mixers=both(NORMED),
        ),
        "gemma": replace(
            _ATTENTION_BIASED,
            model_class="GemmaForCausalLM",
            tied=True,
        ),
        "gemma2": GEMMA2,
        "gemma3_text": GEMMA3,
        "vaultgemma": replace(GEMMA2, model_class="VaultGemmaForCausalLM", norms=2),
        "phi3": DecoderFamily("Phi3ForCausalLM", mixers=both(GroupedQuery()), arrangement=windowed),
        "granite": replace(LLAMA, model_class="GraniteForCausalLM"),
        "smollm3": replace(
            LLAMA,
            model_class="SmolLM3ForCausalLM",
            tied=True,
            mixers=both(PLAIN),
            arrangement=windowed,
        ),
        "helium": replace(
            LLAMA,
            model_class="HeliumForCausalLM",
            mixers={FULL: replace(PLAIN, out_bias=False)},
        ),
        "arcee": replace(
            LLAMA,
            model_class="ArceeForCausalLM",
            parts={DENSE: Plain(is_gated=False, bias=MLP_BIAS)},
        ),
        "hunyuan_v1_dense": replace(
            _ATTENTION_BIASED, model_class="HunYuanDenseV1ForCausalLM", mixers={FULL: NORMED}
        ),
        "seed_oss": replace(
            LLAMA,
            model_class="SeedOssForCausalLM",
            mixers={
                FULL: GroupedQuery(
                    qkv_bias=("attention_bias", True), out_bias=("attention_out_bias", False)
                )
            },
        ),
        "olmo": replace(_ATTENTION_BIASED, model_class="OlmoForCausalLM", norms=0),
        "olmo2": _OLMO2,
        "olmo3": replace(
            _OLMO2,
            model_class="Olmo3ForCausalLM",
            mixers=both(WHOLE_NORMS),
            arrangement=every(4),
        ),
        "cohere": replace(
            _COHERE, mixers={FULL: replace(WHOLE_NORMS, has_head_norms=("use_qk_norm", False))}
        ),
        "cohere2": replace(
            _COHERE,
            model_class="Cohere2ForCausalLM",
            mixers=both(PLAIN),
            arrangement=every(4, "sliding_window_pattern"),
        ),
        "glm": _GLM,
        "glm4": replace(_GLM, model_class="Glm4ForCausalLM", norms=4),
        "apertus": replace(
            _ATTENTION_BIASED,
            model_class="ApertusForCausalLM",
            mixers={FULL: NORMED},
            parts={DENSE: Plain(is_gated=False, extra=2)},
        ),
        "ernie4_5": DecoderFamily(
            "Ernie4_5ForCausalLM",
            tied=True,
            mixers={FULL: ERNIE},
            parts={DENSE: Plain(bias=_ERNIE_BIAS)},
        ),
        "exaone4": _EXAONE4,
        "nemotron": replace(
            LLAMA,
            model_class="NemotronForCausalLM",
            norms=4,
            parts={DENSE: Plain(is_gated=False, bias=MLP_BIAS)},
        ),
        "starcoder2": DecoderFamily(
            "Starcoder2ForCausalLM",
            tied=True,
            norms=4,
            mixers=both(GroupedQuery(qkv_bias=_STARCODER_BIAS, out_bias=_STARCODER_BIAS)),
            arrangement=windowed,
            parts={DENSE: Plain(is_gated=False, bias=_STARCODER_BIAS)},
        ),
        "internlm2": DecoderFamily(
            "InternLM2ForCausalLM",
            mixers={FULL: GroupedQuery(qkv_bias=("bias", True), out_bias=("bias", True))},
        ),
        "internlm3": replace(
            LLAMA, model_class="InternLM3ForCausalLM", classes=("LlamaForCausalLM",)
        ),
        "gpt_neox": replace(
            _GPT,
            model_class="GPTNeoXForCausalLM",
            keys={"num_key_value_heads": ""},
            mixers={
                FULL: GroupedQuery(
                    qkv_bias=("attention_bias", True), out_bias=("attention_bias", True)
                )
            },
            parts={DENSE: replace(_GPT_MLP, ratio=None)},
        ),
        "phi": replace(
            _GPT,
            model_class="PhiForCausalLM",
            norms=2,
            keys={},
            mixers={
                FULL: replace(
                    _BIASED, has_head_norms=("qk_layernorm", False), head_norms="shared-biased"
                )
            },
            parts={DENSE: replace(_GPT_MLP, ratio=None)},
        ),
        "gpt2": replace(_GPT, tied=True, has_position_table=True),
        "gptj": replace(
            _GPT, model_class="GPTJForCausalLM", norms=2, mixers={FULL: GroupedQuery()}
        ),
    }
)
"""By the ``model_type`` of config.json. Source: each family's configuration and modelling files in
transformers; InternLM2: the models' own code."""
