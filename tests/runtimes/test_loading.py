"""Loading of weights from every layout of a model folder, and refusals of bad ones."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save_file
from transformers import OPTConfig

from llmpq_sim.core.errors import InputError
from runtimes.torch_pipeline.engine.cache_shapes import CacheShape
from runtimes.torch_pipeline.engine.stage import Stage
from runtimes.torch_pipeline.weights import safetensors_file
from runtimes.torch_pipeline.weights.checkpoint import open_checkpoint
from runtimes.torch_pipeline.weights.safetensors_file import SafetensorsFile, open_safetensors
from tests.runtimes.models import LAYERS, generated, save_config, save_model
from tests.runtimes.single_process import load_stages, run, static, token_lists
from tests.runtimes.test_token_laws import prompts_of, requests_of

PROMPTS = prompts_of((5, 9, 3))
Tensors = dict[str, torch.Tensor]


def tokens_of(folder: Path, shards: tuple[int, ...] = (1, 3)) -> list[list[int]]:
    """Return the outputs of stages with the weights in a folder, in float32."""
    requests = requests_of(PROMPTS, 6)
    stages = load_stages(folder, [("bf16",) * count for count in shards], CacheShape(3, 16))
    return token_lists(run(stages, static(requests, 3, 2, 2, 2), requests)[0])


def with_tensors(folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """Change the tensors of a folder's single file."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
    return folder


def refused(folder: Path, *, shards: tuple[int, ...] = (1, 3)) -> str:
    with pytest.raises(InputError) as error:
        tokens_of(folder, shards)
    return str(error.value)


