"""Modules of ours in place of those that architectures do not let others stand in for.

Most attention asks transformers' interface how to compute; that of BLOOM, Falcon and MPT does not.
GPT-2 multiplies by the transpose of what its checkpoints hold.
"""

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.models.bloom.modeling_bloom import BloomAttention, BloomForCausalLM
from transformers.models.falcon.modeling_falcon import (
    FalconAttention,
    FalconForCausalLM,
    apply_rotary_pos_emb,
)
from transformers.models.mpt.modeling_mpt import MptAttention, MptForCausalLM
from transformers.pytorch_utils import Conv1D

from runtimes.torch_pipeline.engine.attention import IMPLEMENTATION, attend, ragged_attention
from runtimes.torch_pipeline.engine.scores import Scoring, alibi_slopes

AttentionInterface.register(IMPLEMENTATION, ragged_attention)


class TransposedLinear(nn.Linear):
    """A matrix product whose weight a checkpoint holds as (in_features, out_features)."""


class RaggedBloomAttention(BloomAttention):
    """BLOOM's attention over a stage's cache."""

    def forward(
        self, hidden_states: torch.Tensor, residual: torch.Tensor, **_: Any
    ) -> tuple[torch.Tensor, None]:
        """Return the output of attention added to the residual."""
        query, key, value = self._reshape(self.query_key_value(hidden_states))
        scoring = Scoring(self.inv_norm_factor, slopes=self.stage_state.slopes)
        out = attend(self.stage_state, self.layer_idx, (query[0], key[0], value[0]), scoring)
        return self.dense(out.reshape(1, out.shape[0], -1)) + residual, None


class RaggedFalconAttention(FalconAttention):
    """Falcon's attention over a stage's cache; queries that share keys meet them once."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return the output of attention."""
        groups = self.num_kv_heads
        fused = self.query_key_value(hidden_states)[0].unflatten(1, (groups, -1, self.head_dim))
        parts = (fused[:, :, :-2].flatten(1, 2), fused[:, :, -2], fused[:, :, -1])
        query, key, value = (part.transpose(0, 1) for part in parts)
        slopes = self.stage_state.slopes
        if slopes is None and position_embeddings is not None:
            turned = apply_rotary_pos_emb(query[None], key[None], *position_embeddings)
            query, key = (each[0] for each in turned)
        scoring = Scoring(self.inv_norm_factor, slopes=slopes)
        out = attend(self.stage_state, self.layer_idx, (query, key, value), scoring)
        return self.dense(out.reshape(1, out.shape[0], -1)), None


class RaggedMptAttention(MptAttention):
    """MPT's attention over a stage's cache."""

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        """Return the output of attention."""
        fused = self.Wqkv(hidden_states)[0]
        if self.clip_qkv:
            fused = fused.clamp(min=-self.clip_qkv, max=self.clip_qkv)
        query, key, value = fused.unflatten(1, (3, self.n_heads, self.head_dim)).unbind(1)
        scoring = Scoring(self.softmax_scale, slopes=self.stage_state.slopes)
        projected = tuple(part.transpose(0, 1) for part in (query, key, value))
        out = attend(self.stage_state, self.layer_idx, projected, scoring)
        return self.out_proj(out.reshape(1, out.shape[0], -1)), None


OWN_ATTENTION = (
    (BloomForCausalLM, BloomAttention, RaggedBloomAttention),
    (FalconForCausalLM, FalconAttention, RaggedFalconAttention),
    (MptForCausalLM, MptAttention, RaggedMptAttention),
)


def use_our_modules(model: Any) -> None:
    """Let a model on the meta device attend as a stage does, and multiply as it loads weights."""
    for model_class, attention_class, ours in OWN_ATTENTION:
        if isinstance(model, model_class):
            _replace(model, attention_class, ours)
            return
    model.set_attn_implementation(IMPLEMENTATION)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv1D):
                setattr(parent, name, _as_linear(child))


def _replace(model: Any, attention_class: Any, ours: Any) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, attention_class):
                setattr(parent, name, ours(model.config, layer_idx=child.layer_idx))


def _as_linear(product: Any) -> nn.Linear:
    in_features, out_features = product.weight.shape
    return TransposedLinear(in_features, out_features, dtype=product.weight.dtype)


def position_slopes(config: Any) -> torch.Tensor | None:
    """Return the slopes of a model's linear position biases, (heads,), None where it has none.

    Falcon scales them as it scales scores: FalconAttention of transformers.
    """
    heads: int = config.num_attention_heads
    if config.model_type in ("bloom", "mpt"):
        return alibi_slopes(heads)
    if config.model_type == "falcon" and config.alibi:
        return alibi_slopes(heads) * (config.hidden_size // heads) ** -0.5
    return None
