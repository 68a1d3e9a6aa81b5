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
from runtimes.torch_pipeline.engine.architecture import EMBEDDINGS, ShardModel
from runtimes.torch_pipeline.engine.norms import fuse_norms
from runtimes.torch_pipeline.weights.checkpoint import Checkpoint
from runtimes.torch_pipeline.weights.experts import (
    DOWN,
    PARTS,
    UP,
    StoredExperts,
    activation_of,
    experts_of,
    is_transposed,
)
from runtimes.torch_pipeline.weights.formats.base import RTN
from runtimes.torch_pipeline.weights.formats.registry import stored_format
from runtimes.torch_pipeline.weights.layer_matrices import (
    ExpertMatrix,
    LayerMatrix,
    Names,
    Source,
    expert_matrices,
    expert_weight,
    linear_groups,
)
from runtimes.torch_pipeline.weights.linear import (
    OWNED,
    KernelChoice,
    StoredLinear,
    linear_from_stored,
    linear_from_weight,
)
from runtimes.torch_pipeline.weights.quantizers import quantize
from runtimes.torch_pipeline.weights.weight_cache import cached_layer, layer_key

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
            source = Source(names, reader)
            _load_layer(layer, prefix, source, settings, number, (first_layer, identity))
        release_freed_memory()
        on_layer(number + 1)
    with checkpoint.reading() as reader:
        _load_ends(shard, Source(names, reader), settings)
    if settings.device.type == "cuda":
        fuse_norms(shard.decoder)
    release_freed_memory()


def stored_linears(
    modules: Iterable[tuple[str, nn.Module]],
) -> Iterator[tuple[str, StoredLinear]]:
    """Yield the operators of a one-layer stage by the names of its matrices."""
    for name, module in modules:
        if isinstance(module, StoredLinear):
            yield name.partition(".0.")[2].removesuffix(f".{OWNED}"), module


def _load_layer(
    layer: nn.Module,
    prefix: str,
    source: Source,
    settings: WeightSettings,
    number: int,
    identity: tuple[int, str],
) -> None:
    format_name = settings.stored_format(settings.formats[number])
    is_quantized = settings.formats[number] not in DTYPES
    matrices: list[LayerMatrix] = list(linear_groups(layer))
    if is_quantized:
        matrices += expert_matrices(layer)
    cached: Mapping[str, torch.Tensor] | None = None
    is_published = source.reader.checkpoint.packing is not None
    if settings.cache_dir is not None and is_quantized and not is_published:
        first_layer, checkpoint = identity
        dtype, quantizer = DTYPE_NAMES[settings.dtype], settings.quantizer(format_name)
        cached = cached_layer(
            settings.cache_dir,
            layer_key(checkpoint, first_layer + number, format_name, dtype, quantizer),
            lambda: _stored_layer(matrices, prefix, source, settings, format_name),
        )
    for matrix in matrices:
        bias = matrix.bias(prefix, source)
        kept_as = format_name
        if is_published and is_quantized:
            kept_as, stored = published_matrix(matrix, prefix, source, settings, format_name)
        elif cached is None:
            stored = _stored(matrix.weight(prefix, source), format_name, settings)
        else:
            stored = _of_matrix(cached, matrix.name)
        linear = linear_from_stored(
            stored,
            matrix.shape,
            None if bias is None else bias.to(settings.dtype),
            kept_as,
            settings.device,
            settings.dtype,
            settings.choice,
        )
        del stored
        matrix.put(linear)
    _put_experts(layer, matrices)
    _load_rest(layer, prefix, source, settings)


def published_matrix(
    matrix: LayerMatrix, prefix: str, source: Source, settings: WeightSettings, format_name: str
) -> tuple[str, dict[str, torch.Tensor]]:
    """Return a matrix of a quantized checkpoint as it is kept, and in which format.

    That is as the checkpoint stores it; what it stores at 16 bits stays so.

    Raises:
        InputError: the plan has another format, or the matrix another shape than config.json.
    """
    reader, names = source.reader, matrix.tensors(prefix, source)
    packing = reader.checkpoint.packing
    if packing is None or not all(map(reader.checkpoint.is_packed, names)):
        plain = DTYPE_NAMES[settings.dtype]
        return plain, _stored(matrix.weight(prefix, source), plain, settings)
    packing.check_plan([format_name])
    stored = reader.stored(names)
    known, (rows, columns) = stored_format(packing.format_name), matrix.shape
    found = (stored["codes"].shape[0], known.decode(stored, slice(0, 1)).shape[1])
    if found != (rows, known.padded(columns)):
        raise InputError(
            f"{packing.source}: {names[0]}: expected {rows} x {columns} weights as config.json has "
            f"it, got {found[0]} x {found[1]}"
        )
    return packing.format_name, stored


def _put_experts(layer: nn.Module, matrices: list[LayerMatrix]) -> None:
    """Let the experts that were loaded one by one take the place of transformers' module."""
    for name, experts in list(experts_of(layer)):
        made = {
            each.parameter: each.made
            for each in matrices
            if isinstance(each, ExpertMatrix) and each.experts is experts
        }
        if made:
            stored = StoredExperts(made[UP], made[DOWN], activation_of(experts))
            owner, leaf = _owner(layer, name)
            setattr(owner, leaf, stored)