def as_bin(folder: Path, *, shards: int = 1, legacy: bool = False) -> Path:
    """Keep the weights of a folder in files of PyTorch's instead."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    keep: dict[str, Any] = {"_use_new_zipfile_serialization": not legacy}
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin", **keep)
        return folder
    files = {}
    for number in range(shards):
        name = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        part = {key: tensors[key] for key in sorted(tensors)[number::shards]}
        torch.save(part, folder / name, **keep)
        files.update(dict.fromkeys(part, name))
    index = {"metadata": {}, "weight_map": files}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


# ---- layouts


def test_one_file_or_shards_make_no_difference(tmp_path: Path) -> None:
    single = save_model("llama", tmp_path / "single")
    sharded = save_model("llama", tmp_path / "sharded", max_shard_size="100KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 3
    assert tokens_of(sharded) == tokens_of(single) == generated(single, PROMPTS, 6)


@pytest.mark.parametrize(("shards", "legacy"), [(1, False), (1, True), (3, False)])
def test_files_of_pytorch_are_read_as_weights(tmp_path: Path, shards: int, legacy: bool) -> None:
    folder = save_model("llama", tmp_path)
    expected = tokens_of(folder)
    assert tokens_of(as_bin(folder, shards=shards, legacy=legacy)) == expected


@pytest.mark.parametrize(
    ("name", "prefix"), [("bloom", "transformer."), ("opt", "model."), ("llama", "model.")]
)
def test_names_may_lack_the_prefix_of_the_base_model(
    tmp_path: Path, name: str, prefix: str
) -> None:
    folder = save_model(name, tmp_path)
    expected = tokens_of(folder)
    with_tensors(folder, lambda all_: {k.removeprefix(prefix): v for k, v in all_.items()})
    names = open_checkpoint(folder).file_of
    assert not any(key.startswith(prefix) for key in names)
    assert tokens_of(folder) == expected


def test_a_model_with_projected_embeddings_and_no_final_norm_is_cut(tmp_path: Path) -> None:
    """As OPT-350m: embeddings narrower than layers, norms after them."""
    config = OPTConfig(
        vocab_size=199,
        hidden_size=64,
        ffn_dim=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=128,
        word_embed_proj_dim=32,
        do_layer_norm_before=False,
    )
    folder = save_config(config, tmp_path)
    expected = generated(folder, PROMPTS, 6)
    for shards in ((4,), (1, 3), (1, 1, 2)):
        assert tokens_of(folder, shards) == expected
    first = load_stages(folder, [("bf16",), ("bf16",) * 3], CacheShape(1, 8))[0]
    head = first._model.get_output_embeddings()
    assert not list(head.parameters()) + list(head.buffers())


# ---- tied heads


@pytest.mark.parametrize("shards", [(4,), (1, 3)])
@pytest.mark.parametrize("own_head", [False, True, "other"])
def test_a_tied_head_is_what_transformers_makes_of_it(
    tmp_path: Path, shards: tuple[int, ...], own_head: bool | str
) -> None:
    folder = save_model("llama-tied", tmp_path)

    def with_head(tensors: Tensors) -> Tensors:
        head = tensors["model.embed_tokens.weight"].clone()
        return {**tensors, "lm_head.weight": head.flip(0) if own_head == "other" else head}

    if own_head:
        with_tensors(folder, with_head)
    assert ("lm_head.weight" in open_checkpoint(folder)) == bool(own_head)
    assert tokens_of(folder, shards) == generated(folder, PROMPTS, 6)


@pytest.mark.parametrize("own_head", [False, True])
def test_one_stage_holds_a_tied_matrix_once(tmp_path: Path, own_head: bool) -> None:
    folder = save_model("llama-tied", tmp_path)
    if own_head:
        with_tensors(
            folder,
            lambda all_: {**all_, "lm_head.weight": all_["model.embed_tokens.weight"].clone()},
        )
    for dtype in (torch.float32, torch.bfloat16):
        stage = load_stages(folder, [("bf16",) * 4], CacheShape(1, 8), dtype=dtype)[0]
        table = stage._model.get_input_embeddings().weight
        held = [buffer.data_ptr() for buffer in stage._model.get_output_embeddings().buffers()]
        assert held == [table.data_ptr()]


def test_an_untied_head_that_is_missing_is_missed(tmp_path: Path) -> None:
    folder = save_model("llama", tmp_path)
    with_tensors(folder, lambda all_: {k: v for k, v in all_.items() if k != "lm_head.weight"})
    assert refused(folder) == f"{folder}: the checkpoint lacks the tensor 'lm_head.weight'"


# ---- what is wrong


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    folder = save_model("llama", tmp_path)
    (folder / "model.safetensors").unlink()
    harmed = tmp_path / "harmed"

    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(harmed),))

    torch.save({"model.norm.weight": Harm()}, folder / "pytorch_model.bin")
    message = refused(folder)
    assert message.startswith(f"{folder / 'pytorch_model.bin'}: expected nothing but weights")
    assert "convert the model to safetensors" in message
    assert not harmed.exists()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harm(), protocol=2))
    assert "expected nothing but weights" in refused(folder)
    assert not harmed.exists()


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"a": 1}, {}])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: object) -> None:
    folder = save_model("llama", tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    assert "expected a mapping from names to tensors" in refused(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kept", [0, 4, 1000])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, name: str, kept: int) -> None:
    folder = save_model("llama", tmp_path)
    if name.endswith(".bin"):
        as_bin(folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:kept])
    assert refused(folder).startswith(f"{folder / name}: ")


@pytest.mark.parametrize(
    "tensor",
    [
        "model.layers.2.self_attn.k_proj.weight",
        "model.layers.0.input_layernorm.weight",
        "model.embed_tokens.weight",
        "model.norm.weight",
    ],
)
def test_a_tensor_of_another_shape_is_named(tmp_path: Path, tensor: str) -> None:
    folder = save_model("llama", tmp_path)
    with_tensors(folder, lambda all_: {**all_, tensor: all_[tensor][:-1].contiguous()})
    assert f"tensor {tensor!r}: expected shape [" in refused(folder)


def test_a_head_of_another_vocabulary_is_named(tmp_path: Path) -> None:
    folder = save_model("llama", tmp_path)
    with_tensors(
        folder, lambda all_: {**all_, "lm_head.weight": all_["lm_head.weight"][:-1].contiguous()}
    )
    assert "tensor 'lm_head.weight': expected 199 rows, got shape [198, 64]" in refused(folder)


def test_a_shard_that_the_index_names_must_be_there(tmp_path: Path) -> None:
    folder = save_model("llama", tmp_path, max_shard_size="100KB")
    missing = sorted(folder.glob("model-*.safetensors"))[2]
    missing.unlink()
    index = folder / "model.safetensors.index.json"
    assert refused(folder) == f"{index}: names the file {missing.name!r}, which is not in {folder}"


def test_an_index_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = save_model("llama", tmp_path / "model", max_shard_size="100KB")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    (tmp_path / "other.safetensors").write_bytes(b"")
    content["weight_map"]["model.norm.weight"] = "../other.safetensors"
    index.write_text(json.dumps(content), encoding="utf-8")
    assert "names the file '../other.safetensors'" in refused(folder)


def test_a_tensor_that_is_not_in_the_file_its_index_names_is_named(tmp_path: Path) -> None:
    folder = save_model("llama", tmp_path, max_shard_size="100KB")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    files = content["weight_map"]
    other = next(name for name in files.values() if name != files["model.norm.weight"])
    files["model.norm.weight"] = other
    index.write_text(json.dumps(content), encoding="utf-8")
    assert f"{folder / other}: cannot read tensor 'model.norm.weight'" in refused(folder)


def test_weights_in_a_type_that_is_none_are_refused(tmp_path: Path) -> None:
    folder = save_model("llama", tmp_path)
    with_tensors(
        folder, lambda all_: {**all_, "model.norm.weight": torch.ones(64, dtype=torch.int32)}
    )
    assert "expected one of F64, F32, F16, BF16, got I32" in refused(folder)


def test_every_tensor_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, 5).half(),
        "brain": torch.randn(2, 1, 4).bfloat16(),
        "double": torch.randn(7).double(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
    }
    save_file(tensors, tmp_path / "all.safetensors", {"format": "pt"})
    opened = open_safetensors(tmp_path / "all.safetensors")
    assert set(opened.names()) == set(tensors)
    for name, tensor in tensors.items():
        read = opened.read(name)
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)


# ---- the cache of quantized layers


def load_with(folder: Path, cache_dir: Path) -> list[Stage]:
    formats = [("int8",), ("int4", "bf16", "int3")]
    shape = CacheShape(3, 16)
    return load_stages(folder, formats, shape, dtype=torch.bfloat16, weight_cache=cache_dir)


def state_of(stages: list[Stage]) -> Tensors:
    return {
        f"{number} {name}": tensor
        for number, stage in enumerate(stages)
        for name, tensor in (
            *stage._model.named_parameters(),
            *stage._model.named_buffers(),
        )
    }


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_a_second_start_takes_quantized_layers_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model("llama", tmp_path / "model")
    direct = state_of(
        load_stages(
            folder, [("int8",), ("int4", "bf16", "int3")], CacheShape(3, 16), dtype=torch.bfloat16
        )
    )
    first = state_of(load_with(folder, tmp_path / "cache"))
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3
    read: list[str] = []
    plain = SafetensorsFile.read

    def noted(self: SafetensorsFile, name: str, *dtypes: Any) -> torch.Tensor:
        read.append(name)
        return plain(self, name, *dtypes)

    monkeypatch.setattr(safetensors_file.SafetensorsFile, "read", noted)
    second = state_of(load_with(folder, tmp_path / "cache"))
    assert_same(first, direct)
    assert_same(second, direct)
    matrices = [name for name in read if name.endswith("proj.weight")]
    assert matrices
    assert all(name.startswith("model.layers.2.") for name in matrices)  # which is not quantized


def test_a_damaged_file_of_the_cache_is_made_again(tmp_path: Path) -> None:
    folder = save_model("llama", tmp_path / "model")
    expected = state_of(load_with(folder, tmp_path / "cache"))
    files = sorted((tmp_path / "cache").glob("*.safetensors"))
    whole = [path.read_bytes() for path in files]
    contents = [load(content) for content in whole]
    flipped = bytearray(whole[0])
    flipped[-1] ^= 1
    files[0].write_bytes(bytes(flipped))
    files[1].write_bytes(whole[1][:100])
    assert_same(state_of(load_with(folder, tmp_path / "cache")), expected)
    for path, content in zip(files, contents, strict=True):
        assert_same(load_file(path), content)


def test_other_weights_are_not_taken_from_the_cache(tmp_path: Path) -> None:
    first = save_model("llama", tmp_path / "first", seed=0)
    other = save_model("llama", tmp_path / "other", seed=1)
    load_with(first, tmp_path / "cache")
    found = state_of(load_with(other, tmp_path / "cache"))
    assert_same(found, state_of(load_with(other, tmp_path / "new")))
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 6
