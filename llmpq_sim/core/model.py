"""Decoder-only language model, as far as time and memory depend on it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from llmpq_sim.core.fields import one_of
from llmpq_sim.core.layers import Linear
from llmpq_sim.core.records import Natural


@dataclass(frozen=True)
class ModelSpec:
    """Shapes of a decoder-only transformer whose layers are all alike.

    Attributes:
        family: the ``model_type`` of its config.json.
        hidden_size: width of the residual stream.
        intermediate_size: width inside the MLP.
        heads, kv_heads, head_dim: attention; fewer KV heads than heads is grouped-query attention.
        vocab_size: rows of the embedding and of the LM head.
        tied_embeddings: whether the LM head is the embedding.
        position_rows: rows of a learned position table, 0 where positions are computed.
        bias_elements: elements of all bias vectors of one layer.
        norm_elements: elements of all normalisation vectors of one layer.
        dtype: 16-bit type in which it was published, ``fp16`` or ``bf16``.
    """

    name: str
    family: str
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    gated_mlp: bool
    tied_embeddings: bool
    position_rows: Natural
    bias_elements: Natural
    norm_elements: Natural
    dtype: Annotated[str, one_of(("fp16", "bf16"))]

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """The matrix products of one layer, projections that share their input fused."""
        attention = self.heads * self.head_dim
        up = 2 * self.intermediate_size if self.gated_mlp else self.intermediate_size
        return (
            Linear("qkv", attention + 2 * self.kv_heads * self.head_dim, self.hidden_size),
            Linear("out", self.hidden_size, attention),
            Linear("up", up, self.hidden_size),
            Linear("down", self.hidden_size, self.intermediate_size),
        )

    @property
    def layer_weights(self) -> int:
        """Weights of one layer that a format applies to."""
        return sum(linear.weights for linear in self.linears)

    @property
    def embedding_weights(self) -> int:
        """Weights of the token embedding and of a learned position table."""
        return (self.vocab_size + self.position_rows) * self.hidden_size

    @property
    def head_weights(self) -> int:
        """Weights of the LM head, whether tied or not."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All parameters, tied ones counted once."""
        layer = self.layer_weights + self.bias_elements + self.norm_elements
        head = 0 if self.tied_embeddings else self.head_weights
        return self.layers * layer + self.embedding_weights + head

    def kv_bytes(self, sequences: int, context_tokens: int) -> int:
        """Return the bytes of one layer's keys and values at 16 bits."""
        return 2 * self.kv_heads * self.head_dim * 2 * sequences * context_tokens