def _stored_layer(
    matrices: list[LayerMatrix],
    prefix: str,
    source: Source,
    settings: WeightSettings,
    stored_format: str,
) -> dict[str, torch.Tensor]:
    """Return the quantized tensors of a layer by matrix and name, for the cache."""
    tensors: dict[str, torch.Tensor] = {}
    for matrix in matrices:
        stored = _stored(matrix.weight(prefix, source), stored_format, settings)
        tensors |= {f"{matrix.name}/{name}": tensor for name, tensor in stored.items()}
    return tensors


def _stored(weight: torch.Tensor, name: str, settings: WeightSettings) -> dict[str, torch.Tensor]:
    """Return a weight in a format; who calls keeps no name of it, so that it is freed at once."""
    return quantize(weight, name, settings.dtype, settings.quantizer(name))


def _of_matrix(cached: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    start = f"{name}/"
    return {key[len(start) :]: t for key, t in cached.items() if key.startswith(start)}


def _load_rest(module: nn.Module, prefix: str, source: Source, settings: WeightSettings) -> None:
    """Load what is left on the meta device: norms, routers, embeddings and loose parameters."""
    for name, experts in experts_of(module):
        for parameter in PARTS:
            value = _all_experts(experts, f"{prefix}{name}", parameter, source, settings)
            _set(module, f"{name}.{parameter}", value)
    for name, parameter in list(module.named_parameters()):
        if not parameter.is_meta:
            continue
        value = source.read(prefix + name, tuple(parameter.shape))
        _set(module, name, value.to(settings.dtype).to(settings.device))
    for name, buffer in list(module.named_buffers()):
        value = buffer
        if buffer.is_meta:  # held by checkpoints, as constants of activations are
            value = source.read(prefix + name, tuple(buffer.shape))
        if value.device != settings.device or value is not buffer:
            owner, leaf = _owner(module, name)
            setattr(owner, leaf, value.to(settings.device))


def _all_experts(
    experts: Any, name: str, parameter: str, source: Source, settings: WeightSettings
) -> torch.Tensor:
    """Return one matrix of every expert, unquantized, as transformers' module holds them."""
    shape = getattr(experts, parameter).shape
    whole = torch.empty(shape, dtype=settings.dtype, device=settings.device)
    for number in range(experts.num_experts):
        weight = expert_weight(experts, name, (parameter, number), source)
        whole[number].copy_(weight.T if is_transposed(experts) else weight)
    return whole


def _load_ends(shard: ShardModel, source: Source, settings: WeightSettings) -> None:
    """Load embeddings, final norm and LM head, where the stage has them."""
    head: Any = shard.model.get_output_embeddings()
    head_name = next(name for name, module in shard.model.named_modules() if module is head)
    decoder_name = shard.layers_name.rpartition(".")[0]
    shard.model.set_output_embeddings(nn.Identity())
    _load_rest(shard.decoder, f"{decoder_name}.", source, settings)
    if not shard.is_last:
        return
    weight = _head_weight(shard, source, (f"{head_name}.weight", decoder_name))
    bias = None
    if head.bias is not None:
        bias = source.read(f"{head_name}.bias", tuple(head.bias.shape))
    linear = linear_from_weight(
        weight, bias, DTYPE_NAMES[settings.dtype], settings.device, settings.dtype, settings.choice
    )
    shard.model.set_output_embeddings(linear)


def _head_weight(shard: ShardModel, source: Source, at: tuple[str, str]) -> torch.Tensor:
    """Return the LM head's own weights, or those of the embeddings where they are tied.

    Tied weights may be in a checkpoint under either name, or under both; they are then tied where
    they are equal, as transformers has it.
    """
    own, decoder_name = at
    if not shard.model.config.tie_word_embeddings:
        return _rows_checked(shard, source, own)
    embedding: Any = shard.model.get_input_embeddings()
    has_table = isinstance(embedding, nn.Embedding)
    if source.names.find(own) is not None:
        weight = _rows_checked(shard, source, own)
        table = embedding.weight.data if has_table else weight
        is_same = has_table and torch.equal(weight.to(table.dtype).to(table.device), table)
        return table if is_same else weight
    if has_table:
        return embedding.weight.data
    tables = [f"{decoder_name}.{name}.weight" for name in EMBEDDINGS]
    return _rows_checked(
        shard, source, next((name for name in tables if source.names.find(name)), own)
    )


def _rows_checked(shard: ShardModel, source: Source, name: str) -> torch.Tensor:
    stored = source.names.require(name)
    weight = source.reader.read(stored)
    rows = shard.model.config.vocab_size
    if weight.ndim != 2 or weight.shape[0] != rows:
        raise InputError(f"tensor {stored!r}: expected {rows} rows, got shape {list(weight.shape)}")
    return weight


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
