"""Families of decoders with experts or latent attention, and how their config.json is read."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from llmpq_sim.io.decoder_family import DecoderFamily
from llmpq_sim.io.dense_families import (
    ATTENTION_BIAS,
    ERNIE,
    GEMMA3,
    MLP_BIAS,
    NORMED,
    PLAIN,
    WHOLE_NORMS,
    WINDOW,
    both,
)
from llmpq_sim.io.layer_parts import GroupedQuery, Latent, Mixture, Plain, Rule
from llmpq_sim.io.layer_patterns import (
    CHUNKED,
    DENSE,
    FULL,
    INDEXED,
    SLIDING,
    SPARSE,
    all_of,
    between,
    dense_first,
    every,
    flagged,
    interleaved,
    numbered,
    sparse_steps,
    windowed,
    windowed_from,
    windowed_until,
)

INNER = "intermediate_size"
ALL_SPARSE = {SPARSE: Mixture(inner=INNER)}
MIXED: Mapping[str, Rule] = {DENSE: Plain(), SPARSE: Mixture()}
BIASED: Mapping[str, Rule] = {DENSE: Plain(bias=MLP_BIAS), SPARSE: Mixture(shared_bias=MLP_BIAS)}

_MIXTRAL = DecoderFamily(
    "MixtralForCausalLM",
    mixers=both(GroupedQuery()),
    arrangement=windowed,
    parts=ALL_SPARSE,
    part_of_layer=all_of(SPARSE),
)
_QWEN3_MOE = DecoderFamily(
    "Qwen3MoeForCausalLM",
    mixers=both(NORMED),
    arrangement=windowed,
    parts=MIXED,
    part_of_layer=sparse_steps,
    ignored=("shared_expert_intermediate_size",),  # 0 in published configs, and never read
)
_GLM4_MOE = DecoderFamily(
    "Glm4MoeForCausalLM",
    mixers={FULL: GroupedQuery(qkv_bias=ATTENTION_BIAS, has_head_norms=("use_qk_norm", False))},
    parts=MIXED,
    part_of_layer=dense_first(1),
)
_DEEPSEEK_V3 = DecoderFamily(
    "DeepseekV3ForCausalLM",
    classes=("KimiK2ForCausalLM",),
    mixers={FULL: Latent()},
    parts=MIXED,
    part_of_layer=dense_first(3),
)
_DEEPSEEK_V32 = replace(
    _DEEPSEEK_V3,
    model_class="DeepseekV32ForCausalLM",
    mixers={INDEXED: Latent(has_index=True)},
    arrangement=all_of(INDEXED),
)
_GRANITE_MOE = DecoderFamily(
    "GraniteMoeForCausalLM",
    mixers={FULL: PLAIN},
    parts=ALL_SPARSE,
    part_of_layer=all_of(SPARSE),
)
_DEEPSEEK_V2 = replace(
    _DEEPSEEK_V3,
    model_class="DeepseekV2ForCausalLM",
    parts=BIASED,
    part_of_layer=dense_first(0),
)
_LLAMA4 = GroupedQuery(qkv_bias=ATTENTION_BIAS, out_bias=ATTENTION_BIAS)
_MINIMAX_M3 = GroupedQuery(has_head_norms=True)
_MINIMAX_M3_INDEX = replace(_MINIMAX_M3, index=("index_n_heads", "index_head_dim"))

EXPERT_FAMILIES: Mapping[str, DecoderFamily] = MappingProxyType(
    {
        "mixtral": _MIXTRAL,
        "phimoe": replace(
            _MIXTRAL,
            model_class="PhimoeForCausalLM",
            classes=("PhiMoEForCausalLM",),
            norms=4,
            mixers=both(PLAIN),
        ),
        "qwen2_moe": DecoderFamily(
            "Qwen2MoeForCausalLM",
            mixers=both(GroupedQuery(qkv_bias=("qkv_bias", True))),
            arrangement=windowed_until,
            parts={
                DENSE: Plain(),
                SPARSE: Mixture(shared="shared_expert_intermediate_size", has_shared_gate=True),
            },
            part_of_layer=sparse_steps,
        ),
        "qwen3_moe": _QWEN3_MOE,
        "glm4_moe": _GLM4_MOE,
        "dots1": DecoderFamily(
            "Dots1ForCausalLM",
            mixers=both(NORMED),
            arrangement=windowed_from,
            parts=MIXED,
            part_of_layer=dense_first(0),
        ),
        "minimax_m2": DecoderFamily(
            "MiniMaxM2ForCausalLM",
            mixers={FULL: GroupedQuery(has_head_norms=("use_qk_norm", True), head_norms="each")},
            parts=ALL_SPARSE,
            part_of_layer=all_of(SPARSE),
            ignored=("shared_intermediate_size",),  # 0 shared experts in published configs
        ),
        "minimax_m3_vl_text": DecoderFamily(
            "MiniMaxM3VLForCausalLM",
            classes=("MiniMaxM3ForCausalLM",),
            keys={
                "index_n_heads": (
                    "index_n_heads",
                    "sparse_attention_config.sparse_num_index_heads",
                ),
                "index_head_dim": ("index_head_dim", "sparse_attention_config.sparse_index_dim"),
            },
            mixers={FULL: _MINIMAX_M3, "minimax_m3_sparse": _MINIMAX_M3_INDEX},
            arrangement=flagged(
                "sparse_attention_config.sparse_attention_freq",
                (FULL, "minimax_m3_sparse"),
                all_of(FULL),
            ),
            parts={
                DENSE: Plain(inner="dense_intermediate_size"),
                SPARSE: Mixture(inner=INNER, shared="shared_intermediate_size"),
            },
            part_of_layer=dense_first(0),
            ignored=("moe_intermediate_size", "n_shared_experts"),
            note="keys kept to choose blocks of tokens are not counted",
        ),
        "ernie4_5_moe": DecoderFamily(
            "Ernie4_5_MoeForCausalLM",
            tied=True,
            mixers={FULL: ERNIE},
            parts={
                DENSE: Plain(bias=("use_bias", False)),
                SPARSE: Mixture(has_selection_bias=True, shared_bias=("use_bias", False)),
            },
            part_of_layer=between,
        ),
        "gpt_oss": DecoderFamily(
            "GptOssForCausalLM",
            mixers=both(
                GroupedQuery(
                    qkv_bias=("attention_bias", True),
                    out_bias=("attention_bias", True),
                    has_sinks=True,
                )
            ),
            arrangement=every(2),
            parts={SPARSE: Mixture(inner=INNER, bias=True)},
            part_of_layer=all_of(SPARSE),
        ),
        "llama4_text": DecoderFamily(
            "Llama4ForCausalLM",
            mixers={FULL: _LLAMA4, CHUNKED: replace(_LLAMA4, window="attention_chunk_size")},
            arrangement=flagged(
                "no_rope_layers", (FULL, CHUNKED), every(4, "no_rope_layer_interval", CHUNKED)
            ),
            parts={
                DENSE: Plain(inner="intermediate_size_mlp"),
                SPARSE: Mixture(inner=INNER, shared_count=1),
            },
            part_of_layer=numbered("moe_layers", SPARSE, DENSE, interleaved),
        ),
        "dbrx": DecoderFamily(
            "DbrxForCausalLM",
            keys={
                "hidden_size": "d_model",
                "num_attention_heads": "n_heads",
                "num_hidden_layers": "n_layers",
                "max_position_embeddings": "max_seq_len",
                "num_key_value_heads": "attn_config.kv_n_heads",
                "experts": "ffn_config.moe_num_experts",
                "experts_chosen": "ffn_config.moe_top_k",
                INNER: "ffn_config.ffn_hidden_size",
            },
            parts=ALL_SPARSE,
            part_of_layer=all_of(SPARSE),
        ),
        "olmoe": replace(_GRANITE_MOE, model_class="OlmoeForCausalLM", mixers={FULL: WHOLE_NORMS}),
        "flex_olmo": replace(
            _GRANITE_MOE, model_class="FlexOlmoForCausalLM", mixers={FULL: WHOLE_NORMS}
        ),
        "granitemoe": _GRANITE_MOE,
        "granitemoeshared": replace(
            _GRANITE_MOE,
            model_class="GraniteMoeSharedForCausalLM",
            parts={SPARSE: Mixture(inner=INNER, shared="shared_intermediate_size")},
        ),
        "hunyuan_v1_moe": DecoderFamily(
            "HunYuanMoEV1ForCausalLM",
            classes=("HunYuanMoEForCausalLM",),
            mixers={FULL: NORMED},
            parts={SPARSE: Mixture(inner=INNER, shared_inner=INNER, shared_count=1)},
            part_of_layer=all_of(SPARSE),
            ignored=("moe_intermediate_size",),  # which states the same for each layer
        ),
        "afmoe": DecoderFamily(
            "AfmoeForCausalLM",
            norms=4,
            mixers=both(replace(NORMED, is_gated=True, gate_bias=False)),
            arrangement=every(4, "global_attn_every_n_layers"),
            parts={DENSE: Plain(), SPARSE: Mixture(has_selection_bias=True)},
            part_of_layer=dense_first(1, "num_dense_layers"),
        ),
        "exaone_moe": DecoderFamily(
            "ExaoneMoeForCausalLM",
            classes=("ExaoneMoEForCausalLM",),
            mixers=both(GroupedQuery(has_head_norms=True)),
            arrangement=every(4, "sliding_window_pattern"),
            parts=MIXED,
            part_of_layer=dense_first(1),
        ),
        "mimo_v2_flash": DecoderFamily(
            "MiMoV2FlashForCausalLM",
            mixers={
                FULL: GroupedQuery(qkv_bias=ATTENTION_BIAS),
                SLIDING: GroupedQuery(
                    window=WINDOW,
                    qkv_bias=ATTENTION_BIAS,
                    has_sinks=True,
                    kv_head_factor=2,
                    keys={
                        WINDOW: "sliding_window_size",
                        "num_attention_heads": "swa_num_attention_heads",
                        "num_key_value_heads": "swa_num_key_value_heads",
                        "head_dim": "swa_head_dim",
                        "v_head_dim": "swa_v_head_dim",
                    },
                ),
            },
            arrangement=flagged("hybrid_layer_pattern", (FULL, SLIDING), every(6)),
            parts=MIXED,
            part_of_layer=dense_first(1),
        ),
        "solar_open": replace(
            _GLM4_MOE,
            model_class="SolarOpenForCausalLM",
            mixers={FULL: replace(PLAIN, out_bias=False)},
            part_of_layer=all_of(SPARSE),
        ),
        "hy_v3": DecoderFamily(
            "HYV3ForCausalLM",
            mixers={FULL: NORMED},
            parts=BIASED,
            part_of_layer=dense_first(1),
        ),
        "gemma4_text": replace(
            GEMMA3,
            model_class="Gemma4ForCausalLM",
            defaults={"global_head_dim": 512},  # which its class takes, though it has no field
            mixers={
                FULL: replace(
                    NORMED,
                    shares_keys=("attention_k_eq_v", False),
                    keys={
                        "head_dim": "global_head_dim",
                        "num_key_value_heads": "num_global_key_value_heads",
                    },
                ),
                SLIDING: replace(NORMED, window=WINDOW),
            },
            parts={
                DENSE: Plain(),
                SPARSE: Mixture(
                    shared_inner=INNER, shared_count=1, has_selection_bias=True, hidden_vectors=4
                ),
            },
            part_of_layer=lambda config, layers: (
                (SPARSE if config.flag("enable_moe_block", False) else DENSE,) * layers
            ),
            ignored=(
                "num_experts",
                "top_k_experts",
                "moe_intermediate_size",
            ),  # of no use unless on
            most={"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
        ),
        "deepseek_v2": _DEEPSEEK_V2,
        "deepseek_v3": _DEEPSEEK_V3,
        "deepseek_v32": _DEEPSEEK_V32,
        "glm_moe_dsa": replace(_DEEPSEEK_V32, model_class="GlmMoeDsaForCausalLM"),
        "glm4_moe_lite": replace(
            _DEEPSEEK_V3, model_class="Glm4MoeLiteForCausalLM", part_of_layer=dense_first(1)
        ),
        "mistral4": replace(
            _DEEPSEEK_V3, model_class="Mistral4ForCausalLM", part_of_layer=dense_first(0)
        ),
        "minicpm3": DecoderFamily(
            "MiniCPM3ForCausalLM",
            tied=True,
            mixers={FULL: Latent()},
            parts={DENSE: Plain(bias=MLP_BIAS)},
        ),
        "youtu": DecoderFamily("YoutuForCausalLM", tied=True, mixers={FULL: Latent()}),
    }
)
"""By the ``model_type`` of config.json. Source: each family's configuration and modelling files in
transformers."""
