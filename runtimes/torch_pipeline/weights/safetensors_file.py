"""Reader of safetensors files that does not map them.

A mapped file counts as memory of the process, and the library's own way to read without mapping
holds Python's lock for as long as the disk takes, in which a stage would seem to hang.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

LENGTH_BYTES = 8
"""The length of the header stands before it; tensors follow. Source: safetensors' README."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True)
class _Place:
    dtype: str
    shape: tuple[int, ...]
    first_byte: int


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

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor.

        Raises:
            KeyError: there is none of this name.
            ValueError: it is kept in a type that no weights have, or the file ends in it.
        """
        place = self._places[name]
        if place.dtype not in DTYPES:
            raise ValueError(f"expected one of {', '.join(DTYPES)}, got {place.dtype}")
        tensor = torch.empty(place.shape, dtype=DTYPES[place.dtype])
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
        SafetensorError: it is no such file.
        OSError: it cannot be read.
    """
    with safe_open(path, framework="numpy") as checked:
        names = set(checked.keys())
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        header = json.loads(stream.read(length))
    data = LENGTH_BYTES + length
    return SafetensorsFile(
        path,
        {
            name: _Place(part["dtype"], tuple(part["shape"]), data + part["data_offsets"][0])
            for name, part in header.items()
            if name in names
        },
    )
