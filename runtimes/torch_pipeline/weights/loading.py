"""Loader of a stage's weights from a model folder, one layer at a time.

Each matrix is quantized as soon as it is read, so that no more than one layer is in memory at 16
bits, and what was freed goes back to the system after each layer.
"""

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmpq_sim.core.errors import InputError
from runtimes.torch_pipeline.engine.architecture import ShardModel
from runtimes.torch_pipeline.engine.norms import fuse_norms
from runtimes.torch_pipeline.weights.checkpoint import Checkpoint, Reader
from runtimes.torch_pipeline.weights.formats.base import RTN
from runtimes.torch_pipeline.weights.linear import (
    OWNED,
    KernelChoice,
    StoredLinear,
    fused_parts,
    linear_from_stored,
    linear_from_weight,
)
from runtimes.torch_pipeline.weights.quantizers import quantize
from runtimes.torch_pipeline.weights.weight_cache import cached_layer, layer_key

FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Projections of one input, stored and computed as one matrix."""

DTYPE_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


@dataclass(frozen=True)
class WeightSettings:
    """How a stage keeps its weights.

    Attributes:
        formats: of each of its layers.
        dtype: of everything that is not quantized, and of activations.
        device: where they go.
        choice: from how many tokens on which kernel is used.
        cache_dir: where quantized layers are kept for the next start, or None.
        quantizers: how codes are chosen, by format; a format that is missing is rounded to nearest.
    """

    formats: tuple[str, ...]
    dtype: torch.dtype
    device: torch.device
    choice: KernelChoice
    cache_dir: Path | None = None
    quantizers: Mapping[str, str] = field(default_factory=dict)

    def stored_format(self, name: str) -> str:
        """Return the format in which a layer is really kept.

        Unquantized layers are kept at 32 bits where everything is computed so, and otherwise in
        the type of the activations.
        """
        return DTYPE_NAMES[self.dtype] if name in DTYPES else name

    def quantizer(self, name: str) -> str:
        """Return how the codes of a format are chosen."""
        return self.quantizers.get(name, RTN)


class Names:
    """What tensors of a cut model are called in a checkpoint."""

    def __init__(self, shard: ShardModel, first_layer: int, checkpoint: Checkpoint) -> None:
        self._layers = shard.layers_name + "."
        self._prefix = shard.base_prefix
        self._first_layer = first_layer
        self._checkpoint = checkpoint

    def find(self, name: str) -> str | None:
        """Return the name in the checkpoint of a tensor of the stage, or None if it has none."""
        name = self._in_whole_model(name)
        for candidate in (name, name.removeprefix(self._prefix), self._prefix + name):
            if candidate in self._checkpoint:
                return candidate
        return None

    def require(self, name: str) -> str:
        """Return the name in the checkpoint of a tensor that must be there.

        Raises:
            InputError: it is not.
        """
        found = self.find(name)
        if found is None:
            whole = self._in_whole_model(name)
            raise InputError(
                f"{self._checkpoint.folder}: the checkpoint lacks the tensor {whole!r}"
            )
        return found

    def _in_whole_model(self, name: str) -> str:
        if not name.startswith(self._layers):
            return name
        number, _, rest = name.removeprefix(self._layers).partition(".")
        return f"{self._layers}{int(number) + self._first_layer}.{rest}"


def load_weights(
    shard: ShardModel,
    first_layer: int,
    checkpoint: Checkpoint,
    settings: WeightSettings,
    on_layer: Callable[[int], None] = lambda _: None,
) -> None:
    """Put a checkpoint's weights into a cut model, each layer in its format.

    Args:
        shard: the model of the stage, without memory.
        first_layer: index in the whole model of the stage's first layer.
        checkpoint: the weights.
        settings: formats, types and places.
        on_layer: told how many layers are loaded.

    Raises:
        InputError: a tensor is missing or has another shape.
    """
    names = Names(shard, first_layer, checkpoint)
    identity = checkpoint.sha256() if settings.cache_dir else ""
    for number, layer in enumerate(shard.layers):
        prefix = f"{shard.layers_name}.{number}."
        with checkpoint.reading() as reader:
            _load_layer(layer, prefix, (names, reader), settings, number, (first_layer, identity))
        release_freed_memory()
        on_layer(number + 1)
    with checkpoint.reading() as reader:
        _load_ends(shard, names, reader, settings)
    if settings.device.type == "cuda":
        fuse_norms(shard.decoder)
    release_freed_memory()


def linear_groups(layer: nn.Module) -> Iterator[tuple[str, nn.Module, tuple[str, ...]]]:
    """Yield the matrix products of a layer: a name, their parent, and the children's names."""
    for name, parent in layer.named_modules():
        children = dict(parent.named_children())
        fused = [group for group in FUSED if all(part in children for part in group)]
        taken = {part for group in fused for part in group}
        alone = [(n,) for n, m in children.items() if isinstance(m, nn.Linear) and n not in taken]
        for group in (*fused, *alone):
            yield f"{name}.{group[0]}".lstrip("."), parent, group


