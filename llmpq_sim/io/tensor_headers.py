"""Headers of safetensors files: the names and types of tensors, without reading any."""

import struct
from collections.abc import Mapping
from pathlib import Path

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.limits import LARGEST_FILE_BYTES
from llmpq_sim.io.files import open_regular
from llmpq_sim.io.parsing import parse_json

LENGTH_BYTES = 8
"""The length of the header stands before it. Source: safetensors' README."""

MOST_FILES = 1000
"""Shards that are looked at; the largest published checkpoints have below 300."""


def tensor_types(folder: Path) -> Mapping[str, str]:
    """Return the type of every tensor of a folder's safetensors files, by its name.

    Raises:
        InputError: a file is no safetensors file, or there are too many.
    """
    files = sorted(folder.glob("*.safetensors"))
    if len(files) > MOST_FILES:
        raise InputError(
            f"{folder}: expected at most {MOST_FILES} safetensors files, got {len(files)}"
        )
    types: dict[str, str] = {}
    for path in files:
        types.update(_types_in(path))
    return types


def _types_in(path: Path) -> dict[str, str]:
    with open_regular(path) as stream:
        head = stream.read(LENGTH_BYTES)
        length = struct.unpack("<Q", head)[0] if len(head) == LENGTH_BYTES else -1
        if not 2 <= length <= LARGEST_FILE_BYTES:
            raise InputError(f"{path.name}: expected a safetensors file, got no header")
        text = stream.read(length)
    if len(text) < length:
        raise InputError(f"{path.name}: expected a header of {length} bytes, got {len(text)}")
    try:
        content = parse_json(text.decode("utf-8"), f"the header of {path.name}")
    except UnicodeDecodeError:
        raise InputError(f"{path.name}: expected a safetensors file, got no header") from None
    fields = Fields(content, f"the header of {path.name}")
    names = [name for name in fields.names() if name != "__metadata__"]
    return {name: fields.fields(name).text("dtype") for name in names}
