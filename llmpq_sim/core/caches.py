"""Caches of the layers of stages, in blocks of which sequences take some with every few tokens.

Where caches grow with every token, a block is so many tokens of all layers of a stage. Windows and
recurrent states are bounded: a sequence takes their blocks when it is admitted, as many as its
whole context needs, and its tokens take those of the layers that keep them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil

from llmpq_sim.core.layers import LayerKind
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.plan import Plan

FINE_BLOCKS = 1 << 20
"""Blocks of a sequence where no cache grows with every token, so that those counted for tokens all
the same do not count."""


@dataclass(frozen=True)
class StageCaches:
    """What the layers of a stage keep of sequences.

    Attributes:
        layers: kinds of layers, and how many there are of each.
        longest_tokens: the longest context; a window that no context fills is none.
    """

    layers: tuple[tuple[LayerKind, int], ...]
    longest_tokens: int

    @cached_property
    def _growing(self) -> tuple[tuple[LayerKind, int], ...]:
        return tuple(each for each in self.layers if is_growing(each[0], self.longest_tokens))

    @cached_property
    def _bounded(self) -> tuple[tuple[LayerKind, int], ...]:
        return tuple(each for each in self.layers if each not in self._growing)

    @property
    def is_bounded(self) -> bool:
        """Whether anything is kept that does not grow with every token."""
        return any(count * kind.cache_bytes(1, 1) for kind, count in self._bounded)

    @property
    def most_bounded_tokens(self) -> int:
        """Tokens of a context beyond which only what grows becomes more."""
        return max((kind.most_cached_tokens or 0 for kind, _ in self._bounded), default=0)

    def growing_bytes(self, tokens: int) -> int:
        """Return the bytes of so many tokens in the layers that keep all of them."""
        return sum(count * kind.cache_bytes(1, tokens) for kind, count in self._growing)

    def bounded_bytes(self, context_tokens: int) -> int:
        """Return the bytes of a sequence of a context in the other layers."""
        return sum(count * kind.cache_bytes(1, context_tokens) for kind, count in self._bounded)

    def sequence_bytes(self, context_tokens: int) -> int:
        """Return the bytes of a sequence of a context in all layers."""
        return self.growing_bytes(context_tokens) + self.bounded_bytes(context_tokens)

    def room_tokens(self, room_bytes: int) -> int:
        """Return the tokens that fit some bytes, as long as no window is full; states apart.

        Layers that keep nothing of a token are no limit but that of the longest context.
        """
        token_bytes = self.sequence_bytes(1) - self.sequence_bytes(0)
        if token_bytes:
            return max(room_bytes // token_bytes, 0)
        state_bytes = max(self.sequence_bytes(0), 1)
        return max(room_bytes // state_bytes, 0) * self.longest_tokens


def is_growing(kind: LayerKind, longest_tokens: int) -> bool:
    """Return whether layers keep every token of the longest context."""
    most = kind.most_cached_tokens
    return most is None or most >= longest_tokens


def keeps_all_tokens(model: ModelSpec, longest_tokens: int) -> bool:
    """Return whether all that is kept of a sequence grows with every token of its context.

    Then a prefix is known by its blocks; a window or a recurrent state would have to be kept as it
    was at the prefix's end.
    """
    return all(
        is_growing(kind, longest_tokens) or not kind.cache_bytes(1, 1) for kind in model.kinds
    )


def stage_caches(
    plan: Plan, model: ModelSpec, longest_tokens: int | None = None
) -> tuple[StageCaches, ...]:
    """Return what each stage of a plan keeps.

    Args:
        plan: whose stages hold all layers of the model.
        model: the model.
        longest_tokens: the longest context; the model's own unless told.
    """
    longest = longest_tokens or model.max_positions
    caches = []
    for stage, first in zip(plan.stages, plan.first_layers(), strict=True):
        counts = model.count_kinds(first, first + len(stage.formats))
        pairs = zip(model.kinds, counts, strict=True)
        caches.append(StageCaches(tuple(pair for pair in pairs if pair[1]), longest))
    return tuple(caches)


@dataclass(frozen=True)
class KvRoom:
    """Blocks that stages have room for, and those that a sequence takes beside its tokens'.

    Attributes:
        blocks: of each stage.
        bounded_blocks: of a sequence, by the blocks of its whole context, from none on; the last
            one for longer ones. Empty where every cache grows with every token.
    """

    blocks: tuple[int, ...]
    bounded_blocks: tuple[int, ...] = ()

    @property
    def capacity(self) -> int:
        """Blocks of the tightest stage: all stages have one block table."""
        return min(self.blocks)

    def most_bytes(self, cached: StageCaches, block_tokens: int, held: int) -> int:
        """Return the most bytes that sequences with so many blocks take on a stage.

        Args:
            cached: of the stage.
            block_tokens: tokens of one block.
            held: blocks of all sequences together.
        """
        per_block = Fraction(cached.growing_bytes(block_tokens))
        for blocks in range(1, len(self.bounded_blocks) + 1):
            taken = cached.sequence_bytes(blocks * block_tokens)
            own = blocks + bounded_blocks_of(self.bounded_blocks, blocks)
            per_block = max(per_block, Fraction(taken, own))
        return ceil(held * per_block)


def bounded_blocks_of(table: Sequence[int], context_blocks: int) -> int:
    """Return the blocks of a sequence beside its tokens' from such a table."""
    return table[min(context_blocks, len(table) - 1)] if table else 0


def kv_room(caches: Sequence[StageCaches], room_bytes: Sequence[int], block_tokens: int) -> KvRoom:
    """Return the blocks of stages; none where there are no bytes for any.

    A block is as many bytes of a stage as the block of the tightest one of its room, so that the
    blocks of a window or a state are those of the stage where they weigh most.

    Args:
        caches: of each stage.
        room_bytes: of each stage; negative where not even weights fit.
        block_tokens: tokens of one block.
    """
    per_block = [each.growing_bytes(block_tokens) for each in caches]
    own = [room // each for room, each in zip(room_bytes, per_block, strict=True) if each]
    if min(room_bytes) <= 0:
        return KvRoom(_by_stage(room_bytes, per_block, 0))
    if not any(each.is_bounded for each in caches):
        return KvRoom(_by_stage(room_bytes, per_block, min(own, default=FINE_BLOCKS)))
    capacity = min(own) if own else _fine_capacity(caches, room_bytes)
    most = max(each.most_bounded_tokens for each in caches)
    table = tuple(
        max(
            -(-each.bounded_bytes(blocks * block_tokens) * capacity // room)
            for each, room in zip(caches, room_bytes, strict=True)
        )
        for blocks in range(-(-most // block_tokens) + 1)
    )
    return KvRoom(_by_stage(room_bytes, per_block, capacity), table)


def _by_stage(
    room_bytes: Sequence[int], per_block: Sequence[int], capacity: int
) -> tuple[int, ...]:
    """Return the blocks of each stage; one that keeps nothing of a token has the common number."""
    return tuple(
        max(room // each, 0) if each else capacity
        for room, each in zip(room_bytes, per_block, strict=True)
    )


def _fine_capacity(caches: Sequence[StageCaches], room_bytes: Sequence[int]) -> int:
    """Return the blocks where no cache grows: a sequence takes about FINE_BLOCKS of them."""
    return min(
        FINE_BLOCKS * room // max(each.bounded_bytes(each.longest_tokens), 1)
        for each, room in zip(caches, room_bytes, strict=True)
    )
