"""Tiny models of every architecture, saved in Hugging Face's layout with random weights."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, BloomConfig, OPTConfig

VOCABULARY = 199
LAYERS = 4

_GATED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

_GPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 64,
    "n_layer": LAYERS,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MIXED = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
_EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
}
_WINDOW: dict[str, Any] = {"sliding_window": 7, "layer_types": _MIXED}


def _gated(name: str, **others: Any) -> Any:
    """Return a config with the shapes of most families."""
    return getattr(transformers, f"{name}Config")(**{**_GATED, **others})


def _falcon(**others: Any) -> Any:
    return transformers.FalconConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        **others,
    )


CONFIGS: dict[str, Any] = {
    "llama": _gated("Llama"),
    "llama-tied": _gated("Llama", tie_word_embeddings=True),
    "qwen2": _gated("Qwen2", tie_word_embeddings=True),
    "qwen3": _gated("Qwen3", head_dim=32),
    "mistral": _gated("Mistral", sliding_window=None),
    "mistral-window": _gated("Mistral", sliding_window=7),
    "ministral3": _gated("Ministral3", head_dim=16),
    "gemma": _gated("Gemma", head_dim=32),
    "gemma2": _gated("Gemma2", head_dim=32, attn_logit_softcapping=2.0, **_WINDOW),
    "gemma3_text": _gated("Gemma3Text", head_dim=32, **_WINDOW),
    "phi3": _gated("Phi3", partial_rotary_factor=0.5),
    "granite": _gated(
        "Granite",
        embedding_multiplier=12.0,
        logits_scaling=8.0,
        residual_multiplier=0.22,
        attention_multiplier=0.2,
    ),
    "smollm3": _gated("SmolLM3", no_rope_layers=[1, 1, 1, 0]),
    "helium": _gated("Helium", head_dim=16),
    "arcee": _gated("Arcee"),
    "hunyuan_v1_dense": _gated("HunYuanDenseV1", head_dim=16),
    "seed_oss": _gated("SeedOss", head_dim=16),
    "olmo": _gated("Olmo", clip_qkv=2.0),
    "olmo2": _gated("Olmo2"),
    "olmo3": _gated("Olmo3", **_WINDOW),
    "cohere": _gated("Cohere", use_qk_norm=True, logit_scale=0.5),
    "cohere2": _gated("Cohere2", head_dim=16, logit_scale=0.5, **_WINDOW),
    "exaone4": _gated("Exaone4", **_WINDOW),
    "glm": _gated("Glm", head_dim=16),
    "glm4": _gated("Glm4", head_dim=16),
    "apertus": _gated("Apertus"),
    "ernie4_5": _gated("Ernie4_5", head_dim=16, use_bias=True),
    "nemotron": _gated("Nemotron"),
    "starcoder2": _gated("Starcoder2", sliding_window=None),
    "gpt_neox": transformers.GPTNeoXConfig(
        **{key: value for key, value in _GATED.items() if key != "num_key_value_heads"}
    ),
    "phi": _gated("Phi", num_key_value_heads=4),
    "gpt2": transformers.GPT2Config(**_GPT, scale_attn_by_inverse_layer_idx=True),
    "gptj": transformers.GPTJConfig(**_GPT, rotary_dim=8, tie_word_embeddings=False),
    "falcon": _falcon(multi_query=True, parallel_attn=True),
    "falcon-new": _falcon(new_decoder_architecture=True, num_kv_heads=2),
    "falcon-alibi": _falcon(alibi=True, multi_query=False, parallel_attn=False, bias=True),
    "mpt": transformers.MptConfig(
        vocab_size=VOCABULARY, d_model=64, n_layers=LAYERS, n_heads=4, max_seq_len=128
    ),
    "mixtral": _gated("Mixtral", num_local_experts=4, num_experts_per_tok=2),
    "qwen2_moe": _gated(
        "Qwen2Moe",
        **_EXPERTS,
        shared_expert_intermediate_size=40,
        use_sliding_window=True,
        sliding_window=7,
        max_window_layers=2,
        mlp_only_layers=[2],
    ),
    "qwen3_moe": _gated("Qwen3Moe", **_EXPERTS, head_dim=32, mlp_only_layers=[0]),
    "olmoe": _gated("Olmoe", num_experts=4, num_experts_per_tok=2),
    "glm4_moe": _gated(
        "Glm4Moe",
        moe_intermediate_size=48,
        n_routed_experts=4,
        num_experts_per_tok=2,
        head_dim=16,
        first_k_dense_replace=1,
    ),
    "ernie4_5_moe": _gated(
        "Ernie4_5_Moe", moe_intermediate_size=48, moe_num_experts=4, moe_k=2, head_dim=16
    ),
    "gpt_oss": _gated(
        "GptOss",
        num_local_experts=4,
        num_experts_per_tok=2,
        head_dim=16,
        max_position_embeddings=131072,
        layer_types=_MIXED,
        sliding_window=7,
    ),
    "opt": OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        ffn_dim=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=128,
        word_embed_proj_dim=64,
    ),
    "bloom": BloomConfig(vocab_size=VOCABULARY, hidden_size=64, n_layer=LAYERS, n_head=4),
}
"""By name; the names are also those of the tests."""

DENSE = ("llama", "mistral-window", "gemma3_text", "gemma2", "granite", "opt", "bloom", "gptj")
"""Names of models without experts whose stages compute each in a way of its own."""


def save_model(name: str, folder: Path, *, seed: int = 0, **saving: Any) -> Path:
    """Save a tiny model with random weights, wide enough apart that rounding changes no token."""
    return save_config(CONFIGS[name], folder, seed=seed, **saving)


def save_config(config: Any, folder: Path, *, seed: int = 0, **saving: Any) -> Path:
    """Save a model of this configuration with random weights."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.15)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder, **saving)
    return folder


def generated(folder: Path, prompts: list[list[int]], tokens: int, **loading: Any) -> list[Any]:
    """Return what transformers generates greedily for left-padded prompts, by prompt."""
    model = AutoModelForCausalLM.from_pretrained(folder, **loading).eval()
    longest = max(len(prompt) for prompt in prompts)
    padded = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    out = model.generate(
        input_ids=torch.tensor(padded),
        attention_mask=torch.tensor(mask),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    return [row[longest:].tolist() for row in out]
