"""Tiny models of every architecture, saved in Hugging Face's layout with random weights."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
)

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

CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**_GATED),
    "llama-tied": LlamaConfig(**_GATED, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**_GATED, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**_GATED, head_dim=32),
    "mistral": MistralConfig(**_GATED, sliding_window=None),
    "mistral-window": MistralConfig(**_GATED, sliding_window=7),
    "gemma": GemmaConfig(**_GATED, head_dim=32),
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
