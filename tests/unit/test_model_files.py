"""Readings of models from a config.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.io.bundled_models import bundled_record
from llmpq_sim.io.families import FAMILIES, SAME_AS
from llmpq_sim.io.model_records import model_from_dict, model_to_dict
from llmpq_sim.io.models import bundled_models, load_model, model_from_config
from llmpq_sim.io.wrappers import WRAPPERS

PUBLISHED = {
    "bloom-560m": 559_214_592,
    "bloom-3b": 3_002_557_440,
    "bloom-7b1": 7_069_016_064,
    "bloom-176b": 176_247_271_424,
    "llama-160m": 162_417_408,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "mistral-7b": 7_248_023_552,  # version 0.3
    "opt-125m": 125_239_296,
    "opt-1.3b": 1_315_758_080,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
}
"""Parameters as the models' pages state them."""

OUTER_NORMS = {"opt": 2, "bloom": 4}
"""Vectors of the norms outside layers: LayerNorms have two, and BLOOM also norms embeddings."""

GEMMA_2B = {
    "model_type": "gemma",
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "max_position_embeddings": 8192,
    "num_attention_heads": 8,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "torch_dtype": "bfloat16",
    "vocab_size": 256000,
}
QWEN3_8B = {
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
    "vocab_size": 151936,
}


def all_parameters(spec: ModelSpec) -> int:
    """Return a model's parameters with the norms that belong to no layer."""
    return spec.parameters + OUTER_NORMS.get(spec.family, 1) * spec.hidden_size


def config(name: str, **changes: object) -> dict[str, Any]:
    return dict(bundled_record(name).config) | changes


def read(name: str, **changes: object) -> ModelSpec:
    return model_from_config(config(name, **changes), name, "config.json")


def message(name: str, **changes: object) -> str:
    with pytest.raises(InputError) as caught:
        read(name, **changes)
    return str(caught.value)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_bundled_model_has_its_published_parameters(name: str) -> None:
    assert all_parameters(load_model(name)) == PUBLISHED[name]


@pytest.mark.parametrize("name", [name for name in bundled_models() if name.startswith("opt")])
def test_opt_models_have_the_parameters_of_their_tensors(name: str) -> None:
    spec = load_model(name)
    h, f = spec.hidden_size, spec.only_kind.dense.inner_size
    layer = 4 * (h * h + h) + (f * h + f) + (h * f + h) + 2 * (h + h)
    embeddings = 50272 * h + (2048 + 2) * h
    assert all_parameters(spec) == spec.layers * layer + embeddings + 2 * h


def test_families_that_are_not_bundled_have_their_published_parameters() -> None:
    assert all_parameters(model_from_config(GEMMA_2B, "g", "g.json")) == 2_506_172_416
    assert all_parameters(model_from_config(QWEN3_8B, "q", "q.json")) == 8_190_735_360


@pytest.mark.parametrize("name", bundled_models())
def test_every_bundled_model_survives_a_snapshot(name: str) -> None:
    spec = load_model(name)
    content = json.loads(json.dumps(model_to_dict(spec)))
    assert spec.name == name
    assert model_from_dict(Fields(content, "plan.json.model")) == spec


def test_absent_keys_have_their_familys_meaning() -> None:
    content = config("llama-2-7b")
    for key in ("num_key_value_heads", "tie_word_embeddings", "torch_dtype"):
        del content[key]
    spec = model_from_config(content, "m", "config.json")
    assert (spec.only_kind.attention.kv_heads, spec.tied_embeddings, spec.dtype) == (
        32,
        False,
        "fp16",
    )
    assert read("opt-125m").tied_embeddings
    assert read("bloom-560m").tied_embeddings


def test_biases_are_counted_where_the_config_asks_for_them() -> None:
    h, f = 4096, 11008
    assert read("llama-2-7b", attention_bias=True).only_kind.bias_elements == 4 * h
    assert read("llama-2-7b", mlp_bias=True).only_kind.bias_elements == 2 * f + h
    assert read("qwen2.5-7b").only_kind.bias_elements == (28 + 2 * 4) * 128
    assert read("opt-125m", enable_bias=False).only_kind.bias_elements == 0


def test_a_mistral_that_does_not_say_it_has_eight_key_value_heads() -> None:
    content = config("mistral-7b")
    del content["num_key_value_heads"]
    assert model_from_config(content, "mistral-7b", "x") == load_model("mistral-7b")


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
        ({"rope_type": "yarn", "factor": 2.0}, 262144),
        ({"type": "linear", "factor": 2}, 262144),
        ({"rope_type": "llama3", "factor": 8.0}, 131072),
        ({"type": "longrope", "factor": 8.0}, 131072),
        ({"type": "mrope", "mrope_section": [16, 24, 24]}, 131072),
        (None, 131072),
    ],
)
def test_scaled_positions_lengthen_the_context(rope: object, positions: int) -> None:
    assert read("llama-3.1-8b", rope_scaling=rope).max_positions == positions


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"architectures": ["LlamaForCausalLMEagle3"]},
            "config.json.architectures: expected LlamaForCausalLM, the language model of "
            "model_type 'llama', got 'LlamaForCausalLMEagle3', which is another model",
        ),
        (
            {"auto_map": {"AutoModelForCausalLM": "modeling_x.XForCausalLM"}},
            "config.json.architectures: expected LlamaForCausalLM, the language model of "
            "model_type 'llama', got 'XForCausalLM', which is another model",
        ),
        (
            {"num_local_experts": 8},
            "config.json.num_local_experts: expected nothing of it from model_type 'llama', got 8; "
            "layers that it changes are not understood",
        ),
        (
            {"quantization": {"bits": 4}},
            "config.json: expected a model with 16-bit weights, got a quantized one "
            "(config.json.quantization: 32 layers mlx, 4 bits in groups of 64); give the model it "
            "was made from",
        ),
    ],
)
def test_what_only_shares_a_familys_name_is_refused(changes: dict[str, object], said: str) -> None:
    assert message("llama-2-7b", **changes) == said


