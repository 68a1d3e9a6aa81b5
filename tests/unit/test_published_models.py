"""Published configurations against facts counted elsewhere, where the shared data lies beside."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.layers import Recurrent
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.io.bundled_models import bundled_record
from llmpq_sim.io.models import bundled_models, read_config, read_model

DATA = Path(__file__).resolve().parents[3] / "shared/data/models"
REASON = "the shared data on published models is not beside this checkout"


def shared(name: str) -> dict[str, Any]:
    path = DATA / name
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


CONFIGS, FACTS = shared("configs.json"), shared("facts.json")

NOT_UNDERSTOOD = {
    "deepseek-v4-flash": "compressed keys",
    "deepseek-v4-pro": "compressed keys",
    "gemma-3n-e4b": "per-layer embeddings",
    "kimi-k3": "residual attention",
    "llama-3.2-11b-vision": "cross-attention",
    "opt-350m": "projected embeddings",
    "step-3.7-flash": "heads that differ",
}
"""What the message names of models that are refused."""

CLOSE = 1e-3
WITH_INDEX = {"minimax-m3"}
"""Products that choose blocks of keys are counted here, and are not in the facts."""


def state_bytes(spec: ModelSpec) -> int:
    mixers = [spec.layer_kind(layer).mixer for layer in range(spec.layers)]
    return sum(mixer.state_bytes for mixer in mixers if isinstance(mixer, Recurrent))


@pytest.mark.skipif(not CONFIGS, reason=REASON)
@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in NOT_UNDERSTOOD])
def test_a_published_model_has_its_parameters_and_cache(name: str) -> None:
    facts, spec = FACTS[name], read_config(CONFIGS[name]["config"], name, "config.json").spec
    assert spec.layers == facts["layers"]
    assert len(spec.kinds) == facts["layer_kinds"]
    assert spec.parameters == pytest.approx(facts["parameters"], rel=CLOSE)
    active = CLOSE if name not in WITH_INDEX else 1e-2
    assert spec.active_parameters == pytest.approx(facts["active_parameters"], rel=active)
    per_token = spec.cache_bytes(1, 1) - spec.cache_bytes(1, 0)
    assert per_token == facts["kv_bytes_per_token_16bit"]
    assert spec.cache_bytes(1, 32_768) == facts["kv_bytes_of_a_sequence_of_32768_tokens"]
    assert state_bytes(spec) == facts["fixed_state_bytes_per_sequence"]


@pytest.mark.skipif(not CONFIGS, reason=REASON)
@pytest.mark.parametrize("name", NOT_UNDERSTOOD)
def test_what_is_not_understood_is_named(name: str) -> None:
    with pytest.raises(InputError) as caught:
        read_config(CONFIGS[name]["config"], name, "config.json")
    assert NOT_UNDERSTOOD[name] in str(caught.value)


def test_bundled_models_are_found_by_hub_id_and_in_any_case() -> None:
    assert len(bundled_models()) >= 60
    for name, meant in (
        ("Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.3-70b"),
        ("llama-3.3-70b-instruct", "llama-3.3-70b"),
        ("DeepSeek-V3", "deepseek-v3"),
        ("OPENAI/gpt-oss-120b/", "gpt-oss-120b"),
    ):
        assert read_model(name).spec.name == meant


BILLIONS = {
    "deepseek-v3": (671.0, 37.6),
    "gpt-oss-120b": (116.8, 5.7),
    "llama-3.1-405b": (405.9, 405.9),
    "mixtral-8x7b": (46.7, 12.9),
    "qwen3-30b-a3b": (30.5, 3.4),
    "gemma-3-27b": (27.0, 27.0),
    "nemotron-super-49b": (49.9, 49.9),
    "qwen3-next-80b-a3b": (79.7, 3.9),
}
"""Total and active parameters, embedding included."""


@pytest.mark.parametrize("name", BILLIONS)
def test_a_bundled_model_has_its_published_size(name: str) -> None:
    spec = read_model(name).spec
    found = (spec.parameters / 1e9, spec.active_parameters / 1e9)
    assert found == pytest.approx(BILLIONS[name], abs=0.06)


BROKEN: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "too few layer types": (
        "gpt-oss-20b",
        lambda config: config | {"layer_types": ["full_attention"]},
        "model gpt-oss-20b.layer_types: expected 24 items, one for each layer, got 1",
    ),
    "a type that the family has not": (
        "gpt-oss-20b",
        lambda config: config | {"layer_types": ["mamba"] * 24},
        "layer_types[0]: expected full_attention or sliding_attention",
    ),
    "types that are no texts": (
        "gpt-oss-20b",
        lambda config: config | {"layer_types": [1] * 24},
        "layer_types: expected a list of texts",
    ),
    "more chosen than there are": (
        "mixtral-8x7b",
        lambda config: config | {"num_experts_per_tok": 9},
        "num_experts_per_tok: expected at most 8 of 8 experts, got 9",
    ),
    "names of two generations that disagree": (
        "qwen3-30b-a3b",
        lambda config: config | {"num_experts": 128, "num_local_experts": 64},
        "num_local_experts: expected 128 as num_experts says, got 64",
    ),
    "a null where a number is needed": (
        "mixtral-8x7b",
        lambda config: config | {"hidden_size": None},
        "hidden_size: expected a whole number of at least 1, but it is missing",
    ),
    "a hundred thousand layers": (
        "qwen3-next-80b-a3b",
        lambda config: config | {"num_hidden_layers": 10**5},
        "expected at most 1000 layers, got 100000",
    ),
    "value heads that key heads do not divide": (
        "qwen3-next-80b-a3b",
        lambda config: config | {"linear_num_value_heads": 31},
        "linear_num_value_heads: expected a multiple of 16 key heads, got 31",
    ),
    "a part made of something else": (
        "nemotron-super-49b",
        lambda config: (
            config
            | {
                "block_configs": [
                    {"attention": {"replace_with_linear": True}, "ffn": {"ffn_mult": 1}}
                ]
                * 80
            }
        ),
        "block_configs[0].attention.replace_with_linear: expected nothing",
    ),
    "keys of another family": (
        "llama-3.1-8b",
        lambda config: config | {"kv_lora_rank": 512},
        "kv_lora_rank: expected nothing of it from model_type 'llama', got 512",
    ),
    "letters that are not known": (
        "nemotron-3-nano-30b-a3b",
        lambda config: config | {"hybrid_override_pattern": "MX" * 26},
        "hybrid_override_pattern: expected letters of M, *, E, -",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_config_that_cannot_be_is_refused_in_one_sentence(case: str) -> None:
    name, broken, said = BROKEN[case]
    with pytest.raises(InputError) as caught:
        read_config(broken(dict(bundled_record(name).config)), name, f"model {name}")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
