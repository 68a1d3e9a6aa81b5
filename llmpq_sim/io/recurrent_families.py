"""Families of decoders with recurrent mixers or layers of their own, and how they are read."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from llmpq_sim.io.decoder_family import DecoderFamily
from llmpq_sim.io.dense_families import MLP_BIAS, NORMED, PLAIN, WHOLE_NORMS
from llmpq_sim.io.expert_families import MIXED
from llmpq_sim.io.family_config import FamilyConfig
from llmpq_sim.io.layer_parts import GroupedQuery, Latent, Mixture, Nothing, Plain
from llmpq_sim.io.layer_patterns import (
    DENSE,
    FULL,
    LINEAR,
    NOTHING,
    SPARSE,
    all_of,
    at,
    dense_first,
    every,
    layer_names,
    numbered,
    sparse_steps,
    spelled,
)
from llmpq_sim.io.recurrent_parts import GatedDelta, KimiDelta, Mamba1, Mamba2

NO_LIMIT_TOKENS = 1 << 20
"""Context of models whose state is all they keep, and whose config states none."""

_MAMBA2_KEYS = {
    "heads": "mamba_n_heads",
    "width": "mamba_d_head",
    "groups": "mamba_n_groups",
    "state": "mamba_d_state",
    "conv": "mamba_d_conv",
    "expand": "mamba_expand",
}
_GATED = replace(NORMED, is_gated=("attn_output_gate", True))
_QWEN3_5 = DecoderFamily(
    "Qwen3_5ForCausalLM",
    classes=("Qwen3_5ForConditionalGeneration",),
    mixers={FULL: _GATED, LINEAR: GatedDelta()},
    arrangement=every(4, "full_attention_interval", LINEAR),
)
_SHARED_GATE = Mixture(shared="shared_expert_intermediate_size", has_shared_gate=True)


def _nemotron_parts(config: FamilyConfig, layers: int) -> tuple[str, ...]:
    """Return the feed-forward parts of layers that are either that or a mixer."""
    names = layer_names(config, "layer_types", layers, _NEMOTRON_LAYERS)
    return tuple({"moe": SPARSE, "mlp": DENSE}.get(name, NOTHING) for name in names)


_NEMOTRON_LAYERS = spelled(
    "hybrid_override_pattern", {"M": LINEAR, "*": FULL, "E": "moe", "-": "mlp"}, all_of(LINEAR)
)
_MAMBA = DecoderFamily(
    "MambaForCausalLM",
    tied=True,
    norms=1,
    keys={"max_position_embeddings": "max_position_embeddings"},
    defaults={"max_position_embeddings": NO_LIMIT_TOKENS},
    mixers={
        LINEAR: Mamba1(
            keys={
                "state": "state_size",
                "conv": "conv_kernel",
                "expand": "expand",
                "rank": "time_step_rank",
                "inner": "intermediate_size",
            },
            bias=("use_bias", False),
            conv_bias=("use_conv_bias", True),
        )
    },
    arrangement=all_of(LINEAR),
    parts={NOTHING: Nothing()},
    part_of_layer=all_of(NOTHING),
)

RECURRENT_FAMILIES: Mapping[str, DecoderFamily] = MappingProxyType(
    {
        "qwen3_next": replace(
            _QWEN3_5,
            model_class="Qwen3NextForCausalLM",
            classes=(),
            parts={DENSE: Plain(), SPARSE: _SHARED_GATE},
            part_of_layer=sparse_steps,
        ),
        "qwen3_5_text": _QWEN3_5,
        "qwen3_5_moe_text": replace(
            _QWEN3_5,
            model_class="Qwen3_5MoeForCausalLM",
            classes=("Qwen3_5MoeForConditionalGeneration",),
            parts={DENSE: Plain(), SPARSE: _SHARED_GATE},
            part_of_layer=all_of(SPARSE),
        ),
        "olmo_hybrid": DecoderFamily(
            "OlmoHybridForCausalLM",
            mixers={FULL: WHOLE_NORMS, LINEAR: GatedDelta()},
            arrangement=every(4, "", LINEAR),
        ),
        "kimi_linear": DecoderFamily(
            "KimiLinearForCausalLM",
            keys={
                "max_position_embeddings": ("model_max_length", "max_position_embeddings"),
                "linear_num_heads": ("linear_num_heads", "linear_attn_config.num_heads"),
                "linear_head_dim": ("linear_head_dim", "linear_attn_config.head_dim"),
                "linear_conv_kernel_dim": (
                    "linear_conv_kernel_dim",
                    "linear_attn_config.short_conv_kernel_size",
                ),
                "full_attn_layers": "linear_attn_config.full_attn_layers",
            },
            mixers={FULL: Latent(), LINEAR: KimiDelta()},
            arrangement=numbered("full_attn_layers", FULL, LINEAR, all_of(LINEAR), first=1),
            parts=MIXED,
            part_of_layer=dense_first(1),
        ),
        "nemotron_h": DecoderFamily(
            "NemotronHForCausalLM",
            norms=1,
            mixers={
                FULL: GroupedQuery(),
                LINEAR: Mamba2(
                    keys={
                        "heads": "mamba_num_heads",
                        "width": "mamba_head_dim",
                        "groups": "n_groups",
                        "state": "ssm_state_size",
                        "conv": "conv_kernel",
                        "expand": "expand",
                    },
                    bias=("use_bias", False),
                    conv_bias=("use_conv_bias", True),
                ),
                "moe": Nothing(),
                "mlp": Nothing(),
            },
            arrangement=_NEMOTRON_LAYERS,
            parts={
                DENSE: Plain(is_gated=False, bias=MLP_BIAS),
                SPARSE: Mixture(
                    is_gated=False,
                    shared_inner="moe_shared_expert_intermediate_size",
                    shared_count=1,
                    shared_bias=MLP_BIAS,
                    latent="moe_latent_size",
                ),
                NOTHING: Nothing(),
            },
            part_of_layer=_nemotron_parts,
        ),
        "granitemoehybrid": DecoderFamily(
            "GraniteMoeHybridForCausalLM",
            mixers={FULL: PLAIN, LINEAR: Mamba2(_MAMBA2_KEYS)},
            arrangement=all_of(LINEAR),
            parts={
                SPARSE: Mixture(inner="intermediate_size", shared="shared_intermediate_size"),
                DENSE: Plain(inner="shared_intermediate_size"),
            },
            part_of_layer=lambda config, layers: (
                (SPARSE if config.optional("experts") else DENSE,) * layers
            ),
            ignored=("num_experts_per_tok",),  # of no use without experts
        ),
        "bamba": DecoderFamily(
            "BambaForCausalLM",
            mixers={FULL: PLAIN, LINEAR: Mamba2(_MAMBA2_KEYS)},
            arrangement=numbered("attn_layer_indices", FULL, LINEAR, all_of(LINEAR)),
            parts={DENSE: Plain(bias=MLP_BIAS)},
        ),
        "jamba": DecoderFamily(
            "JambaForCausalLM",
            mixers={
                FULL: GroupedQuery(),
                LINEAR: Mamba1(
                    keys={
                        "state": "mamba_d_state",
                        "conv": "mamba_d_conv",
                        "expand": "mamba_expand",
                        "rank": "mamba_dt_rank",
                    },
                    bias=("mamba_proj_bias", False),
                    conv_bias=("mamba_conv_bias", True),
                    has_norms=True,
                ),
            },
            arrangement=at("attn_layer_period", "attn_layer_offset", FULL, LINEAR),
            parts={DENSE: Plain(), SPARSE: Mixture(inner="intermediate_size")},
            part_of_layer=at("expert_layer_period", "expert_layer_offset", SPARSE, DENSE),
        ),
        "mamba": _MAMBA,
        "falcon_mamba": replace(_MAMBA, model_class="FalconMambaForCausalLM"),
        "mamba2": replace(
            _MAMBA,
            model_class="Mamba2ForCausalLM",
            tied=False,
            mixers={
                LINEAR: Mamba2(
                    keys={
                        "heads": "num_heads",
                        "width": "head_dim",
                        "groups": "n_groups",
                        "state": "state_size",
                        "conv": "conv_kernel",
                        "expand": "expand",
                    },
                    bias=("use_bias", False),
                    conv_bias=("use_conv_bias", True),
                )
            },
        ),
    }
)
"""By the ``model_type`` of config.json. Source: each family's configuration and modelling files in
transformers."""