def test_an_empty_quantization_config_and_own_classes_are_nothing() -> None:
    same = {
        "quantization_config": {},
        "num_experts": 0,
        "auto_map": {"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"},
    }
    assert read("llama-2-7b", **same) == load_model("llama-2-7b")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("adapter_config.json", "got a LoRA adapter"),
        ("params.json", "got weights in the layout of params.json"),
        ("model-q4.gguf", "got a GGUF file"),
    ],
)
def test_a_folder_of_something_else_is_named(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError) as caught:
        load_model(str(tmp_path))
    assert said in str(caught.value)


def test_a_gguf_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(InputError) as caught:
        load_model(str(path))
    assert "got a GGUF file" in str(caught.value)


def test_infinities_of_others_are_read(tmp_path: Path) -> None:
    content = config("opt-125m", time_step_limit=[0.0, float("inf")])
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert load_model(str(tmp_path)).layers == 12


def test_a_head_may_be_wider_than_its_share_of_the_hidden_size() -> None:
    spec = read("mistral-7b", head_dim=256)
    assert spec.only_kind.linears[0].out_features == (32 + 2 * 8) * 256
    assert spec.only_kind.linears[1].in_features == 32 * 256


def test_bloom_is_read_by_its_older_names_too() -> None:
    content = config("bloom-560m", n_embed=1024, num_attention_heads=16, num_hidden_layers=24)
    for key in ("hidden_size", "n_head", "n_layer"):
        del content[key]
    assert model_from_config(content, "bloom-560m", "x") == load_model("bloom-560m")


def test_keys_of_others_are_left_alone() -> None:
    assert read("llama-2-7b", _name_or_path="x", rope_scaling={"deep": [1]}, eos_token_id=[2]) == (
        load_model("llama-2-7b")
    )


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (
            "llama-2-7b",
            {"model_type": "xlnet"},
            "config.json: model_type 'xlnet' is not supported; supported are "
            + ", ".join((*FAMILIES, *WRAPPERS, *SAME_AS)),
        ),
        (
            "llama-2-7b",
            {"model_type": None},
            "config.json.model_type: expected a text, but it is missing",
        ),
        (
            "llama-2-7b",
            {"hidden_size": "4096"},
            "config.json.hidden_size: expected a whole number of at least 1, got '4096'",
        ),
        (
            "llama-2-7b",
            {"num_attention_heads": 31},
            "config.json: expected a hidden size that 31 attention heads divide, got 4096",
        ),
        (
            "llama-2-7b",
            {"num_key_value_heads": 5},
            "config.json: expected attention heads in groups of equal size, got 32 heads for "
            "5 key-value heads",
        ),
        (
            "llama-2-7b",
            {"num_hidden_layers": 10**9},
            "config.json: expected at most 1000 layers, got 1000000000",
        ),
        (
            "llama-2-7b",
            {"torch_dtype": "float8_e4m3fn"},
            "config.json.torch_dtype: expected one of float16, bfloat16, float32, "
            "got 'float8_e4m3fn'",
        ),
        (
            "llama-2-7b",
            {"tie_word_embeddings": 1},
            "config.json.tie_word_embeddings: expected true or false, got 1",
        ),
        (
            "llama-2-7b",
            {"quantization_config": {"quant_method": "gptq"}},
            "config.json.quantization_config.bits: expected a whole number of at least 1, but it "
            "is missing",
        ),
        (
            "opt-125m",
            {"word_embed_proj_dim": 512},
            "config.json.word_embed_proj_dim: expected hidden_size, 768, got 512; projected "
            "embeddings are not supported",
        ),
    ],
)
def test_a_bad_config_says_what_and_where(name: str, changes: dict[str, object], said: str) -> None:
    assert message(name, **changes) == said


def test_a_model_is_found_by_its_folder_or_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "my-opt"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config("opt-125m")))
    (tmp_path / "other.json").write_text(json.dumps(config("opt-125m")))
    by_folder = load_model(str(folder))
    assert by_folder.name == "my-opt"
    assert load_model(str(folder / "config.json")) == by_folder
    assert load_model(str(tmp_path / "other.json")).name == "other"


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_model("facebook/OPT-31b")
    assert str(caught.value) == (
        "model: expected a bundled model, a folder with a config.json, or a config.json, "
        "got 'facebook/OPT-31b'; did you mean opt-30b or opt-13b or opt-175b?"
    )
    with pytest.raises(InputError) as caught:
        load_model(str(tmp_path))
    path = tmp_path / "config.json"
    assert str(caught.value) == f"cannot read {path}: No such file or directory"
