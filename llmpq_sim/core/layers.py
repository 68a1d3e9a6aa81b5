"""Layers of a decoder by kind: a mixer of tokens and a feed-forward part, their matrices and cache.

A part answers for one layer: the matrix products it is made of, and what it keeps of a sequence.
Formulas: DeepSeek-V2 (arXiv:2405.04434) for latent attention, Gated Delta Networks
(arXiv:2412.06464) and Mamba-2 (arXiv:2405.21060) for recurrent mixers, and the modules of
transformers for the rest.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.kv_formats import KV_FORMATS, PLAIN, kv_format_named
from llmpq_sim.core.records import Codec, Natural, Place, one_of_kinds

HALF_BYTES = 2
"""Bytes of a 16-bit element."""


def _kv_format(fields: Fields, key: str) -> str:
    return kv_format_named(fields.text(key), f"{fields.where}.{key}").name


@dataclass(frozen=True)
class Linear:
    """A matrix product of a layer, ``y[tokens, out] = x[tokens, in] W[out, in]^T``.

    Attributes:
        copies: matrices of this shape, of which a token goes through some: experts.
        is_formatted: whether a weight format applies; routers and gates stay at 16 bits.
    """

    name: str
    out_features: int
    in_features: int
    copies: Annotated[int, Place.OPTIONAL] = 1
    is_formatted: Annotated[bool, Place.OPTIONAL] = True

    @property
    def weights(self) -> int:
        """Number of weights of all copies."""
        return self.copies * self.out_features * self.in_features


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention.

    Attributes:
        key_dim, value_dim: widths of a head's keys (and queries) and values.
        window: tokens that a token attends to, itself included; None for all before it.
        is_gated: whether queries carry a gate of the output (Qwen3-Next).
        has_values: whether values have a matrix of their own; else they are made of the keys.
    """

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    window: Annotated[int | None, Place.OPTIONAL] = None
    is_gated: Annotated[bool, Place.OPTIONAL] = False
    has_values: Annotated[bool, Place.OPTIONAL] = True

    def linears(self, hidden_size: int) -> tuple[Linear, ...]:
        """Return its products, those that share their input fused."""
        queries = self.heads * self.key_dim * (2 if self.is_gated else 1)
        keys = self.kv_heads * self.key_dim
        values = self.kv_heads * self.value_dim if self.has_values else 0
        return (
            Linear("qkv", queries + keys + values, hidden_size),
            Linear("out", hidden_size, self.heads * self.value_dim),
        )

    def cached_tokens(self, context_tokens: int) -> int:
        """Return the tokens of a context that are kept."""
        return context_tokens if self.window is None else min(context_tokens, self.window)

    @property
    def cached_elements_per_token(self) -> int:
        """Elements of keys and values kept of a token."""
        return self.kv_heads * (self.key_dim + self.value_dim)


