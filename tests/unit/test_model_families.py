"""Families of decoders against transformers' own models of their configs, without weights."""

from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.io.families import FAMILIES
from llmpq_sim.io.models import model_from_config
from runtimes.torch_pipeline.engine.families import FAMILIES as EXECUTED

torch = pytest.importorskip("torch", reason="the runtime's packages are not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 48,
    "vocab_size": 80,
}
SHORT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 48, "vocab_size": 80}
OWN_NAMES: dict[str, dict[str, Any]] = {
    "opt": SIZES | {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 80},
    "mpt": {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 48, "vocab_size": 80},
    "falcon": SIZES | {"num_kv_heads": 2},
    "gpt2": SHORT,
    "gptj": SHORT | {"rotary_dim": 8},
}
HEAD_DIM = {"head_dim": 16}
FIXED: dict[str, dict[str, Any]] = {
    "hunyuan_v1_dense": HEAD_DIM,
    "arcee": HEAD_DIM,
    "helium": HEAD_DIM,
    "ministral3": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 48,
        }
    },
    "mpt": {"use_cache": True},
}
"""What does not follow from the sizes in the defaults of transformers."""

NO_TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))

VARIANTS: dict[str, dict[str, Any]] = {
    "opt": {"enable_bias": False},
    "llama": {"attention_bias": True, "mlp_bias": True},
    "granite": {"attention_bias": True, "mlp_bias": True},
    "smollm3": {"attention_bias": True, "mlp_bias": True},
    "helium": {"attention_bias": True, "mlp_bias": True},
    "arcee": {"attention_bias": True, "mlp_bias": True},
    "nemotron": {"attention_bias": True, "mlp_bias": True},
    "hunyuan_v1_dense": {"attention_bias": True},
    "seed_oss": {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True},
    "olmo": {"attention_bias": True},
    "olmo2": {"attention_bias": True},
    "apertus": {"attention_bias": True},
    "cohere": {"use_qk_norm": True, "attention_bias": True},
    "glm": {"attention_bias": False},
    "glm4": {"attention_bias": False},
    "ernie4_5": {"use_bias": True},
    "starcoder2": {"use_bias": False},
    "gpt_neox": {"attention_bias": False},
    "phi": {"qk_layernorm": True},
    "gpt2": {"n_inner": 112},
    "falcon": {"new_decoder_architecture": True, "bias": True},
    "qwen3": {"attention_bias": True, "head_dim": 24},
    "gemma": {"head_dim": 24},
    "mistral": {"head_dim": 24},
}
BIASES = {"attention_bias": True, "mlp_bias": True}
CASES = [
    *((name, {}) for name in FAMILIES),
    *((name, BIASES) for name in FAMILIES),  # which most families do not know, and so ignore
    *VARIANTS.items(),
    ("falcon", {"multi_query": False, "parallel_attn": False}),
    ("falcon", {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1}),
]


def small_config(name: str, **changes: Any) -> Any:
    sizes = OWN_NAMES.get(name, SIZES) | FIXED.get(name, {}) | NO_TOKENS
    return transformers.AutoConfig.for_model(name, **(sizes | changes))


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_a_layer_has_the_tensors_of_transformers_own(name: str, changes: dict[str, Any]) -> None:
    config = small_config(name, **changes)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    spec = model_from_config(config.to_dict(), name, "config.json")
    assert type(model).__name__.lower() == FAMILIES[name][0].lower()
    layer = [each.shape for key, each in model.named_parameters() if ".1." in key]
    matrices = [shape for shape in layer if len(shape) == 2 and 64 in shape]
    elements = sum(shape.numel() for shape in layer)
    assert spec.only_kind.parameters == elements
    assert spec.only_kind.formatted_weights == sum(shape.numel() for shape in matrices)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (spec.vocab_size, spec.hidden_size) == tuple(embedding.shape)
    assert spec.tied_embeddings == (head is embedding)
    assert spec.layers == 2


@pytest.mark.parametrize("name", FAMILIES)
def test_keys_and_values_are_as_wide_as_those_that_transformers_caches(name: str) -> None:
    config = small_config(name)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    cached = model(torch.arange(7)[None]).past_key_values.layers[0]
    spec = model_from_config(config.to_dict(), name, "config.json")
    assert 2 * (cached.keys.numel() + cached.values.numel()) == spec.only_kind.cache_bytes(1, 7)


def test_the_readme_says_how_many_families_there_are() -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
    assert f"{len(FAMILIES) - len(EXECUTED)} more dense families" in readme
    assert set(EXECUTED) < set(FAMILIES)
