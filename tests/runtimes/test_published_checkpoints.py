"""Published checkpoints: read as they were packed, served as they are, or refused by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmpq_sim.api.planning import plan
from llmpq_sim.core.errors import InputError
from llmpq_sim.search.planner import SearchSettings
from runtimes.base import Job, RuntimeOptions, TokenRequest
from runtimes.torch_pipeline.engine.cache_shapes import CacheShape
from runtimes.torch_pipeline.processes.job_building import check_job
from runtimes.torch_pipeline.weights.checkpoint import open_checkpoint
from tests.runtimes.linears_of_tests import without_gradients
from tests.runtimes.models import generated
from tests.runtimes.published_checkpoints import METHODS, describe, publish
from tests.runtimes.single_process import load_stages, run, static, token_lists
from tests.runtimes.test_token_laws import prompts_of, requests_of

PROMPTS = prompts_of((5, 3))
QUERY = "model.layers.1.self_attn.q_proj"

inference = pytest.fixture(autouse=True)(without_gradients)


def tokens_of(folder: Path, *formats: str) -> list[list[int]]:
    """Return the outputs of two stages of a layer each, in float32."""
    requests = requests_of(PROMPTS, 6)
    stages = load_stages(folder, [(each,) for each in formats], CacheShape(2, 16))
    return token_lists(run(stages, static(requests, 2, 2, 2, 1), requests)[0])


def changed(folder: Path, name: str, change: Any) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("name", METHODS)
def test_every_matrix_means_what_was_packed(name: str, tmp_path: Path) -> None:
    quantized, plain = publish(METHODS[name], tmp_path)
    expected = load_file(plain / "model.safetensors")
    checkpoint = open_checkpoint(quantized)
    assert checkpoint.packing is not None
    assert checkpoint.packing.format_name == METHODS[name].format_name
    with checkpoint.reading() as reader:
        for tensor, numbers in expected.items():
            torch.testing.assert_close(reader.read(tensor), numbers, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["gptq", "awq", "packed-zeros", "fp8-block"])
def test_tokens_are_those_of_the_decoded_model(name: str, tmp_path: Path) -> None:
    quantized, plain = publish(METHODS[name], tmp_path)
    kept = METHODS[name].format_name
    expected = generated(plain, PROMPTS, 6)
    assert tokens_of(quantized, kept, kept) == expected
    if kept == "fp8-block":
        assert tokens_of(quantized, "bf16", kept) == expected  # decoded as it loads


def test_codes_are_kept_as_they_are(tmp_path: Path) -> None:
    """Projections of one input are one matrix; what the checkpoint has at 16 bits stays so."""
    quantized, plain = publish(METHODS["fp8-block"], tmp_path)
    weight = load_file(plain / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    path = quantized / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.down_proj.weight_scale_inv"]
    tensors["model.layers.1.mlp.down_proj.weight"] = weight
    save_file(tensors, path, {"format": "pt"})
    stages = load_stages(quantized, [("fp8-block",) * 2], CacheShape(2, 16))
    held = {
        name: (each.format_name, each.stored_bytes)
        for name, each in stages[0].named_modules()
        if hasattr(each, "stored_bytes") and ".layers.1." in name
    }
    rows, groups = 128 + 64 + 64, 1
    assert sorted(held.values()) == sorted(
        [
            ("fp8-block", 128 * rows + 4 * rows * groups),  # halves of squares: scales by row
            ("fp8-block", 128 * 128 + 4),
            ("fp8-block", 128 * 512 + 4 * 4),
            ("fp32", 4 * 128 * 256),
        ]
    )


@pytest.mark.parametrize(
    ("described", "found"),
    [
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "gptq of 8 bits in groups of 128"),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "gptq of 4 bits in groups of -1"),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "marlin"},
            "gptq of 4 bits in the layout 'marlin'",
        ),
        (
            {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "GEMV"},
            "awq of 4 bits in the layout 'gemv'",
        ),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes' of bits that"),
        ({"quant_method": "aqlm", "bits": 2}, "'aqlm' of 2 bits"),
        ({"quant_method": "fp8", "weight_block_size": [1, 32]}, "fp8 in blocks of 1 x 32"),
        (
            {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {
                "g": {"weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}}},
            "compressed-tensors int-quantized: int of 8 bits by channel",
        ),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt NVFP4"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_with_method_bits_and_file(
    described: dict[str, Any], found: str, quantized: Path, tmp_path: Path
) -> None:
    save_file({}, tmp_path / "model.safetensors", {"format": "pt"})
    describe(tmp_path, quantized, quantization_config=described)
    with pytest.raises(InputError) as caught:
        open_checkpoint(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}.quantization_config: ")
    assert f"expected weights that can be read, got {found}" in str(caught.value)
    assert "give the model that it was made from" in str(caught.value)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(METHODS["gptq"], tmp_path_factory.mktemp("gptq"))[0]


def test_files_of_old_say_the_method_too(tmp_path: Path) -> None:
    quantized, plain = publish(METHODS["awq"], tmp_path)
    describe(quantized, plain)
    (quantized / "quant_config.json").write_text(
        json.dumps({"w_bit": 4, "q_group_size": 128, "version": "GEMM", "zero_point": True})
    )
    packing = open_checkpoint(quantized).packing
    assert packing is not None
    assert packing.source == str(quantized / "quant_config.json")
    (quantized / "quant_config.json").write_text(json.dumps({"w_bit": 3, "q_group_size": 128}))
    with pytest.raises(InputError, match=r"quant_config.json: .* awq of 3 bits in groups of 128"):
        open_checkpoint(quantized)


def test_weights_without_the_tensors_of_their_method_are_refused(
    quantized: Path, tmp_path: Path
) -> None:
    _, plain = publish(METHODS["awq"], tmp_path)
    describe(plain, quantized)
    with pytest.raises(InputError, match=r"expected tensors of gptq named \*.qweight, found none"):
        open_checkpoint(plain)


@pytest.mark.parametrize(
    ("method", "tensor", "change", "said"),
    [
        ("gptq", f"{QUERY}.g_idx", lambda each: each.flip(0) + torch.arange(128) % 2,
         r"q_proj: expected groups of neighbouring weights, got a g_idx of another order"),
        ("gptq", f"{QUERY}.scales", lambda each: each[:, :64],
         r"q_proj: expected scales and zeros of groups of 128 for 128 x 128, got \[64, 1\]"),
        ("fp8-block", f"{QUERY}.weight_scale_inv", lambda each: each.repeat(2, 1),
         r"q_proj: expected scales \[1, 1\], one for 128 x 128, got \[2, 1\]"),
        ("packed-zeros", f"{QUERY}.weight_shape", lambda each: each * 2,
         r"q_proj: expected codes of 256 x 256 weights, as weight_shape says"),
        ("fp8-tensor", f"{QUERY}.weight", lambda each: each.float(), r"of type F8_E4M3"),
    ],
)  # fmt: skip
def test_a_matrix_that_is_not_as_its_method_has_it_is_named(
    method: str, tensor: str, change: Any, said: str, tmp_path: Path
) -> None:
    folder, _ = publish(METHODS[method], tmp_path)
    changed(folder, tensor, change)
    with open_checkpoint(folder).reading() as reader, pytest.raises(InputError, match=said):
        reader.read(f"{QUERY}.weight")


def test_a_plan_of_another_format_is_refused(quantized: Path) -> None:
    checkpoint = open_checkpoint(quantized)
    checkpoint.check(["int4-g128", "bf16"])
    said = r"the plan has int4 in layer 1, where the checkpoint stores int4-g128"
    with pytest.raises(InputError, match=said):
        checkpoint.check(["bf16", "int4"])
    with pytest.raises(InputError, match=r"the plan has int4 in layer 0"):
        tokens_of(quantized, "int4", "int4-g128")


def test_a_checkpoint_is_tried_before_anything_loads(tmp_path: Path) -> None:
    folder, _ = publish(METHODS["gptq"], tmp_path)
    first = "model.layers.0.mlp.down_proj.g_idx"
    changed(folder, first, lambda each: each.flip(0))
    with pytest.raises(InputError, match=r"down_proj: .* a g_idx of another order \(desc_act\)"):
        open_checkpoint(folder).check(["int4-g128"] * 2)


def test_eight_bit_activations_are_left_at_sixteen(tmp_path: Path) -> None:
    folder, plain = publish(METHODS["fp8-channel"], tmp_path)
    open_checkpoint(folder).check(["w8a8-fp8"] * 2)
    assert tokens_of(folder, "w8a8-fp8", "fp8") == generated(plain, PROMPTS, 6)


def test_a_published_folder_is_planned_and_its_plan_fits_no_other(tmp_path: Path) -> None:
    """From the folder to a job: formats are the checkpoint's, and lose nothing."""
    folders = {name: publish(METHODS[name], tmp_path / name)[0] for name in ("awq", "fp8-block")}
    planned = plan(
        model=folders["awq"], cluster="rtx-3090-4090", batch=2, prompt_tokens=8, output_tokens=4,
        settings=SearchSettings(generations=0, only_plans=True),
    )  # fmt: skip
    assert set(planned.best.plan.layer_formats) == {"int4-g128"}
    assert planned.best.loss == 0
    options = RuntimeOptions(dtype="fp32", devices=("cpu",) * len(planned.best.plan.stages))
    requests = (TokenRequest("one", (3, 4), 2),)
    job = Job(planned.saved, requests, folders["awq"], "static", None, options)
    check_job(job)
    with pytest.raises(InputError, match=r"the plan has int4-g128 in layer 0, where .* fp8-block"):
        check_job(replace(job, model_dir=folders["fp8-block"]))