def stored_linears(
    modules: Iterable[tuple[str, nn.Module]],
) -> Iterator[tuple[str, StoredLinear]]:
    """Yield the operators of a one-layer stage by the names that ``linear_groups`` gives."""
    for name, module in modules:
        if isinstance(module, StoredLinear):
            yield name.partition(".0.")[2].removesuffix(f".{OWNED}"), module


def layer_matrices(
    shard: ShardModel, layer: int, checkpoint: Checkpoint
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the matrices of a layer as a checkpoint has them, by the names of ``linear_groups``.

    Args:
        shard: of this layer alone, without memory.
        layer: its index in the whole model.
        checkpoint: the weights.

    Raises:
        InputError: a tensor is missing or has another shape.
    """
    names = Names(shard, layer, checkpoint)
    with checkpoint.reading() as reader:
        for group_name, parent, parts in linear_groups(shard.layers[0]):
            where = f"{shard.layers_name}.0.{group_name.rpartition('.')[0]}"
            yield group_name, _weight(parent, parts, where, (names, reader))


def _load_layer(
    layer: nn.Module,
    prefix: str,
    source: tuple[Names, Reader],
    settings: WeightSettings,
    number: int,
    identity: tuple[int, str],
) -> None:
    names, reader = source
    groups = list(linear_groups(layer))
    stored_format = settings.stored_format(settings.formats[number])
    cached: Mapping[str, torch.Tensor] | None = None
    if settings.cache_dir is not None and settings.formats[number] not in DTYPES:
        first_layer, checkpoint = identity
        dtype, quantizer = DTYPE_NAMES[settings.dtype], settings.quantizer(stored_format)
        key = layer_key(checkpoint, first_layer + number, stored_format, dtype, quantizer)
        cached = cached_layer(
            settings.cache_dir,
            key,
            lambda: _stored_layer(groups, prefix, source, settings, stored_format),
        )
    for group_name, parent, parts in groups:
        where = prefix + group_name.rpartition(".")[0]
        widths = [getattr(parent, part).out_features for part in parts]
        bias = _bias(parent, parts, where, source, settings)
        if cached is None:
            stored = _stored(_weight(parent, parts, where, source), stored_format, settings)
        else:
            stored = _of_group(cached, group_name)
        shape = (sum(widths), getattr(parent, parts[0]).in_features)
        linear = linear_from_stored(
            stored, shape, bias, stored_format, settings.device, settings.dtype, settings.choice
        )
        del stored
        _replace(parent, parts, widths, linear)
    _load_rest(layer, prefix, names, reader, settings)


def _stored_layer(
    groups: list[tuple[str, nn.Module, tuple[str, ...]]],
    prefix: str,
    source: tuple[Names, Reader],
    settings: WeightSettings,
    stored_format: str,
) -> dict[str, torch.Tensor]:
    """Return the quantized tensors of a layer by group and name, for the cache."""
    tensors: dict[str, torch.Tensor] = {}
    for group_name, parent, parts in groups:
        where = prefix + group_name.rpartition(".")[0]
        stored = _stored(_weight(parent, parts, where, source), stored_format, settings)
        tensors |= {f"{group_name}/{name}": tensor for name, tensor in stored.items()}
    return tensors


def _stored(weight: torch.Tensor, name: str, settings: WeightSettings) -> dict[str, torch.Tensor]:
    """Return a weight in a format; who calls keeps no name of it, so that it is freed at once."""
    return quantize(weight, name, settings.dtype, settings.quantizer(name))


def _of_group(cached: Mapping[str, torch.Tensor], group: str) -> dict[str, torch.Tensor]:
    start = f"{group}/"
    return {name[len(start) :]: t for name, t in cached.items() if name.startswith(start)}


def _weight(
    parent: nn.Module, parts: tuple[str, ...], where: str, source: tuple[Names, Reader]
) -> torch.Tensor:
    names, reader = source
    weights = []
    for part in parts:
        module = getattr(parent, part)
        name = names.require(_joined(where, part, "weight"))
        weights.append(_shaped(reader.read(name), tuple(module.weight.shape), name))
    return weights[0] if len(weights) == 1 else torch.cat(weights)


def _bias(
    parent: nn.Module,
    parts: tuple[str, ...],
    where: str,
    source: tuple[Names, Reader],
    settings: WeightSettings,
) -> torch.Tensor | None:
    names, reader = source
    biases = []
    for part in parts:
        if getattr(parent, part).bias is not None:
            name = names.require(_joined(where, part, "bias"))
            bias = _shaped(reader.read(name), tuple(getattr(parent, part).bias.shape), name)
            biases.append(bias.to(settings.dtype))
    if not biases:
        return None
    return torch.cat(biases).to(settings.device)


def _replace(
    parent: nn.Module, parts: tuple[str, ...], widths: list[int], linear: StoredLinear
) -> None:
    if len(parts) == 1:
        setattr(parent, parts[0], linear)
        return
    for part, module in zip(parts, fused_parts(linear, widths), strict=True):
        setattr(parent, part, module)


def _load_rest(
    module: nn.Module, prefix: str, names: Names, reader: Reader, settings: WeightSettings
) -> None:
    """Load what is left on the meta device: norms, embeddings and loose parameters."""
    for name, parameter in list(module.named_parameters()):
        if not parameter.is_meta:
            continue
        stored = names.require(prefix + name)
        value = _shaped(reader.read(stored), tuple(parameter.shape), stored)
        _set(module, name, value.to(settings.dtype).to(settings.device))
    for name, buffer in list(module.named_buffers()):
        if buffer.device != settings.device:
            owner, leaf = _owner(module, name)
            setattr(owner, leaf, buffer.to(settings.device))


def _load_ends(shard: ShardModel, names: Names, reader: Reader, settings: WeightSettings) -> None:
    """Load embeddings, final norm and LM head, where the stage has them."""
    head: Any = shard.model.get_output_embeddings()
    head_name = next(name for name, module in shard.model.named_modules() if module is head)
    decoder_name = shard.layers_name.rpartition(".")[0]
    shard.model.set_output_embeddings(nn.Identity())
    _load_rest(shard.decoder, f"{decoder_name}.", names, reader, settings)
    if not shard.is_last:
        return
    weight = _head_weight(shard, names, reader, (f"{head_name}.weight", decoder_name))
    linear = linear_from_weight(
        weight, None, DTYPE_NAMES[settings.dtype], settings.device, settings.dtype, settings.choice
    )
    shard.model.set_output_embeddings(linear)


def _head_weight(
    shard: ShardModel, names: Names, reader: Reader, at: tuple[str, str]
) -> torch.Tensor:
    """Return the LM head's own weights, or those of the embeddings where they are tied.

    Tied weights may be in a checkpoint under either name, or under both; they are then tied where
    they are equal, as transformers has it.
    """
    own, decoder_name = at
    if not shard.model.config.tie_word_embeddings:
        return _rows_checked(shard, names, reader, own)
    embedding: Any = shard.model.get_input_embeddings()
    has_table = isinstance(embedding, nn.Embedding)
    if names.find(own) is not None:
        weight = _rows_checked(shard, names, reader, own)
        table = embedding.weight.data if has_table else weight
        is_same = has_table and torch.equal(weight.to(table.dtype).to(table.device), table)
        return table if is_same else weight
    if has_table:
        return embedding.weight.data
    tables = [f"{decoder_name}.{name}.weight" for name in ("embed_tokens", "word_embeddings")]
    return _rows_checked(
        shard, names, reader, next((name for name in tables if names.find(name)), own)
    )


def _rows_checked(shard: ShardModel, names: Names, reader: Reader, name: str) -> torch.Tensor:
    stored = names.require(name)
    weight = reader.read(stored)
    rows = shard.model.config.vocab_size
    if weight.ndim != 2 or weight.shape[0] != rows:
        raise InputError(f"tensor {stored!r}: expected {rows} rows, got shape {list(weight.shape)}")
    return weight


def _joined(where: str, part: str, leaf: str) -> str:
    return f"{where.rstrip('.')}.{part}.{leaf}"


def _shaped(tensor: torch.Tensor, shape: tuple[int, ...], name: str) -> torch.Tensor:
    if tuple(tensor.shape) != shape:
        raise InputError(
            f"tensor {name!r}: expected shape {list(shape)} as config.json has it, "
            f"got {list(tensor.shape)}"
        )
    return tensor


def _set(module: nn.Module, name: str, value: torch.Tensor) -> None:
    owner, leaf = _owner(module, name)
    setattr(owner, leaf, nn.Parameter(value, requires_grad=False))


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def release_freed_memory() -> None:
    """Give memory that was freed back to the system; the C library would keep it."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
