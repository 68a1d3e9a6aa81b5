"""Checkpoint of a model folder: its tensors, read without keeping their files mapped.

Hugging Face's layout: ``model.safetensors`` or shards with an index, or ``pytorch_model.bin`` and
its shards, which are only read as weights, never as code.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import kind_of
from llmpq_sim.io.files import is_file, is_folder, read_json
from runtimes.torch_pipeline.weights.bin_file import load_bin
from runtimes.torch_pipeline.weights.safetensors_file import (
    DTYPES,
    SafetensorsFile,
    open_safetensors,
)

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = tuple(f"{name}.index.json" for name in SINGLE_FILES)


class Checkpoint:
    """The weights of a model folder.

    Attributes:
        folder: where they are.
        file_of: the file that holds each tensor, by the tensor's name.
    """

    def __init__(self, folder: Path, file_of: dict[str, Path]) -> None:
        self.folder = folder
        self.file_of = file_of

    def __contains__(self, name: str) -> bool:
        return name in self.file_of

    @contextmanager
    def reading(self) -> Iterator["Reader"]:
        """Give a reader whose files are closed, and so no longer mapped, at the end."""
        reader = Reader(self)
        try:
            yield reader
        finally:
            reader.close()

    def sha256(self) -> str:
        """Return a hash that changes when the files do: names, sizes, heads and tails of each."""
        digest = hashlib.sha256()
        for path in sorted(set(self.file_of.values())):
            size_bytes = path.stat().st_size
            digest.update(f"{path.name} {size_bytes} {path.stat().st_mtime_ns}\n".encode())
            with path.open("rb") as stream:
                digest.update(stream.read(1 << 16))
                stream.seek(max(0, size_bytes - (1 << 16)))
                digest.update(stream.read())
        return digest.hexdigest()


class Reader:
    """Open files of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._open: dict[Path, SafetensorsFile | dict[str, torch.Tensor]] = {}

    def read(self, name: str) -> torch.Tensor:
        """Return a copy of a tensor, on the CPU, in the type in which it is stored.

        Raises:
            InputError: the checkpoint has no such tensor, or its file is damaged.
        """
        path = self.checkpoint.file_of.get(name)
        if path is None:
            raise InputError(f"{self.checkpoint.folder}: the checkpoint has no tensor {name!r}")
        if path not in self._open:
            self._open[path] = _opened(path)
        opened = self._open[path]
        try:
            if isinstance(opened, SafetensorsFile):
                return opened.read(name)
            return _weight(opened[name]).clone()
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path}: cannot read tensor {name!r}: {error}") from error

    def close(self) -> None:
        """Let go of all files."""
        self._open.clear()


def _weight(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype not in DTYPES.values():
        raise ValueError(f"expected one of {', '.join(DTYPES)}, got {tensor.dtype}")
    return tensor


def open_checkpoint(folder: Path) -> Checkpoint:
    """Return the weights of a model folder, without reading them.

    Raises:
        InputError: there are none, or an index names files that are missing.
    """
    if not is_folder(folder):
        raise InputError(f"--model-dir: expected a folder, there is none at {folder}")
    for name in INDEX_FILES:
        if is_file(folder / name):
            return Checkpoint(folder, _indexed(folder, folder / name))
    for name in SINGLE_FILES:
        path = folder / name
        if is_file(path):
            return Checkpoint(folder, dict.fromkeys(_tensor_names(path), path))
    expected = ", ".join((*SINGLE_FILES, *INDEX_FILES))
    raise InputError(f"{folder}: expected weights ({expected}), found none of these files")


def _indexed(folder: Path, index: Path) -> dict[str, Path]:
    content = read_json(index)
    listed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not all(isinstance(v, str) for v in listed.values()):
        raise InputError(f"{index}: expected weight_map, a mapping from tensors to files")
    for name in sorted(set(listed.values())):
        if Path(name).name != name or not is_file(folder / name):
            raise InputError(f"{index}: names the file {kind_of(name)}, which is not in {folder}")
    return {tensor: folder / name for tensor, name in listed.items()}


def _tensor_names(path: Path) -> list[str]:
    opened = _opened(path)
    return opened.names() if isinstance(opened, SafetensorsFile) else list(opened)


def _opened(path: Path) -> SafetensorsFile | dict[str, torch.Tensor]:
    """Return a file of weights, of which none are read yet.

    Raises:
        InputError: it is none, or holds more than weights.
    """
    return load_bin(path) if path.suffix == ".bin" else open_safetensors(path)
