"""Checkpoints as they are published: their formats read from every place, proved, and planned."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.api import plan
from llmpq_sim.api.quality_target import QualityOptions
from llmpq_sim.core.errors import InputError
from llmpq_sim.io.bundled_models import bundled_record
from llmpq_sim.io.models import ReadModel, load_model, read_model
from llmpq_sim.io.plans import load_plan
from llmpq_sim.search.planner import SearchSettings

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}
GROUP = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": False}


def group(**weights: Any) -> dict[str, Any]:
    return {"targets": ["Linear"], "weights": GROUP | weights}


def compressed(ignore: list[str], **weights: Any) -> dict[str, Any]:
    activations = weights.pop("activations", None)
    own = group(**weights) | ({"input_activations": activations} if activations else {})
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": own},
        "ignore": ["lm_head", *ignore],
    }


def folder_of(
    tmp_path: Path, quantization: object = None, files: dict[str, object] | None = None
) -> Path:
    config = LLAMA | ({} if quantization is None else {"quantization_config": quantization})
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name, content in (files or {}).items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def write_header(folder: Path, types: dict[str, str]) -> None:
    """Write a safetensors file of empty tensors of these types."""
    header = {
        name: {"dtype": each, "shape": [0], "data_offsets": [0, 0]} for name, each in types.items()
    }
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)


def formats_of(model: ReadModel) -> tuple[str, ...]:
    assert model.stored is not None
    return model.stored.of_layers


SAID_IN_CONFIG: list[tuple[dict[str, Any], str]] = [
    ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4-g128"),
    ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "int4-g32"),
    ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8"),
    ({"quant_method": "gptq", "bits": 3, "group_size": 128}, "gptq, 3 bits in groups of 128"),
    ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, "int4-g128"),
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8-block"),
    ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8"),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
    (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "bitsandbytes, 4 bits (nf4)",
    ),
    (compressed([]), "int4-g128"),
    (compressed([], group_size=32), "int4-g32"),
    (compressed([], num_bits=8, type="float", strategy="channel"), "fp8"),
    (
        compressed(
            [], num_bits=8, strategy="channel", group_size=None, activations={"num_bits": 8}
        ),
        "w8a8-int8",
    ),
    (compressed([], type="float", group_size=16), "nvfp4"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
    ({"bits": 4, "group_size": 32}, "int4-g32"),  # as MLX writes it
    ({"quant_method": "auto-round", "bits": 4, "group_size": 128}, "int4-g128"),
]


@pytest.mark.parametrize(("said", "name"), SAID_IN_CONFIG)
def test_a_config_says_the_format_of_all_layers(
    tmp_path: Path, said: dict[str, Any], name: str
) -> None:
    folder = str(folder_of(tmp_path, said))
    assert formats_of(read_model(folder)) == (name,) * 4
    with pytest.raises(InputError, match="expected a model with 16-bit weights"):
        load_model(folder)


@pytest.mark.parametrize(
    ("file", "content", "name"),
    [
        (
            "hf_quant_config.json",
            {"producer": {}, "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}},
            "fp8",
        ),
        ("quantize_config.json", {"bits": 4, "group_size": 128, "desc_act": True}, "int4-g128"),
        ("quant_config.json", {"w_bit": 4, "q_group_size": 128, "zero_point": True}, "int4-g128"),
    ],
)
def test_a_file_beside_the_config_says_it(
    tmp_path: Path, file: str, content: object, name: str
) -> None:
    folder = folder_of(tmp_path, files={file: content})
    assert formats_of(read_model(str(folder))) == (name,) * 4


@pytest.mark.parametrize(
    "ignored",
    [
        ["re:.*layers\\.0\\..*"],
        ["model.layers.0.*"],
        ["model.layers.0"],
        [
            f"model.layers.0.{part}_proj"
            for part in (
                "self_attn.q",
                "self_attn.k",
                "self_attn.v",
                "self_attn.o",
                "mlp.gate",
                "mlp.up",
                "mlp.down",
            )
        ],
    ],
)
def test_layers_that_are_left_out_stay_at_16_bits(tmp_path: Path, ignored: list[str]) -> None:
    folder = folder_of(tmp_path, compressed(ignored))
    assert formats_of(read_model(str(folder))) == ("bf16", *["int4-g128"] * 3)


def test_products_that_are_left_out_stay_at_16_bits(tmp_path: Path) -> None:
    read = read_model(str(folder_of(tmp_path, compressed(["re:.*self_attn.*"]))))
    assert read.stored is not None
    applied = read.stored.applied(read.spec)
    (kind,) = applied.kinds
    assert [each.name for each in kind.linears if each.is_formatted] == ["up", "down"]
    assert applied.parameters == read.spec.parameters


def test_a_format_of_each_layer_that_is_not_one_is_refused(tmp_path: Path) -> None:
    layers = {
        "model.layers.0.self_attn.q_proj": {"quant_algo": "FP8"},
        "model.layers.0.mlp.up_proj": {"quant_algo": "NVFP4"},
    }
    mixed = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    folder = folder_of(tmp_path, files={"hf_quant_config.json": {"quantization": mixed}})
    with pytest.raises(InputError) as caught:
        read_model(str(folder))
    assert "one format for all quantized matrices of a layer" in str(caught.value)


def test_experts_alone_are_stored_in_four_bits() -> None:
    read = read_model("gpt-oss-20b")
    assert read.stored is not None
    kind = read.stored.applied(read.spec).kinds[0]
    formatted = [each.name for each in kind.linears if each.is_formatted]
    assert formatted == ["experts_up", "experts_down"]


def test_places_that_disagree_are_refused(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path,
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        {"quantize_config.json": {"bits": 4, "group_size": 32}},
    )
    with pytest.raises(InputError) as caught:
        read_model(str(folder))
    assert "quantize_config.json: expected 4 layers int4-g128" in str(caught.value)


PROJECTION = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("said", "types", "message"),
    [
        (None, {f"{PROJECTION}.weight": "BF16"}, ""),
        (
            None,
            {f"{PROJECTION}.weight": "F8_E4M3"},
            f"expected 16-bit weights as config.json says, got {PROJECTION}.weight of type F8_E4M3",
        ),
        (None, {f"{PROJECTION}.qweight": "I32"}, "of a format that no file names"),
        ({"quant_method": "fp8"}, {f"{PROJECTION}.weight": "F8_E4M3"}, ""),
        (
            {"quant_method": "fp8"},
            {f"{PROJECTION}.weight": "BF16"},
            "expected weights of type F8_E4M3, F8_E5M2 as config.json.quantization_config says",
        ),
        (
            {"quant_method": "awq", "bits": 4, "group_size": 128},
            {f"{PROJECTION}.qweight": "I32", "lm_head.weight": "F16"},
            "",
        ),
    ],
)
def test_headers_are_the_proof(
    tmp_path: Path, said: object, types: dict[str, str], message: str
) -> None:
    folder = folder_of(tmp_path, said)
    write_header(folder, types)
    if not message:
        assert read_model(str(folder)).spec.layers == 4
        return
    with pytest.raises(InputError) as caught:
        read_model(str(folder))
    assert message in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\0" * 8, struct.pack("<Q", 99) + b"{}", b"\xff" * 99])
def test_a_file_that_has_no_header_is_named(tmp_path: Path, content: bytes) -> None:
    folder = folder_of(tmp_path)
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors: expected"):
        read_model(str(folder))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"quant_method": "aqlm"}, "quant_method: expected one of auto-round, awq"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8"}, "quant_algo: expected one of FP8"),
        (compressed(["re:("]), "ignore: no pattern"),
        ({"quant_method": "compressed-tensors"}, "config_groups: expected groups"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, said: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_model(str(folder_of(tmp_path, said)))
    assert message in str(caught.value)


QUICK = SearchSettings(seed=0, generations=0)


def test_a_plan_keeps_the_formats_and_seeks_the_rest(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, compressed(["model.layers.0"]))
    planned = plan(
        model=str(folder), cluster="l4-a10g", batch=4, prompt_tokens=64, output_tokens=8,
        settings=QUICK,
    )  # fmt: skip
    found = planned.best.plan
    assert found.layer_formats == ("bf16", *["int4-g128"] * 3)
    assert planned.best.loss == 0.0
    assert any("formats as published" in note for note in planned.notes)
    planned.save(tmp_path / "plan.json")
    saved = load_plan(tmp_path / "plan.json", {})
    assert saved.plan == found
    assert saved.target == planned.target


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"formats": "int8"}, "--formats: expected int4-g128, as the checkpoint is stored"),
        (
            {"quality": QualityOptions(at_least="int8")},
            "--quality-at-least: the checkpoint's formats are decided",
        ),
    ],
)
def test_options_that_ask_for_other_formats_are_refused(
    tmp_path: Path, asked: dict[str, Any], message: str
) -> None:
    folder = folder_of(tmp_path, {"quant_method": "awq", "bits": 4, "group_size": 128})
    with pytest.raises(InputError) as caught:
        plan(model=str(folder), cluster="l4-a10g", **asked)
    assert message in str(caught.value)


def test_a_format_without_a_name_here_is_not_planned(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"quant_method": "gptq", "bits": 3, "group_size": 128})
    with pytest.raises(InputError) as caught:
        plan(model=str(folder), cluster="l4-a10g")
    assert "got gptq, 3 bits in groups of 128; give the model that it was made from" in str(
        caught.value
    )


def test_bundled_records_are_small_and_say_only_what_shapes_a_model() -> None:
    config = bundled_record("llama-3.1-70b").config
    assert set(config) <= {
        "model_type", "hidden_size", "intermediate_size", "max_position_embeddings",
        "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "tie_word_embeddings",
        "torch_dtype", "vocab_size",
    }  # fmt: skip
