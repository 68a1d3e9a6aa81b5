"""Weight cache: a cached layer is always the layer that would be built."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llmpq_sim.core.errors import InputError
from runtimes.torch_pipeline.weights import weight_cache
from runtimes.torch_pipeline.weights.formats.stored_format import Tensors
from runtimes.torch_pipeline.weights.quantizers import quantize
from runtimes.torch_pipeline.weights.weight_cache import cached_layer, layer_key

KEY = layer_key("some checkpoint", 3, "int4", "bf16")


class Builder:
    """Builds a layer and counts how often."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self.builds = 0

    def __call__(self) -> Tensors:
        self.builds += 1
        weight = torch.randn(32, 128, generator=torch.Generator().manual_seed(self._seed))
        stored = quantize(weight, "int4", torch.bfloat16)
        return {f"mlp/{name}": tensor for name, tensor in stored.items()}


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def file_of(folder: Path) -> Path:
    return folder / f"{KEY}.safetensors"


def test_a_second_call_reads_what_the_first_built(tmp_path: Path) -> None:
    builder = Builder()
    first = cached_layer(tmp_path / "new" / "folder", KEY, builder)
    second = cached_layer(tmp_path / "new" / "folder", KEY, builder)
    assert builder.builds == 1
    assert_same(first, Builder()())
    assert_same(second, first)


def test_what_was_read_holds_no_file(tmp_path: Path) -> None:
    cached_layer(tmp_path, KEY, Builder())
    found = cached_layer(tmp_path, KEY, Builder())
    file_of(tmp_path).write_bytes(b"\0" * file_of(tmp_path).stat().st_size)
    assert_same(found, Builder()())


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_damaged_file_is_built_again(tmp_path: Path, place: int) -> None:
    cached_layer(tmp_path, KEY, Builder())
    content = bytearray(file_of(tmp_path).read_bytes())
    content[place] ^= 1
    file_of(tmp_path).write_bytes(content)
    builder = Builder()
    assert_same(cached_layer(tmp_path, KEY, builder), Builder()())
    assert builder.builds == 1
    assert cached_layer(tmp_path, KEY, builder)
    assert builder.builds == 1


@pytest.mark.parametrize("kept_bytes", [0, 5, 200, -1])
def test_a_file_cut_short_is_built_again(tmp_path: Path, kept_bytes: int) -> None:
    cached_layer(tmp_path, KEY, Builder())
    file_of(tmp_path).write_bytes(file_of(tmp_path).read_bytes()[:kept_bytes])
    assert_same(cached_layer(tmp_path, KEY, Builder()), Builder()())


def test_a_foreign_file_and_another_layer_s_are_built_again(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(3)}, file_of(tmp_path))
    assert_same(cached_layer(tmp_path, KEY, Builder()), Builder()())
    other = layer_key("some checkpoint", 4, "int4", "bf16")
    cached_layer(tmp_path, other, Builder(seed=1))
    (tmp_path / f"{other}.safetensors").replace(file_of(tmp_path))
    assert_same(cached_layer(tmp_path, KEY, Builder()), Builder()())


def test_a_build_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> Tensors:
        raise InputError("the checkpoint lacks a tensor")

    with pytest.raises(InputError, match="lacks a tensor"):
        cached_layer(tmp_path, KEY, fail)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected a folder that can be written"):
        cached_layer(tmp_path / "file" / "cache", KEY, Builder())


def test_a_key_tells_everything_apart_that_changes_a_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = {
        KEY,
        layer_key("another checkpoint", 3, "int4", "bf16"),
        layer_key("some checkpoint", 4, "int4", "bf16"),
        layer_key("some checkpoint", 3, "int3", "bf16"),
        layer_key("some checkpoint", 3, "int4", "fp32"),
        layer_key("some checkpoint", 3, "int4", "bf16", "hqq"),
    }
    monkeypatch.setattr(weight_cache, "QUANTIZER_VERSION", -1)
    keys.add(layer_key("some checkpoint", 3, "int4", "bf16"))
    assert len(keys) == 7


def test_types_and_shapes_count_in_the_hash_of_tensors() -> None:
    zeros = torch.zeros(4, dtype=torch.int16)
    variants = (zeros, zeros.view(2, 2), zeros.view(torch.bfloat16), zeros + 1)
    hashes = {weight_cache.content_sha256({"a": tensor}) for tensor in variants}
    hashes.add(weight_cache.content_sha256({"b": zeros}))
    assert len(hashes) == 5


def _fill(folder: str) -> None:
    for _ in range(20):
        file_of(Path(folder)).unlink(missing_ok=True)
        assert_same(cached_layer(Path(folder), KEY, Builder()), Builder()())


def test_two_processes_may_make_the_same_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_fill, args=(str(tmp_path),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == [file_of(tmp_path).name]
