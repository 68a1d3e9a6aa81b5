"""Checkpoint of a model folder: its tensors, read without keeping their files mapped.

Hugging Face's layout: ``model.safetensors`` or shards with an index, or ``pytorch_model.bin`` and
its shards, which are only read as weights, never as code.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import kind_of
from llmpq_sim.io.files import is_file, is_folder, read_json
from runtimes.torch_pipeline.weights.bin_file import load_bin
from runtimes.torch_pipeline.weights.formats.base import Tensors
from runtimes.torch_pipeline.weights.formats.registry import check_stored, stored_format
from runtimes.torch_pipeline.weights.published.methods import packing_of
from runtimes.torch_pipeline.weights.published.packings import Packing
from runtimes.torch_pipeline.weights.safetensors_file import (
    DTYPES,
    PACKED_DTYPES,
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
        packing: how quantized matrices are stored, None where there are none.
    """

    def __init__(
        self, folder: Path, file_of: dict[str, Path], packing: Packing | None = None
    ) -> None:
        self.folder = folder
        self.file_of = file_of
        self.packing = packing
        self._packed = packing.modules(file_of) if packing else frozenset()

    def __contains__(self, name: str) -> bool:
        return name in self.file_of or self.is_packed(name)

    def is_packed(self, name: str) -> bool:
        """Return whether a matrix is stored in a format, by the name that it has at 16 bits."""
        return name.endswith(".weight") and name.removesuffix(".weight") in self._packed

    def check(self, layer_formats: Sequence[str]) -> None:
        """Check that a plan can be loaded, by its formats and one quantized matrix.

        Raises:
            InputError: the runtime does not store a format, or the checkpoint stores another; or
                the matrix is not as its method has it.
        """
        if self.packing is None:
            check_stored(layer_formats, "plan")
            return
        self.packing.check_plan(layer_formats)
        with self.reading() as reader:
            reader.stored([f"{min(self._packed)}.weight"])

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

        A matrix that is stored in a format is decoded, to float32.

        Raises:
            InputError: the checkpoint has no such tensor, or its file is damaged.
        """
        packing = self.checkpoint.packing
        if packing is None or not self.checkpoint.is_packed(name):
            return self._read(name, DTYPES)
        stored = self.stored([name])
        rows = slice(0, stored["codes"].shape[0])
        return stored_format(packing.format_name).decode(stored, rows)

    def stored(self, names: Sequence[str]) -> Tensors:
        """Return matrices of one input as one, as the checkpoint's format stores them.

        Raises:
            InputError: one is not stored in a format, or not as the format has it.
        """
        packing = self.checkpoint.packing
        if packing is None or not all(map(self.checkpoint.is_packed, names)):
            raise InputError(f"{self.checkpoint.folder}: expected {names[0]!r} in a format")
        return packing.joined(
            [
                packing.stored(lambda part: self._read(part, PACKED_DTYPES), module)
                for module in (name.removesuffix(".weight") for name in names)
            ]
        )

    def _read(self, name: str, dtypes: Mapping[str, torch.dtype]) -> torch.Tensor:
        path = self.checkpoint.file_of.get(name)
        if path is None:
            raise InputError(f"{self.checkpoint.folder}: the checkpoint has no tensor {name!r}")
        if path not in self._open:
            self._open[path] = _opened(path)
        opened = self._open[path]
        try:
            if isinstance(opened, SafetensorsFile):
                return opened.read(name, dtypes)
            return _weight(opened[name], dtypes).clone()
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path}: cannot read tensor {name!r}: {error}") from error

    def close(self) -> None:
        """Let go of all files."""
        self._open.clear()


def _weight(tensor: torch.Tensor, dtypes: Mapping[str, torch.dtype]) -> torch.Tensor:
    if tensor.dtype not in dtypes.values():
        raise ValueError(f"expected one of {', '.join(dtypes)}, got {tensor.dtype}")
    return tensor


def open_checkpoint(folder: Path) -> Checkpoint:
    """Return the weights of a model folder, without reading them.

    Raises:
        InputError: there are none, an index names files that are missing, or they are quantized in
            a way that is not read here.
    """
    if not is_folder(folder):
        raise InputError(f"--model-dir: expected a folder, there is none at {folder}")
    file_of = _files_of_tensors(folder)
    return Checkpoint(folder, file_of, packing_of(folder, file_of))


def _files_of_tensors(folder: Path) -> dict[str, Path]:
    for name in INDEX_FILES:
        if is_file(folder / name):
            return _indexed(folder, folder / name)
    for name in SINGLE_FILES:
        path = folder / name
        if is_file(path):
            return dict.fromkeys(_tensor_names(path), path)
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