@dataclass(frozen=True)
class Indexer:
    """Selection of the tokens to attend to by a small attention (DeepSeek-V3.2).

    Attributes:
        chosen_tokens: most tokens that are attended to.
    """

    heads: int
    head_dim: int
    chosen_tokens: int


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention: one compressed vector a token is kept for all heads.

    Attributes:
        query_rank: of the compressed queries, None where they are not compressed.
        kv_rank: width of what is kept, beside the rotary part.
        nope_dim, rope_dim: widths of a head's keys without and with rotary embedding.
        value_dim: width of a head's values.
        indexer: chooses the tokens to attend to, None for all.
    """

    heads: int
    query_rank: int | None
    kv_rank: int
    nope_dim: Natural
    rope_dim: Natural
    value_dim: int
    indexer: Annotated[Indexer | None, Place.OPTIONAL] = None

    def linears(self, hidden_size: int) -> tuple[Linear, ...]:
        """Return its products."""
        queries = self.heads * (self.nope_dim + self.rope_dim)
        if self.query_rank is None:
            query: tuple[Linear, ...] = (Linear("q", queries, hidden_size),)
        else:
            query = (
                Linear("q_a", self.query_rank, hidden_size),
                Linear("q_b", queries, self.query_rank),
            )
        return (
            *query,
            Linear("kv_a", self.kv_rank + self.rope_dim, hidden_size),
            Linear("kv_b", self.heads * (self.nope_dim + self.value_dim), self.kv_rank),
            *self._index_linears(hidden_size),
            Linear("out", hidden_size, self.heads * self.value_dim),
        )

    def _index_linears(self, hidden_size: int) -> tuple[Linear, ...]:
        if self.indexer is None:
            return ()
        queries = self.indexer.heads * self.indexer.head_dim
        return (
            Linear("index_q", queries, self.query_rank or hidden_size),
            Linear("index_k", self.indexer.head_dim, hidden_size),
            Linear("index_weights", self.indexer.heads, hidden_size, is_formatted=False),
        )

    def cached_tokens(self, context_tokens: int) -> int:
        """Return the tokens of a context that are kept."""
        return context_tokens

    @property
    def cached_elements_per_token(self) -> int:
        """Elements kept of a token: the compressed vector, the rotary key, the index key."""
        return self.kv_rank + self.rope_dim + (self.indexer.head_dim if self.indexer else 0)


@dataclass(frozen=True)
class Recurrent:
    """A mixer whose state has a fixed size.

    Attributes:
        algorithm: its rule of recurrence, which names the kernels measured.
        projections: its products; the one back to the hidden size is called ``out``.
        heads, key_dim, value_dim: of the state: one matrix for each head.
        state_elements: kept of a sequence, beside the convolution.
        state_element_bytes: 4 where the config says that states are float32.
        convolution_elements: inputs of the short convolution that are kept of a sequence.
        convolution_weights: of the short convolution.
    """

    algorithm: Literal["gated-delta", "kimi-delta", "mamba-2", "mamba-1"]
    projections: tuple[Linear, ...]
    heads: int
    key_dim: int
    value_dim: int
    state_elements: int
    state_element_bytes: int
    convolution_elements: Natural
    convolution_weights: Natural

    @property
    def state_bytes(self) -> int:
        """Bytes kept of a sequence, however long."""
        return (
            self.state_elements * self.state_element_bytes + HALF_BYTES * self.convolution_elements
        )


@dataclass(frozen=True)
class Dense:
    """A feed-forward part that every token goes through whole."""

    inner_size: int
    is_gated: Annotated[bool, Place.OPTIONAL] = True

    def linears(self, hidden_size: int) -> tuple[Linear, ...]:
        """Return its products, gate and up projection fused."""
        up = 2 * self.inner_size if self.is_gated else self.inner_size
        return (
            Linear("up", up, hidden_size),
            Linear("down", hidden_size, self.inner_size),
        )


EXPERT_LINEARS = ("experts_up", "experts_down")
"""Names of the products that an expert has of its own."""


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: a token goes through a few of many, and through those shared by all.

    Attributes:
        count: experts that a router chooses from.
        chosen: experts that a token goes through.
        inner_size: of one expert.
        shared_inner_size: of the shared experts together, 0 where there are none.
        is_gated: whether an expert has a gate beside its up projection.
        has_shared_gate: whether a gate weighs the shared experts.
        latent_size: width of the experts' input and output where it is not the hidden size.
        expert_bias_elements: elements of the bias vectors of one expert.
    """

    count: int
    chosen: int
    inner_size: int
    shared_inner_size: Annotated[Natural, Place.OPTIONAL] = 0
    is_gated: Annotated[bool, Place.OPTIONAL] = True
    has_shared_gate: Annotated[bool, Place.OPTIONAL] = False
    latent_size: Annotated[int | None, Place.OPTIONAL] = None
    expert_bias_elements: Annotated[Natural, Place.OPTIONAL] = 0

    def linears(self, hidden_size: int) -> tuple[Linear, ...]:
        """Return its products: ``experts_up`` and ``experts_down`` have a copy an expert."""
        width = self.latent_size or hidden_size
        factor = 2 if self.is_gated else 1
        linears = [
            Linear("router", self.count, hidden_size, is_formatted=False),
            Linear("experts_up", factor * self.inner_size, width, self.count),
            Linear("experts_down", width, self.inner_size, self.count),
        ]
        if self.latent_size:
            linears += [
                Linear("latent_in", width, hidden_size),
                Linear("latent_out", hidden_size, width),
            ]
        if self.shared_inner_size:
            linears += [
                Linear("shared_up", factor * self.shared_inner_size, hidden_size),
                Linear("shared_down", hidden_size, self.shared_inner_size),
            ]
        if self.has_shared_gate:
            linears.append(Linear("shared_gate", 1, hidden_size, is_formatted=False))
        return tuple(linears)

    def distinct(self, tokens: float) -> float:
        """Return how many experts a step of so many tokens is expected to read.

        ``E (1 - (1 - k / E)^T)``: every token chooses k of E, all alike likely.
        """
        return float(self.count * (1 - (1 - self.chosen / self.count) ** tokens))


Mixer = Attention | LatentAttention | Recurrent
FeedForward = Dense | Experts

