"""Transformers architectures cut to the layers of a stage.

A stage is the architecture's own model, built without memory and cut to the stage's layers. What
belongs to the ends is left out in between: embeddings and what is done to them are on the first
stage, the final norm and the LM head on the last. Attention and its cache are ours.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from llmpq_sim.core.errors import InputError
from runtimes.torch_pipeline.engine.attention import StageState
from runtimes.torch_pipeline.engine.families import family_named
from runtimes.torch_pipeline.engine.own_modules import position_slopes, use_our_modules

POSITIONS = ("embed_positions", "wpe")
"""Tables of learned positions, which are added to embeddings."""

EMBEDDINGS = (
    "embed_tokens",
    "word_embeddings",
    "word_embeddings_layernorm",
    "wte",
    "embed_in",
    *POSITIONS,
)
"""What only the first stage has, by the names architectures give it."""

FINALS = ("norm", "final_layer_norm", "final_layernorm", "ln_f", "norm_f")
PROJECTIONS = {"project_in": "is_first", "project_out": "is_last"}
EVERYWHERE = ("layers", "h", "blocks", "rotary_emb")
GROUPED_PRODUCTS = "grouped_mm"
"""How transformers computes experts that are not quantized: ``torch.nn.functional.grouped_mm``."""

DROPOUTS = ("drop", "embed_dropout", "emb_dropout")
"""Of what enters, in training alone."""


@dataclass(frozen=True)
class Shard:
    """Which layers of a model a stage has.

    Attributes:
        first_layer: index of the first of them.
        layers: how many.
        is_first, is_last: whether it is the first stage, and the last.
    """

    first_layer: int
    layers: int
    is_first: bool
    is_last: bool


@dataclass(frozen=True)
class ShardModel:
    """A model cut to a stage, without weights.

    Attributes:
        model: with an LM head, which only the last stage uses.
        decoder: the module that holds the layers.
        layers: they.
        layers_name: the name of the list of layers in the whole model.
        base_prefix: what names in a checkpoint may leave out.
        is_last: whether the LM head is used.
    """

    model: Any
    decoder: Any
    layers: nn.ModuleList
    layers_name: str
    base_prefix: str
    is_last: bool


def read_config(folder: Path) -> Any:
    """Return the configuration of a model folder.

    Raises:
        InputError: it cannot be read, or is of no architecture that transformers knows.
    """
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{folder}: cannot read its config.json: {reason}") from error


def shard_model(config: Any, shard: Shard, dtype: torch.dtype) -> ShardModel:
    """Return the architecture with the layers of a cut, on the meta device.

    The whole model is built, so that every layer is the one that it is there: architectures
    decide by its number what it holds.

    Raises:
        InputError: the architecture is of no family that is known to be computed rightly, or has
            parts of which it is not known where they belong.
    """
    family = family_named(config.model_type)
    own = copy.deepcopy(config)
    own.use_cache = False
    if not shard.is_first:
        for name, value in family.neutral.items():
            setattr(own, name, value)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(own, dtype=dtype)
        use_our_modules(model)
        if family.has_experts:
            model.set_experts_implementation(GROUPED_PRODUCTS)
    name, decoder, layers = _cut(model, shard)
    _leave_out(decoder, shard)
    _restore_buffers(model)
    model.eval()
    return ShardModel(model, decoder, layers, name, f"{model.base_model_prefix}.", shard.is_last)


def connect(shard: ShardModel, state: StageState, device: torch.device) -> None:
    """Let the attention of every layer use a stage's cache."""
    for module in shard.layers.modules():
        if hasattr(module, "layer_idx"):
            module.stage_state = state
    slopes = position_slopes(shard.model.config)
    state.slopes = None if slopes is None else slopes.to(device)


class NoPositions(nn.Module):
    """Stands for learned positions where a stage's input has them already."""

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        """Return a zero that adds nothing."""
        return torch.zeros(())


def _cut(model: Any, shard: Shard) -> tuple[str, Any, nn.ModuleList]:
    """Leave a model some of its layers; return their list's name, what holds it, and the list."""
    name, decoder, whole = _layers_of(model)
    end = shard.first_layer + shard.layers
    layers = nn.ModuleList(whole[number] for number in range(shard.first_layer, end))
    setattr(decoder, name.rpartition(".")[2], layers)
    for number, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number
    config = model.config
    config.num_hidden_layers = shard.layers
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        config.layer_types = kinds[shard.first_layer : end]
    return name, decoder, layers


def _layers_of(model: Any) -> tuple[str, Any, nn.ModuleList]:
    """Return the list of layers with its name and the module that holds it."""
    count = model.config.num_hidden_layers
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and "." in name
    ]
    if not found:
        raise InputError(f"model {model.config.model_type}: found no list of {count} layers in it")
    name, layers = found[0]
    return name, model.get_submodule(name.rpartition(".")[0]), layers


def _leave_out(decoder: Any, shard: Shard) -> None:
    """Take from a decoder what belongs to other stages."""
    for name, part in list(decoder.named_children()):
        if name in EMBEDDINGS:
            belongs, replacement = shard.is_first, _no_embedding(name)
        elif name in FINALS:
            belongs, replacement = shard.is_last, nn.Identity()
        elif name in PROJECTIONS:
            belongs, replacement = getattr(shard, PROJECTIONS[name]), None
        elif name in EVERYWHERE or name in DROPOUTS:
            continue
        else:
            raise InputError(
                f"model {decoder.config.model_type}: its part {name} ({type(part).__name__}) is "
                "unknown; the runtime cannot tell to which stage it belongs"
            )
        if not belongs:
            setattr(decoder, name, replacement)


def _no_embedding(name: str) -> nn.Module:
    return NoPositions() if name in POSITIONS else nn.Identity()


def _restore_buffers(model: Any) -> None:
    """Compute what is in no checkpoint, such as the frequencies of rotary positions."""
    stored = model.state_dict()
    for name, buffer in list(model.named_buffers()):
        if name not in stored:
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, torch.zeros_like(buffer, device="cpu"))
    model.initialize_weights()  # of what has memory; parameters are still on the meta device
