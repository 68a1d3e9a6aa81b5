"""Answers to damaged and hostile files of weights: one line, and no memory."""

import io
import json
import pickle
import resource
import struct
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from llmpq_sim.core.errors import InputError
from runtimes.torch_pipeline.weights.checkpoint import open_checkpoint


def read_all(folder: Path) -> None:
    opened = open_checkpoint(folder)
    with opened.reading() as reader:
        for name in opened.file_of:
            reader.read(name)


def refusal(folder: Path, name: str = "pytorch_model.bin") -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as caught:
        read_all(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 200_000  # KiB
    assert str(caught.value).startswith(str(folder / name))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(folder: Path, content: bytes) -> Path:
    (folder / "pytorch_model.bin").write_bytes(content)
    return folder


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"U", b"(", b".", b"]q", b"\x80\x02\x8a\x0al\xfc."]
)
def test_a_stump_is_damaged(tmp_path: Path, content: bytes) -> None:
    refusal(written(tmp_path, content))


@pytest.mark.parametrize("size", [10**9, 10**12])
def test_no_object_is_as_large_as_a_pickle_tells(tmp_path: Path, size: int) -> None:
    for call in (Call(bytearray, size), Call(torch.FloatTensor, size)):
        refusal(written(tmp_path, pickle.dumps({"weight": call}, protocol=2)))
        torch.save({"weight": call}, tmp_path / "pytorch_model.bin")
        refusal(tmp_path)


def test_a_packed_file_is_refused_by_what_it_unpacks_to(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    assert "got packed ones" in refusal(tmp_path)


def test_a_tensor_of_fewer_elements_than_its_shape_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1).expand(1 << 40)}, tmp_path / "pytorch_model.bin")
    refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [torch.zeros(2)],
        {"weight": 1.0},
        {1: torch.zeros(2)},
        {"weight": torch.zeros(2).to_sparse()},
        {"weight": torch.zeros(2, device="meta")},
        {"weight": torch.zeros(2, dtype=torch.int64)},
        {"weight": torch.zeros(2, dtype=torch.complex64)},
    ],
)
def test_what_is_no_weight_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    refusal(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
def test_whatever_bytes_are_changed_there_are_weights_or_one_line(
    tmp_path: Path, legacy: bool
) -> None:
    stream, random = io.BytesIO(), Random(legacy)
    weights = OrderedDict(a=torch.ones(3), b=torch.ones(2, 2, dtype=torch.float16))
    torch.save(weights, stream, _use_new_zipfile_serialization=not legacy)
    whole = stream.getvalue()
    for _ in range(300):
        content = bytearray(
            whole[: random.randrange(len(whole))] if random.random() < 0.2 else whole
        )
        for _ in range(random.randint(1, 4)):
            if content:
                content[random.randrange(len(content))] = random.randrange(256)
        with suppress(InputError):
            read_all(written(tmp_path, bytes(content)))


def safetensors_of(folder: Path, header: object) -> Path:
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    return folder


@pytest.mark.parametrize(
    "shape", [[0, 2**64 - 1], [2**63, 0], [2**31, 2**31, 0], [2, 2], [], [2**60]]
)
def test_a_shape_that_no_tensor_has_is_refused(tmp_path: Path, shape: list[int]) -> None:
    end = 0 if 0 in shape else 8
    part = {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}
    refusal(safetensors_of(tmp_path, {"weight": part}), "model.safetensors")


@pytest.mark.parametrize("name", ["x" * 256, "x" * 100_000, "../w.bin", "\0", "", "."])
def test_a_file_that_an_index_cannot_name_is_refused(tmp_path: Path, name: str) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "w.safetensors")
    index = {"weight_map": {"weight": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    message = refusal(tmp_path, "model.safetensors.index.json")
    assert len(message) < 1000
