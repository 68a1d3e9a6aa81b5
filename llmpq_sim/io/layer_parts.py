"""Rules by which families' configs are read into attention and feed-forward parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.layers import (
    Attention,
    Dense,
    Experts,
    FeedForward,
    Indexer,
    LatentAttention,
    Mixer,
)
from llmpq_sim.io.family_config import FamilyConfig, Switch

HeadNorms = Literal["shared", "shared-biased", "each"]
"""Norms of queries and keys: a vector for all heads, two, or one for every head of its own."""


class Part(NamedTuple):
    """A mixer or a feed-forward part, and the elements of its vectors."""

    content: Mixer | FeedForward | None
    bias_elements: int = 0
    norm_elements: int = 0


class Rule(Protocol):
    """How a family's part is read from a config, as one layer sees it."""

    def read(self, config: FamilyConfig, hidden: int) -> Part:
        """Return the part of a layer.

        Raises:
            InputError: a value is missing or cannot be.
        """


@dataclass(frozen=True)
class Nothing:
    """The rule of layers without such a part."""

    def read(self, config: FamilyConfig, hidden: int) -> Part:  # noqa: ARG002
        """Return no part."""
        return Part(None)


@dataclass(frozen=True)
class GroupedQuery:
    """Grouped-query attention of a family.

    Attributes:
        window: the key of the window, empty for none.
        head_norms: which norms queries and keys have; ``has_head_norms`` says where.
        qkv_bias, out_bias: which products have biases.
        is_gated: whether queries carry a gate of the output.
        gate_bias: whether that gate has a bias where queries have one.
        shares_keys: whether values are made of the keys' product.
        has_sinks: whether each head has a learned sink.
        has_head_gate: whether a small product weighs each head.
        index: keys of the heads and width of a selection of blocks, or none.
        keys: names of keys that this attention has of its own, by the usual ones.
        kv_head_factor: times the usual number of key-value heads, where not stated.
    """

    window: str = ""
    has_head_norms: Switch = False
    head_norms: HeadNorms = "shared"
    qkv_bias: Switch = False
    out_bias: Switch = False
    is_gated: Switch = False
    gate_bias: bool = True
    shares_keys: Switch = False
    has_sinks: bool = False
    has_head_gate: Switch = False
    index: tuple[str, str] | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    kv_head_factor: int = 1

    def read(self, config: FamilyConfig, hidden: int) -> Part:
        """Return the attention of a layer.

        Raises:
            InputError: a value is missing or cannot be, or heads do not divide.
        """
        stated = config.renamed(self.keys)
        heads = stated.integer("num_attention_heads")
        key_dim = _head_dim(stated, hidden, heads)
        kv_heads = self._kv_heads(config, stated, heads)
        value_dim = stated.integer("v_head_dim", key_dim)
        attention = Attention(
            heads=heads,
            kv_heads=kv_heads,
            key_dim=key_dim,
            value_dim=value_dim,
            window=stated.optional(self.window) if self.window else None,
            is_gated=stated.is_on(self.is_gated),
            has_values=not stated.is_on(self.shares_keys),
        )
        return Part(
            attention,
            self._vectors(stated, attention, hidden) + self._index(stated, hidden),
            self._norms(stated, attention),
        )

    def _kv_heads(self, config: FamilyConfig, stated: FamilyConfig, heads: int) -> int:
        usual = config.integer("num_key_value_heads", heads)
        own = self.keys.get("num_key_value_heads", "")
        kv_heads = stated.integer("num_key_value_heads", heads)
        if not (own and config.fields.has(own)):
            kv_heads = usual * self.kv_head_factor
        if heads % kv_heads:
            raise InputError(
                f"{config.fields.where}: expected attention heads in groups of equal size, got "
                f"{heads} heads for {kv_heads} key-value heads"
            )
        return kv_heads

    def _vectors(self, config: FamilyConfig, attention: Attention, hidden: int) -> int:
        """Return the elements of biases, sinks and gates of heads."""
        qkv = attention.linears(hidden)[0].out_features
        if attention.is_gated and not self.gate_bias:
            qkv -= attention.heads * attention.key_dim
        heads = attention.heads
        return (
            config.is_on(self.qkv_bias) * qkv
            + config.is_on(self.out_bias) * hidden
            + self.has_sinks * heads
            + config.is_on(self.has_head_gate) * heads * hidden
        )

    def _index(self, config: FamilyConfig, hidden: int) -> int:
        """Return the elements of the products and norms that choose blocks of keys."""
        if self.index is None:
            return 0
        heads, width = (config.integer(key) for key in self.index)
        return (heads + 1) * width * hidden + 2 * width

    def _norms(self, config: FamilyConfig, attention: Attention) -> int:
        if not config.is_on(self.has_head_norms):
            return 0
        each = attention.heads + attention.kv_heads
        vectors = {"shared": 2, "shared-biased": 4, "each": each}
        return vectors[self.head_norms] * attention.key_dim


