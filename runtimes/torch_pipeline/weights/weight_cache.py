"""Weight cache on disk: quantized layers for the next start.

One safetensors file a layer, named by what it was made from. A file is written under a temporary
name and renamed, so that two processes may make the same one; it carries a hash of its content, and
one that is damaged or not ours is made again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.files import sha256_of, whole_file
from llmpq_sim.io.locks import remove_leftovers
from runtimes.torch_pipeline.weights.formats.registry import stored_format
from runtimes.torch_pipeline.weights.formats.stored_format import RTN, Tensors
from runtimes.torch_pipeline.weights.quantizers import QUANTIZER_VERSION


def layer_key(
    checkpoint: str, layer: int, format_name: str, dtype: str, quantizer: str = RTN
) -> str:
    """Return the SHA-256 that names a layer's file.

    Args:
        checkpoint: identity of the weights it is made from, such as a hash of their files.
        layer: its index in the whole model.
        format_name: of its linear operators.
        dtype: of what is not quantized.
        quantizer: how codes are chosen, one of ``quantizers.QUANTIZERS``.

    Raises:
        InputError: there is no such format.
    """
    made_from = {
        "checkpoint": checkpoint,
        "layer": layer,
        "format": format_name,
        "layout": stored_format(format_name).record.quantizer,
        "quantizer": quantizer,
        "version": QUANTIZER_VERSION,
        "dtype": dtype,
    }
    return sha256_of(made_from)


def cached_layer(folder: Path, key: str, build: Callable[[], Tensors]) -> Tensors:
    """Return a layer's tensors from its file, or build them and write it.

    Args:
        folder: of the cache; made where it is missing.
        key: see ``layer_key``.
        build: makes the tensors, in an order that does not depend on the processor.

    Raises:
        InputError: the folder or the file cannot be written.
    """
    path = folder / f"{key}.safetensors"
    found = _read(path, key)
    if found is not None:
        return found
    built = {name: tensor.contiguous() for name, tensor in build().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
    except OSError as error:
        raise InputError(
            f"weight cache {folder}: expected a folder that can be written, "
            f"found: {error.strerror}; choose another folder, or none"
        ) from None
    with whole_file(path) as stream:
        stream.write(save(built, {"key": key, "sha256": content_sha256(built)}))
    return built


def content_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors: their names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _read(path: Path, key: str) -> Tensors | None:
    """Return the tensors of a file, or None where there is none that is whole and ours."""
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            # Clones, for tensors of the file would hold its pages in memory.
            tensors = {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError):  # cut short, foreign or gone: made again
        return None
    is_ours = metadata.get("key") == key and metadata.get("sha256") == content_sha256(tensors)
    return tensors if is_ours else None