MIXERS = one_of_kinds("mixer", attention=Attention, latent=LatentAttention, recurrent=Recurrent)
FEED_FORWARDS = one_of_kinds("feed_forward", dense=Dense, experts=Experts)
"""How the parts of a layer stand in files: under the name of their kind."""


@dataclass(frozen=True)
class LayerKind:
    """A layer as far as time and memory depend on it; either part may be absent.

    Attributes:
        bias_elements: elements of all bias vectors and other small vectors.
        norm_elements: elements of all normalisation vectors.
        kept_linears: names of products that stay at 16 bits, whatever the layer's format, as a
            published checkpoint stores them.
        kv_format: of what a mixer keeps of each token.
    """

    hidden_size: int
    mixer: Annotated[Mixer | None, MIXERS]
    feed_forward: Annotated[FeedForward | None, FEED_FORWARDS]
    bias_elements: Natural
    norm_elements: Natural
    kept_linears: Annotated[tuple[str, ...], Place.OPTIONAL] = ()
    kv_format: Annotated[str, Codec(_kv_format), Place.OPTIONAL] = PLAIN

    @cached_property
    def mixer_linears(self) -> tuple[Linear, ...]:
        """The matrix products of its mixer; the one back to the hidden size is called ``out``."""
        if isinstance(self.mixer, Recurrent):
            return self._as_kept(self.mixer.projections)
        return self._as_kept(self.mixer.linears(self.hidden_size) if self.mixer else ())

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """The matrix products of the layer, projections that share their input fused."""
        mixed = self.mixer_linears
        feed_forward = self.feed_forward.linears(self.hidden_size) if self.feed_forward else ()
        return mixed + self._as_kept(feed_forward)

    def _as_kept(self, linears: tuple[Linear, ...]) -> tuple[Linear, ...]:
        return tuple(
            replace(linear, is_formatted=False) if linear.name in self.kept_linears else linear
            for linear in linears
        )

    @property
    def attention(self) -> Attention:
        """Its mixer, of which the caller knows no other kind.

        Raises:
            InputError: it is of another kind.
        """
        if not isinstance(self.mixer, Attention):
            raise InputError("expected layers with attention, got layers with another mixer")
        return self.mixer

    @property
    def dense(self) -> Dense:
        """Its feed-forward part, of which the caller knows no other kind.

        Raises:
            InputError: it is of another kind.
        """
        if not isinstance(self.feed_forward, Dense):
            raise InputError("expected layers with an MLP, got layers with experts or without")
        return self.feed_forward

    @property
    def formatted_weights(self) -> int:
        """Weights that a format applies to."""
        return sum(linear.weights for linear in self.linears if linear.is_formatted)

    @property
    def plain_elements(self) -> int:
        """Elements that stay at 16 bits: routers, gates, convolutions, biases and norms."""
        unformatted = sum(linear.weights for linear in self.linears if not linear.is_formatted)
        convolution = self.mixer.convolution_weights if isinstance(self.mixer, Recurrent) else 0
        experts = self.feed_forward if isinstance(self.feed_forward, Experts) else None
        biases = experts.count * experts.expert_bias_elements if experts else 0
        return unformatted + convolution + biases + self.bias_elements + self.norm_elements

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.formatted_weights + self.plain_elements

    @property
    def active_parameters(self) -> int:
        """Parameters that one token goes through."""
        if not isinstance(self.feed_forward, Experts):
            return self.parameters
        experts = sum(linear.weights for linear in self.linears if linear.name in EXPERT_LINEARS)
        experts += self.feed_forward.count * self.feed_forward.expert_bias_elements
        idle = experts * (self.feed_forward.count - self.feed_forward.chosen)
        return self.parameters - idle // self.feed_forward.count

    @property
    def most_cached_tokens(self) -> int | None:
        """Tokens of a context beyond which no more is kept; None where every token is."""
        if isinstance(self.mixer, Attention):
            return self.mixer.window
        return None if isinstance(self.mixer, LatentAttention) else 0

    def cache_bytes(self, sequences: int, context_tokens: int) -> int:
        """Return the bytes kept of so many sequences of a context.

        A window bounds them; a recurrent state has its own size; no mixer keeps nothing.
        """
        if self.mixer is None:
            return 0
        if isinstance(self.mixer, Recurrent):
            return sequences * self.mixer.state_bytes
        token_bytes = KV_FORMATS[self.kv_format].token_bytes(self.mixer.cached_elements_per_token)
        return sequences * token_bytes * self.mixer.cached_tokens(context_tokens)