def _head_dim(config: FamilyConfig, hidden: int, heads: int) -> int:
    """Return the width of a head, which shares the hidden size where nothing else is said.

    Raises:
        InputError: heads cannot share it equally.
    """
    head_dim = config.optional("head_dim")
    if head_dim is not None:
        return head_dim
    if hidden % heads:
        raise InputError(
            f"{config.fields.where}: expected a hidden size that {heads} attention heads divide, "
            f"got {hidden}"
        )
    return hidden // heads


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention of a family.

    Attributes:
        bias: whether its products of the hidden state have biases.
        has_index: whether a small attention chooses the tokens to attend to.
    """

    bias: Switch = ("attention_bias", False)
    has_index: bool = False

    def read(self, config: FamilyConfig, hidden: int) -> Part:
        """Return the attention of a layer.

        Raises:
            InputError: a value is missing or cannot be.
        """
        attention = LatentAttention(
            heads=config.integer("num_attention_heads"),
            query_rank=config.optional("q_lora_rank"),
            kv_rank=config.integer("kv_lora_rank"),
            nope_dim=config.integer("qk_nope_head_dim"),
            rope_dim=config.integer("qk_rope_head_dim"),
            value_dim=config.integer("v_head_dim"),
            indexer=self._indexer(config),
        )
        rank = attention.query_rank or 0
        compressed = attention.kv_rank + attention.rope_dim
        biases = config.is_on(self.bias) * (rank + compressed + hidden)
        index_norm = 2 * attention.indexer.head_dim if attention.indexer else 0
        return Part(attention, biases, rank + attention.kv_rank + index_norm)

    def _indexer(self, config: FamilyConfig) -> Indexer | None:
        if not self.has_index:
            return None
        return Indexer(
            heads=config.integer("index_n_heads"),
            head_dim=config.integer("index_head_dim"),
            chosen_tokens=config.integer("index_topk"),
        )


@dataclass(frozen=True)
class Plain:
    """A feed-forward part that every token goes through whole.

    Attributes:
        inner: the key of its inner size.
        ratio: inner size over hidden size where the config does not say.
        extra: other elements.
    """

    is_gated: bool = True
    bias: Switch = False
    inner: str = "intermediate_size"
    ratio: int | None = None
    extra: int = 0

    def read(self, config: FamilyConfig, hidden: int) -> Part:
        """Return the feed-forward part of a layer.

        Raises:
            InputError: a value is missing or cannot be.
        """
        inner = config.integer(self.inner, *([self.ratio * hidden] if self.ratio else []))
        up = (2 if self.is_gated else 1) * inner
        biases = config.is_on(self.bias) * (up + hidden)
        return Part(Dense(inner, self.is_gated), biases + self.extra)


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts of a family.

    Attributes:
        inner: the key of an expert's inner size.
        shared: the key of the inner size of all shared experts together; empty where there are
            as many as ``shared_experts`` says, each of ``shared_inner`` or an expert's size.
        shared_inner: the key of the inner size of a shared expert, empty for an expert's.
        shared_count: how many there are where the config does not say.
        has_shared_gate: whether a gate weighs the shared experts.
        has_selection_bias: whether the router's choice has a learned bias.
        bias: whether the router and all experts have biases.
        shared_bias: whether shared experts have biases.
        latent: the key of the experts' width where it is not the hidden size.
        hidden_vectors: norms and scales of the hidden size that this part has of its own.
    """

    inner: str = "moe_intermediate_size"
    shared: str = ""
    shared_inner: str = ""
    shared_count: int = 0
    is_gated: bool = True
    has_shared_gate: bool = False
    has_selection_bias: bool = False
    bias: bool = False
    shared_bias: Switch = False
    latent: str = ""
    hidden_vectors: int = 0

    def read(self, config: FamilyConfig, hidden: int) -> Part:
        """Return the experts of a layer.

        Raises:
            InputError: a value is missing or cannot be, or more experts are chosen than there are.
        """
        count = config.integer("experts")
        chosen = config.integer("experts_chosen")
        if chosen > count:
            raise InputError(
                f"{config.where('experts_chosen')}: expected at most {count} of {count} experts, "
                f"got {chosen}"
            )
        inner = config.integer(self.inner)
        shared = self._shared(config, inner)
        experts = Experts(
            count=count,
            chosen=chosen,
            inner_size=inner,
            shared_inner_size=shared,
            is_gated=self.is_gated,
            has_shared_gate=self.has_shared_gate and shared > 0,
            latent_size=config.optional(self.latent) if self.latent else None,
            expert_bias_elements=self.bias * self._rows(inner, hidden),
        )
        routers = count * (self.bias + self.has_selection_bias)
        biases = shared and config.is_on(self.shared_bias) * self._rows(shared, hidden)
        return Part(experts, routers + biases, self.hidden_vectors * hidden)

    def _rows(self, inner: int, hidden: int) -> int:
        """Return the rows of an expert's products, which biases would be added to."""
        return (2 * inner if self.is_gated else inner) + hidden

    def _shared(self, config: FamilyConfig, inner: int) -> int:
        if self.shared:
            return config.optional(self.shared) or 0
        stated = config.optional("shared_experts")
        count = self.shared_count if stated is None else stated
        return count * (config.integer(self.shared_inner) if self.shared_inner else inner)
