"""Decoder-only language model, as far as time and memory depend on it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.layers import Attention, Dense, LayerKind


@dataclass(frozen=True)
class ModelSpec:
    """Shapes of a decoder-only language model: a sequence of layers of a few kinds.

    Attributes:
        family: the ``model_type`` of its config.json.
        hidden_size: width of the residual stream.
        vocab_size: rows of the embedding and of the LM head.
        tied_embeddings: whether the LM head is the embedding.
        position_rows: rows of a learned position table, 0 where positions are computed.
        dtype: 16-bit type in which it was published, ``fp16`` or ``bf16``.
        kinds: its kinds of layers, each of another cost.
        kind_of_layer: number of the kind of each layer.
        extra_first_bytes: of what runs before its layers, such as a vision tower; the first stage
            holds it.
    """

    name: str
    family: str
    hidden_size: int
    vocab_size: int
    max_positions: int
    tied_embeddings: bool
    position_rows: int
    dtype: str
    kinds: tuple[LayerKind, ...]
    kind_of_layer: tuple[int, ...]
    extra_first_bytes: int = 0

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.kind_of_layer)

    def layer_kind(self, layer: int) -> LayerKind:
        """Return the kind of a layer."""
        return self.kinds[self.kind_of_layer[layer]]

    @property
    def only_layer_kind(self) -> int:
        """The number of the one kind that all layers are of.

        Raises:
            InputError: there are several.
        """
        if len(self.kinds) > 1:
            raise InputError(
                f"{self.name}: expected layers that are all alike, got {len(self.kinds)} kinds"
            )
        return 0

    @property
    def only_kind(self) -> LayerKind:
        """The kind that all layers are of.

        Raises:
            InputError: there are several.
        """
        return self.kinds[self.only_layer_kind]

    @cached_property
    def layers_by_kind(self) -> tuple[int, ...]:
        """How many layers there are of each kind."""
        return self.count_kinds(0, self.layers)

    def count_kinds(self, first: int, stop: int) -> tuple[int, ...]:
        """Return how many layers there are of each kind from one layer to another."""
        counts = Counter(self.kind_of_layer[first:stop])
        return tuple(counts[number] for number in range(len(self.kinds)))

    def with_layers(self, layers: int) -> "ModelSpec":
        """Return the model with so many layers: its first ones, or all of them over again."""
        pattern = self.kind_of_layer
        return replace(
            self, kind_of_layer=tuple(pattern[layer % len(pattern)] for layer in range(layers))
        )

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
        return self._with_ends([kind.parameters for kind in self.kinds])

    @property
    def active_parameters(self) -> int:
        """Parameters that one token goes through, the embedding included."""
        return self._with_ends([kind.active_parameters for kind in self.kinds])

    def _with_ends(self, of_kinds: Sequence[int]) -> int:
        head = 0 if self.tied_embeddings else self.head_weights
        return self._summed(of_kinds) + self.embedding_weights + head

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes kept of a token at 16 bits in all layers, as long as no window is full."""
        return self._summed(
            [kind.cache_bytes(1, 1) - kind.cache_bytes(1, 0) for kind in self.kinds]
        )

    @property
    def state_bytes_per_sequence(self) -> int:
        """Bytes kept of a sequence in all layers, however long it is."""
        return self.cache_bytes(1, 0)

    def cache_bytes(self, sequences: int, context_tokens: int) -> int:
        """Return the bytes kept of so many sequences of a context in all layers at 16 bits."""
        return self._summed([kind.cache_bytes(sequences, context_tokens) for kind in self.kinds])

    def _summed(self, of_kinds: Sequence[int]) -> int:
        """Return the sum over all layers of what each kind has."""
        return sum(
            layers * of_kind for layers, of_kind in zip(self.layers_by_kind, of_kinds, strict=True)
        )


def dense_model(
    *,
    name: str,
    family: str,
    layers: int,
    hidden_size: int,
    intermediate_size: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    vocab_size: int,
    max_positions: int,
    gated_mlp: bool,
    tied_embeddings: bool,
    position_rows: int,
    bias_elements: int,
    norm_elements: int,
    dtype: str,
) -> ModelSpec:
    """Return a model whose layers are all alike: plain attention and one MLP.

    Args:
        name: what to call it.
        family: the ``model_type`` of its config.json.
        layers: how many there are.
        hidden_size: width of the residual stream.
        intermediate_size: width inside the MLP.
        heads: of queries.
        kv_heads: of keys and values; fewer than heads is grouped-query attention.
        head_dim: width of a head.
        vocab_size: rows of the embedding and of the LM head.
        max_positions: longest context.
        gated_mlp: whether the MLP has a gate beside its up projection.
        tied_embeddings: whether the LM head is the embedding.
        position_rows: rows of a learned position table.
        bias_elements: elements of all bias vectors of one layer.
        norm_elements: elements of all normalisation vectors of one layer.
        dtype: ``fp16`` or ``bf16``.
    """
    attention = Attention(heads, kv_heads, head_dim, head_dim)
    mlp = Dense(intermediate_size, gated_mlp)
    kind = LayerKind(hidden_size, attention, mlp, bias_elements, norm_elements)
    return ModelSpec(
        name=name,
        family=family,
        hidden_size=hidden_size,
        vocab_size=vocab_size,
        max_positions=max_positions,
        tied_embeddings=tied_embeddings,
        position_rows=position_rows,
        dtype=dtype,
        kinds=(kind,),
        kind_of_layer=(0,) * layers,
    )
