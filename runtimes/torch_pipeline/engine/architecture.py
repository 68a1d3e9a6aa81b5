"""Transformers architectures cut to the layers of a stage.

A stage is the architecture's own model with as many layers as the stage has, built without
memory. What belongs to the ends is left out in between: embeddings are on the first stage, the
final norm and the LM head on the last. Attention and its cache are ours.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.models.bloom.modeling_bloom import BloomAttention, BloomForCausalLM

from llmpq_sim.core.errors import InputError
from runtimes.torch_pipeline.engine.attention import (
    IMPLEMENTATION,
    StageState,
    alibi_slopes,
    attend,
    ragged_attention,
)
from runtimes.torch_pipeline.engine.families import family_named

AttentionInterface.register(IMPLEMENTATION, ragged_attention)

EMBEDDINGS = ("embed_tokens", "embed_positions", "word_embeddings", "word_embeddings_layernorm")
"""What only the first stage has, by the names architectures give it."""

FINALS = ("norm", "final_layer_norm", "ln_f")
PROJECTIONS = {"project_in": "is_first", "project_out": "is_last"}
EVERYWHERE = ("layers", "h", "rotary_emb")


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

    Raises:
        InputError: the architecture is of no family that is known to be computed rightly, or has
            parts of which it is not known where they belong.
    """
    family_named(config.model_type)
    own = copy.deepcopy(config)
    own.num_hidden_layers = shard.layers
    kinds = getattr(own, "layer_types", None)
    if kinds is not None:
        own.layer_types = kinds[shard.first_layer : shard.first_layer + shard.layers]
    own.use_cache = False
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(own, dtype=dtype)
        _use_our_attention(model)
    name, decoder, layers = _layers_of(model, shard.layers)
    _leave_out(decoder, shard)
    _restore_buffers(model)
    model.eval()
    return ShardModel(model, decoder, layers, name, f"{model.base_model_prefix}.", shard.is_last)


def connect(shard: ShardModel, state: StageState) -> None:
    """Let the attention of every layer use a stage's cache."""
    for module in shard.layers.modules():
        if hasattr(module, "layer_idx"):
            module.stage_state = state
        if isinstance(module, BloomAttention) and state.slopes is None:
            state.slopes = alibi_slopes(module.num_heads).to(state.cache.stored.device)


class NoPositions(nn.Module):
    """Stands for learned positions where a stage's input has them already."""

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        """Return a zero that adds nothing."""
        return torch.zeros(())


class RaggedBloomAttention(BloomAttention):
    """BLOOM's attention, which has no interface of transformers, over a stage's cache."""

    def forward(
        self, hidden_states: torch.Tensor, residual: torch.Tensor, **_: Any
    ) -> tuple[torch.Tensor, None]:
        """Return the output of attention added to the residual."""
        query, key, value = self._reshape(self.query_key_value(hidden_states))
        projected = (query[0], key[0], value[0])
        out = attend(self.stage_state, self.layer_idx, projected, self.inv_norm_factor)
        return self.dense(out.reshape(1, out.shape[0], -1)) + residual, None


def _use_our_attention(model: Any) -> None:
    if isinstance(model, BloomForCausalLM):
        for number, block in enumerate(model.transformer.h):
            block.self_attention = RaggedBloomAttention(model.config, layer_idx=number)
    else:
        model.set_attn_implementation(IMPLEMENTATION)


def _layers_of(model: Any, count: int) -> tuple[str, Any, nn.ModuleList]:
    """Return the list of layers with its name and the module that holds it."""
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
        elif name in EVERYWHERE:
            continue
        else:
            raise InputError(
                f"model {decoder.config.model_type}: its part {name} ({type(part).__name__}) is "
                "unknown; the runtime cannot tell to which stage it belongs"
            )
        if not belongs:
            setattr(decoder, name, replacement)


def _no_embedding(name: str) -> nn.Module:
    return NoPositions() if name == "embed_positions" else nn.Identity()


def _restore_buffers(model: Any) -> None:
    """Compute what is in no checkpoint, such as the frequencies of rotary positions."""
    stored = model.state_dict()
    for name, buffer in list(model.named_buffers()):
        if name not in stored:
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, torch.zeros_like(buffer, device="cpu"))
    model.initialize_weights()  # of what has memory; parameters are still on the meta device
