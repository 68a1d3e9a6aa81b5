"""Reader of safetensors files that does not map them.

A mapped file counts as memory of the process, and the library's own way to read without mapping
holds Python's lock for as long as the disk takes, in which a stage would seem to hang.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from llmpq_sim.core.errors import library_errors
from llmpq_sim.io.files import check_regular

LENGTH_BYTES = 8
"""The length of the header stands before it; tensors follow. Source: safetensors' README."""

MOST_ELEMENTS = 2**60
"""PyTorch counts elements and their bytes in 64 bits, of empty tensors, too."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Types of weights."""

PACKED_DTYPES = DTYPES | {
    "F8_E4M3": torch.float8_e4m3fn,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
}
"""Types of weights, and of the parts of quantized ones."""


@dataclass(frozen=True)
class _Place:
    dtype: str
    shape: tuple[int, ...]
    first_byte: int
    size_bytes: int


class SafetensorsFile:
    """A file whose header has been read.

    Attributes:
        path: where it is.
    """

    def __init__(self, path: Path, places: dict[str, _Place]) -> None:
        self.path = path
        self._places = places

    def names(self) -> list[str]:
        """Return the names of all tensors."""
        return list(self._places)

    def read(self, name: str, dtypes: Mapping[str, torch.dtype] = DTYPES) -> torch.Tensor:
        """Return a tensor.

        Args:
            name: of the tensor.
            dtypes: types that it may have.

        Raises:
            KeyError: there is none of this name.
            ValueError: it is kept in another type, its shape is none that a tensor can have, or the
                file ends in it.
        """
        place = self._places[name]
        if place.dtype not in dtypes:
            raise ValueError(f"expected one of {', '.join(dtypes)}, got {place.dtype}")
        if prod(place.shape) * dtypes[place.dtype].itemsize != place.size_bytes:
            raise ValueError(f"expected {place.size_bytes} bytes, got the shape {place.shape}")
        if prod(max(1, length) for length in place.shape) > MOST_ELEMENTS:  # one length is 0
            raise ValueError(f"expected lengths that a tensor can have, got {place.shape}")
        tensor = torch.empty(place.shape, dtype=dtypes[place.dtype])
        view = memoryview(tensor.flatten().view(torch.uint8).numpy())
        done = 0
        with self.path.open("rb", buffering=0) as stream:
            stream.seek(place.first_byte)
            while done < len(view) and (count := stream.readinto(view[done:])):
                done += count
        if done < len(view):
            raise ValueError(f"expected {len(view)} bytes, the file ends after {done}")
        return tensor


def open_safetensors(path: Path) -> SafetensorsFile:
    """Return a file by its header, which the library has found to be right.

    Raises:
        InputError: it cannot be read, or is no such file.
    """
    check_regular(path)
    with library_errors(f"{path}: cannot read its list of tensors"):
        with safe_open(path, framework="numpy") as checked:
            names = set(checked.keys())
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
            header = json.loads(stream.read(length))
        data = LENGTH_BYTES + length
        return SafetensorsFile(
            path, {name: _place(part, data) for name, part in header.items() if name in names}
        )


def _place(part: dict[str, Any], data: int) -> _Place:
    begin, end = part["data_offsets"]
    return _Place(part["dtype"], tuple(part["shape"]), data + begin, end - begin)
