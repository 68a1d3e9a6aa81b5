"""Families of decoders against transformers' own models of their configs, without weights."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.core.layers import Attention, LatentAttention, Recurrent
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.io.families import FAMILIES, SAME_AS
from llmpq_sim.io.family_defaults import class_defaults
from llmpq_sim.io.layer_parts import Latent
from llmpq_sim.io.models import read_config
from llmpq_sim.io.wrappers import WRAPPERS
from runtimes.torch_pipeline.engine.families import FAMILIES as EXECUTED

torch = pytest.importorskip("torch", reason="the runtime's packages are not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

REMOTE = {"internlm2", "nemotron-nas", "mistral4"}
"""Families of which transformers has no causal language model: their formulas are checked."""

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 48,
    "vocab_size": 80,
    "sliding_window": 7,
    "attention_chunk_size": 8,
    "n_embd": 64,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 48,
    "d_model": 64,
    "n_layers": 4,
    "n_heads": 4,
    "max_seq_len": 48,
    "ffn_dim": 96,
    "word_embed_proj_dim": 64,
    "rotary_dim": 8,
    "num_experts": 6,
    "num_local_experts": 6,
    "n_routed_experts": 6,
    "moe_num_experts": 6,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "num_dense_layers": 1,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 24,
    "shared_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 28,
    "dense_intermediate_size": 56,
    "intermediate_size_mlp": 56,
    "kv_lora_rank": 12,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 14,
    "index_n_heads": 3,
    "index_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 10,
    "linear_num_heads": 4,
    "linear_head_dim": 8,
    "mamba_n_heads": 8,
    "mamba_num_heads": 8,
    "mamba_d_head": 16,
    "mamba_head_dim": 16,
    "mamba_d_state": 10,
    "ssm_state_size": 10,
    "state_size": 10,
    "n_groups": 2,
    "mamba_n_groups": 2,
    "mamba_dt_rank": 5,
    "time_step_rank": 5,
}
"""Sizes no two of which are alike where that would hide a mistake."""

OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "bloom": {"n_layer": 4, "n_head": 4},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 6, "moe_top_k": 2},
    },
    "deepseek_v3": {"head_dim": 6},  # which its rotary embedding has
    "youtu": {"head_dim": 6},
    "falcon": {"num_kv_heads": 2},
    "gemma4_text": {"hidden_size_per_layer_input": 0},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "mamba": {"intermediate_size": 128},
    "falcon_mamba": {"intermediate_size": 128},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "minimax_m3_vl_text": {
        "index_n_heads": 2,
        "layer_types": ["full_attention", "minimax_m3_sparse"] * 2,
        "mlp_layer_types": ["dense", "sparse"] * 2,
    },
    "ministral3": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 48,
        }
    },
    "mpt": {"use_cache": True},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"]},
}
"""What does not follow from the sizes in the defaults of transformers."""

WINDOWS = ("sliding_window", "attention_chunk_size")
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
BIASES = dict.fromkeys(
    ("attention_bias", "mlp_bias", "use_bias", "bias", "mamba_proj_bias", "qkv_bias"), True
)
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("opt", {"enable_bias": False}),
    ("seed_oss", {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True}),
    ("cohere", {"use_qk_norm": True}),
    ("glm", {"attention_bias": False}),
    ("starcoder2", {"use_bias": False}),
    ("gpt_neox", {"attention_bias": False}),
    ("phi", {"qk_layernorm": True}),
    ("gpt2", {"n_inner": 112}),
    ("falcon", {"new_decoder_architecture": True, "bias": True}),
    ("falcon", {"multi_query": False, "parallel_attn": False}),
    ("falcon", {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1}),
    ("qwen3", {"head_dim": 24, "use_sliding_window": True, "max_window_layers": 1}),
    ("qwen2_moe", {"use_sliding_window": True, "mlp_only_layers": [2], "decoder_sparse_step": 2}),
    ("gemma4_text", {"enable_moe_block": True, "top_k_experts": 2, "attention_k_eq_v": True}),
    ("gemma4_text", {"num_global_key_value_heads": 1, "attention_k_eq_v": True}),
    ("glm4_moe", {"use_qk_norm": True, "first_k_dense_replace": 2}),
    ("deepseek_v2", {"q_lora_rank": None, "first_k_dense_replace": 1}),
    ("llama4_text", {"interleave_moe_layer_step": 2, "no_rope_layer_interval": 2}),
    ("nemotron_h", {"moe_latent_size": 24}),
    ("mamba2", {"use_conv_bias": False}),
    ("ernie4_5_moe", {"moe_layer_start_index": 2, "moe_layer_end_index": 2}),
    ("granitemoehybrid", {"num_local_experts": 0}),
]
KNOWN = [name for name in FAMILIES if name not in REMOTE]
BIASED = [
    name
    for name in KNOWN
    if BIASES.keys() & transformers.AutoConfig.for_model(name).to_dict().keys()
]
"""Families whose configs say which products have biases."""
LATENT = {
    name
    for name, family in FAMILIES.items()
    if any(isinstance(rule, Latent) for rule in family.mixers.values())
}
"""Families whose heads have keys of their own, however many key-value heads a config states."""
CASES = [*((name, {}) for name in KNOWN), *((name, BIASES) for name in BIASED), *VARIANTS]


def small_config(name: str, **changes: Any) -> Any:
    known = transformers.AutoConfig.for_model(name).to_dict()
    sizes = SIZES | OWN.get(name, {}) | changes | dict.fromkeys(TOKENS)
    own = OWN.get(name, {}) | {key: changes[key] for key in changes if changes is not BIASES}
    kept = {key: value for key, value in sizes.items() if key in known or key in own}
    return transformers.AutoConfig.for_model(name, **kept)


def plain(config: Any) -> dict[str, Any]:
    """Return a config as its file has it."""
    content = json.loads(json.dumps(config.to_dict()))
    assert isinstance(content, dict)
    return content


def spec_of(config: Any, name: str) -> ModelSpec:
    return read_config(plain(config), name, "config.json").spec


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_a_layer_has_the_elements_of_transformers_own(name: str, changes: dict[str, Any]) -> None:
    config = small_config(name, **changes)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    spec = spec_of(config, name)
    family = FAMILIES[name]
    known = {each.lower() for each in (family.model_class, *family.classes)}
    assert type(model).__name__.lower() in known
    elements: Counter[int] = Counter()
    for key, each in model.named_parameters():
        found = re.match(r".*?\.(\d+)\.", key)
        if found:
            elements[int(found[1])] += each.numel()
    layers = range(spec.layers)
    assert {layer: spec.layer_kind(layer).parameters for layer in layers} == elements
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (spec.vocab_size, spec.hidden_size) == tuple(embedding.shape)
    assert spec.tied_embeddings == (head is embedding)


@pytest.mark.parametrize("name", KNOWN)
def test_a_layer_keeps_what_transformers_own_keeps(name: str) -> None:
    heads = {"num_key_value_heads": 4} if name in LATENT else {}
    config = small_config(name, **heads)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        output = model(torch.arange(5)[None], use_cache=True)
    cache = output.get("past_key_values") or output["cache_params"]
    spec = spec_of(config, name)
    for layer, kept in enumerate(cache.layers):
        mixer = spec.layer_kind(layer).mixer
        if isinstance(mixer, Attention):
            found = kept.keys.numel() + kept.values.numel()
            assert found == 5 * mixer.cached_elements_per_token
            assert mixer.cached_tokens(10**6) == (mixer.window or 10**6)
            windows = {
                getattr(config, key, None) for key in ("sliding_window", "attention_chunk_size")
            }
            assert mixer.window is None or mixer.window in windows
        elif isinstance(mixer, LatentAttention):
            index = kept.indexer_keys.numel() if mixer.indexer else 0
            found = kept.keys.numel() + kept.values.numel() + index
            assert found == 5 * mixer.cached_elements_per_token
        elif isinstance(mixer, Recurrent):
            assert kept.recurrent_states[0].numel() == mixer.state_elements
            convolution = kept.conv_states[0]
            columns = mixer.convolution_elements // convolution.shape[1]
            assert convolution.shape[1] * columns == mixer.convolution_elements
            assert columns in (convolution.shape[2], convolution.shape[2] - 1)


@pytest.mark.parametrize("name", [*KNOWN, "mistral4"])
def test_defaults_are_those_of_transformers_own_class(name: str) -> None:
    known = type(transformers.AutoConfig.for_model(name)).__dataclass_fields__
    defaults = class_defaults(name)
    assert defaults
    assert defaults == {key: known[key].default for key in defaults}


TOWERS: dict[str, dict[str, Any]] = {
    "gemma3": {"model_type": "siglip_vision_model", "vision_use_head": False},
    "gemma4": {"model_type": "gemma4_vision"},
}
"""Towers that are not the default ones of their models."""


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_vision_tower_has_the_elements_of_transformers_own(name: str) -> None:
    text = transformers.AutoConfig.for_model(name).text_config
    small = small_config(text.model_type) if text.model_type in FAMILIES else None
    inner = plain(small) if small else text_sizes(text.to_dict())
    tower = TOWERS.get(name)
    whole = transformers.AutoConfig.for_model(
        name, text_config=inner, **({"vision_config": tower} if tower else {})
    )
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(whole)
    outside, inside = 0, 0
    for key, each in model.named_parameters():
        of_text = "language_model" in key or key.startswith("lm_head")
        inside += each.numel() * of_text
        outside += each.numel() * (not of_text)
    read = read_config(plain(whole), name, "config.json")
    assert read.spec.extra_first_bytes == 2 * outside
    assert read.spec.parameters + read.spec.hidden_size == inside  # with the last norm
    assert "the vision tower of" in read.notes[-1]
    alone = read_config(plain(whole), name, "config.json", without_vision=True)
    assert alone.spec.extra_first_bytes == 0
    assert alone.spec.kinds == read.spec.kinds


def text_sizes(known: dict[str, Any]) -> dict[str, Any]:
    sizes = {key: value for key, value in SIZES.items() if key in known}
    return sizes | {"model_type": known["model_type"]} | dict.fromkeys(TOKENS)


def test_families_read_as_others_are_of_listed_ones() -> None:
    assert set(SAME_AS.values()) <= set(FAMILIES)
    assert {wrapper.text_type for wrapper in WRAPPERS.values()} <= set(FAMILIES) | set(SAME_AS)


def test_the_readme_says_how_many_families_there_are() -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
    assert f"{len(FAMILIES) - len(EXECUTED)} more" in readme
    assert set(EXECUTED) < set(FAMILIES)
