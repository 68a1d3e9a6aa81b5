"""Matrices of a layer: their places in a stage, their names in a checkpoint, and their numbers.

Those that share an input are one. The experts of a mixture are matrices of their own, each read by
itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from llmpq_sim.core.errors import InputError
from runtimes.torch_pipeline.engine.architecture import ShardModel
from runtimes.torch_pipeline.engine.families import family_named
from runtimes.torch_pipeline.engine.own_modules import TransposedLinear
from runtimes.torch_pipeline.weights.checkpoint import Checkpoint, Reader
from runtimes.torch_pipeline.weights.experts import (
    PARTS,
    experts_of,
    is_transposed,
    matrix_shape,
)
from runtimes.torch_pipeline.weights.linear import StoredLinear, fused_parts

FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Projections of one input, stored and computed as one matrix."""


class Names:
    """What tensors of a cut model are called in a checkpoint."""

    def __init__(self, shard: ShardModel, first_layer: int, checkpoint: Checkpoint) -> None:
        self._layers = shard.layers_name + "."
        self._prefix = shard.base_prefix
        self._first_layer = first_layer
        self._checkpoint = checkpoint
        self._renamed = family_named(shard.model.config.model_type).renamed

    def find(self, name: str) -> str | None:
        """Return the name in the checkpoint of a tensor of the stage, or None if it has none."""
        name = self._in_whole_model(name)
        for whole in (self._published(name), name):
            for candidate in (whole, whole.removeprefix(self._prefix), self._prefix + whole):
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
            whole = self._published(self._in_whole_model(name))
            raise InputError(
                f"{self._checkpoint.folder}: the checkpoint lacks the tensor {whole!r}"
            )
        return found

    def _published(self, name: str) -> str:
        for ours, theirs in self._renamed.items():
            name = name.replace(ours, theirs)
        return name

    def _in_whole_model(self, name: str) -> str:
        if not name.startswith(self._layers):
            return name
        number, _, rest = name.removeprefix(self._layers).partition(".")
        return f"{self._layers}{int(number) + self._first_layer}.{rest}"


class Source:
    """Tensors of a stage as a checkpoint has them.

    Attributes:
        names: of tensors.
        reader: of the checkpoint.
    """

    def __init__(self, names: Names, reader: Reader) -> None:
        self.names = names
        self.reader = reader
        self._whole: tuple[str, Tensor] | None = None

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor of the stage.

        Raises:
            InputError: it is missing, or has another shape.
        """
        stored = self.names.require(name)
        return shaped(self.reader.read(stored), shape, stored)

    def kept(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor that is asked for again and again, and so is kept until the next one."""
        if self._whole is None or self._whole[0] != name:
            self._whole = None  # not two at once
            self._whole = name, self.read(name, shape)
        return self._whole[1]


