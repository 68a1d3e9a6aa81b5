"""Descriptions of models, devices, clusters and formats, as content and on a screen."""

import json
from pathlib import Path

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.families import FAMILIES, MISSING_PARTS, SAME_AS
from llmpq_sim.io.models import bundled_models
from llmpq_sim.io.wrappers import WRAPPERS
from llmpq_sim.report.descriptions import describe, show_description
from llmpq_sim.report.tables import bundled_listing
from tests.reports import paper, written

THINGS = (
    ("model", "gpt-oss-120b"),
    ("model", "google/gemma-3-27b-it"),
    ("model", "Qwen/Qwen3-Next-80B-A3B-Instruct"),
    ("device", "a100-sxm"),
    ("cluster", "a100-l40s"),
    *(("format", name) for name in ("fp16", "mxfp4", "q4_k", "w8a8-fp8")),
)


@pytest.mark.parametrize(("kind", "name"), THINGS)
def test_a_thing_is_json_and_fits_a_screen(kind: str, name: str) -> None:
    found, console = describe(kind, name, ()), paper()
    content = json.loads(json.dumps(found.content(), allow_nan=False))
    assert content["schema"] == "llmpq/description"
    show_description(console, found)
    lines = written(console).splitlines()
    assert len(lines) >= len(found.lines)
    assert max(map(len, lines)) <= 88


def test_a_model_is_described_by_its_layers_cache_and_formats() -> None:
    content = describe("model", "openai/gpt-oss-120b", ("gpt_oss",)).content()
    assert content["name"] == "gpt-oss-120b"
    assert [(each["kind"], each["layers"]) for each in content["kinds"]] == [
        ("attention (window 128) + 128 experts", 18),
        ("attention + 128 experts", 18),
    ]
    assert content["layers"] == 36
    assert content["weight_bytes_16bit"] == 2 * content["parameters"]
    per_token = content["kv_bytes_per_token_16bit"]
    windows, full = 18 * 128, 18 * 32_768
    assert content["kv_bytes_of_32768_tokens"] == per_token // 36 * (windows + full)
    assert content["stored_formats"]["formats"] == {"mxfp4": 36}
    assert content["runtime"] == "yes"
    assert describe("model", "gpt-oss-20b", ()).content()["runtime"] == "no"


def test_a_recurrent_model_has_a_state_and_a_vision_model_a_tower() -> None:
    hybrid = describe("model", "qwen3-next-80b-a3b", ()).content()
    assert hybrid["fixed_state_bytes_per_sequence"] == sum(
        each["layers"] * each["state_bytes"] for each in hybrid["kinds"]
    )
    seeing = describe("model", "gemma-3-27b", ()).content()
    assert seeing["vision_bytes_16bit"] > 8e8
    assert "--without-vision" in seeing["notes"][0]


def test_models_are_listed_with_both_sizes_and_whether_they_are_carried_out() -> None:
    entries = bundled_listing("models", ("llama",)).entries
    assert [entry["name"] for entry in entries] != []
    assert {entry["name"] for entry in entries} == set(bundled_models())
    by_name = {entry["name"]: entry for entry in entries}
    assert by_name["llama-3.1-8b"]["runtime"] == "yes"
    assert by_name["mixtral-8x7b"]["runtime"] == "no"
    assert by_name["mixtral-8x7b"]["active_parameters"] < by_name["mixtral-8x7b"]["parameters"] / 3
    for entry in entries:
        assert sum(each["layers"] for each in entry["kinds"]) == entry["layers"]


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        (
            "modle",
            "x",
            "describe: expected one of model, device, cluster, format, got 'modle'; did",
        ),
        ("model", "gpt-os-120b", "did you mean gpt-oss-120b"),
        ("device", "a100-sx", "did you mean a100-sxm"),
        ("format", "mxfp5", "format: expected a weight format"),
        ("cluster", "a100-l40", "did you mean a100-l40s"),
    ],
)
def test_what_is_not_there_is_named_with_the_likely_one(kind: str, name: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        describe(kind, name, ())
    assert said in str(caught.value)


def test_a_folder_is_described_by_its_config(tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 80,
        "max_position_embeddings": 48,
        "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    content = describe("model", str(tmp_path), ()).content()
    assert content["stored_formats"] == {
        "source": "config.json.quantization_config",
        "formats": {"int4-g128": 2},
        "not_understood": [],
    }


PAGE = (Path(__file__).resolve().parents[2] / "docs/models.md").read_text("utf-8")


def test_the_page_lists_every_family_and_what_is_missing() -> None:
    for name in (*FAMILIES, *SAME_AS, *WRAPPERS, *MISSING_PARTS):
        assert f"`{name}`" in PAGE
    for missing in MISSING_PARTS.values():
        assert missing in PAGE


def test_the_page_shows_a_description_as_it_is() -> None:
    shown = PAGE.split("$ llmpq describe model ")[1].split("```")[0].splitlines()
    console = paper()
    show_description(console, describe("model", shown[0], ()))
    assert written(console).splitlines()[: len(shown) - 1] == shown[1:]