def shaped(tensor: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """Return a tensor that has the shape that is expected.

    Raises:
        InputError: it has another.
    """
    if tuple(tensor.shape) != shape:
        raise InputError(
            f"tensor {name!r}: expected shape {list(shape)} as config.json has it, "
            f"got {list(tensor.shape)}"
        )
    return tensor


class LayerMatrix(Protocol):
    """A matrix of a layer."""

    @property
    def name(self) -> str:
        """By which caches and measurements know it, within the layer."""

    @property
    def shape(self) -> tuple[int, int]:
        """Its (out_features, in_features)."""

    def weight(self, prefix: str, source: Source) -> Tensor:
        """Return its numbers, given the layer's prefix in the stage."""

    def bias(self, prefix: str, source: Source) -> Tensor | None:
        """Return the bias of its product."""

    def tensors(self, prefix: str, source: Source) -> list[str]:
        """Return the tensors that it is made of, by their names in the checkpoint.

        Raises:
            InputError: one is missing.
        """

    def put(self, linear: StoredLinear) -> None:
        """Let a product take its place in the stage."""


@dataclass(frozen=True)
class LinearGroup:
    """Linear modules of one input, which are one matrix.

    Attributes:
        name: of the first of them, within the layer.
        parent: which has them.
        parts: their names there.
    """

    name: str
    parent: nn.Module
    parts: tuple[str, ...]

    @property
    def _modules(self) -> list[Any]:
        return [getattr(self.parent, part) for part in self.parts]

    @property
    def shape(self) -> tuple[int, int]:
        """Its (out_features, in_features)."""
        modules = self._modules
        return sum(module.out_features for module in modules), modules[0].in_features

    def weight(self, prefix: str, source: Source) -> Tensor:
        """Return its numbers."""
        weights = []
        for name, module in self._named(prefix):
            shape = tuple(module.weight.shape)
            if isinstance(module, TransposedLinear):
                weights.append(source.read(f"{name}.weight", shape[::-1]).T.contiguous())
            else:
                weights.append(source.read(f"{name}.weight", shape))
        return weights[0] if len(weights) == 1 else torch.cat(weights)

    def bias(self, prefix: str, source: Source) -> Tensor | None:
        """Return the bias of its product."""
        named = [(name, each) for name, each in self._named(prefix) if each.bias is not None]
        biases = [source.read(f"{name}.bias", tuple(each.bias.shape)) for name, each in named]
        return torch.cat(biases) if biases else None

    def tensors(self, prefix: str, source: Source) -> list[str]:
        """Return the tensors that it is made of."""
        return [source.names.require(f"{name}.weight") for name, _ in self._named(prefix)]

    def put(self, linear: StoredLinear) -> None:
        """Let a product take its place in the stage."""
        if len(self.parts) == 1:
            setattr(self.parent, self.parts[0], linear)
            return
        widths = [module.out_features for module in self._modules]
        for part, module in zip(self.parts, fused_parts(linear, widths), strict=True):
            setattr(self.parent, part, module)

    def _named(self, prefix: str) -> Iterator[tuple[str, Any]]:
        where = prefix + self.name.rpartition(".")[0]
        for part, module in zip(self.parts, self._modules, strict=True):
            yield f"{where.rstrip('.')}.{part}", module


@dataclass(frozen=True)
class ExpertMatrix:
    """One matrix of one expert.

    Attributes:
        name: within the layer.
        module_name: of the experts, within the layer.
        experts: transformers' module of all of them, on the meta device.
        parameter: of the module, that has this matrix.
        number: of the expert.
        made: products in place of the matrices, which ``put`` adds to.
    """

    name: str
    module_name: str
    experts: Any
    parameter: str
    number: int
    made: list[StoredLinear]

    @property
    def shape(self) -> tuple[int, int]:
        """Its (out_features, in_features)."""
        return matrix_shape(self.experts, self.parameter)

    def weight(self, prefix: str, source: Source) -> Tensor:
        """Return its numbers."""
        return expert_weight(
            self.experts, f"{prefix}{self.module_name}", (self.parameter, self.number), source
        )

    def bias(self, prefix: str, source: Source) -> Tensor | None:
        """Return the bias of its product."""
        name = f"{self.parameter}_bias"
        biases = getattr(self.experts, name, None)
        if biases is None:
            return None
        whole = source.read(f"{prefix}{self.module_name}.{name}", tuple(biases.shape))
        return whole[self.number]

    def tensors(self, prefix: str, source: Source) -> list[str]:
        """Return the tensors that it is made of: all experts' one, or its own."""
        module_name = f"{prefix}{self.module_name}"
        if (whole := source.names.find(f"{module_name}.{self.parameter}")) is not None:
            return [whole]
        parts = PARTS[self.parameter]
        names = (f"{module_name}.{self.number}.{part}.weight" for part in parts)
        return [source.names.require(name) for name in names]

    def put(self, linear: StoredLinear) -> None:
        """Let a product take its place in the stage."""
        self.made.append(linear)


def linear_groups(layer: nn.Module) -> Iterator[LinearGroup]:
    """Yield the matrices of a layer that every token meets."""
    for name, parent in layer.named_modules():
        children = dict(parent.named_children())
        fused = [group for group in FUSED if all(part in children for part in group)]
        taken = {part for group in fused for part in group}
        alone = [(n,) for n, m in children.items() if isinstance(m, nn.Linear) and n not in taken]
        for group in (*fused, *alone):
            yield LinearGroup(f"{name}.{group[0]}".lstrip("."), parent, group)


def expert_matrices(layer: nn.Module) -> Iterator[ExpertMatrix]:
    """Yield the matrices of a layer's experts, all of a parameter after each other."""
    for name, experts in experts_of(layer):
        for parameter in PARTS:
            made: list[StoredLinear] = []
            for number in range(experts.num_experts):
                matrix = f"{name}.{parameter}.{number}"
                yield ExpertMatrix(matrix, name, experts, parameter, number, made)


def expert_weight(experts: Any, module_name: str, which: tuple[str, int], source: Source) -> Tensor:
    """Return a matrix of one expert, (out_features, in_features).

    Checkpoints hold the experts' matrices one by one, or all of a kind as one tensor.

    Args:
        experts: transformers' module of all of them.
        module_name: its name in the stage.
        which: the module's parameter, and the number of the expert.
        source: the checkpoint.

    Raises:
        InputError: a tensor is missing or has another shape.
    """
    parameter, number = which
    name = f"{module_name}.{parameter}"
    if source.names.find(name) is not None:
        weight = source.kept(name, tuple(getattr(experts, parameter).shape))[number]
        return weight.T.contiguous() if is_transposed(experts) else weight
    rows, columns = matrix_shape(experts, parameter)
    parts = PARTS[parameter]
    shape = rows // len(parts), columns
    return torch.cat(
        [source.read(f"{module_name}.{number}.{part}.weight", shape) for part in parts]
    )


def layer_matrices(
    shard: ShardModel, layer: int, checkpoint: Checkpoint
) -> Iterator[tuple[str, Tensor]]:
    """Yield the matrices of a layer as a checkpoint has them, by their names.

    Args:
        shard: of this layer alone, without memory.
        layer: its index in the whole model.
        checkpoint: the weights.

    Raises:
        InputError: a tensor is missing or has another shape.
    """
    with checkpoint.reading() as reader:
        source = Source(Names(shard, layer, checkpoint), reader)
        prefix = f"{shard.layers_name}.0."
        for group in linear_groups(shard.layers[0]):
            yield group.name, group.weight(prefix, source)
        for matrix in expert_matrices(shard.layers[0]):
            yield matrix.name, matrix.weight(prefix, source)
