"""Laws of the blocks that sequences take: whatever is admitted by blocks fits the bytes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.caches import StageCaches, bounded_blocks_of, kv_room
from llmpq_sim.core.layers import Attention, LayerKind
from tests.kinds import DENSE, LATENT, MLP_ALONE, RECURRENT, WINDOW

LONGEST = 400
OTHER_WINDOW = replace(DENSE, mixer=Attention(4, 2, 64, 32, window=100))
KINDS = (DENSE, WINDOW, OTHER_WINDOW, LATENT, RECURRENT, MLP_ALONE)

stage_layers = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(1, 9)), min_size=1, max_size=4
).map(lambda pairs: tuple(dict(pairs).items()))


@given(
    st.lists(st.tuples(stage_layers, st.integers(0, 1 << 26)), min_size=1, max_size=3),
    st.sampled_from([1, 4, 16]),
    st.lists(st.integers(1, LONGEST), min_size=1, max_size=30),
)
def test_sequences_whose_blocks_fit_have_room_on_every_stage(
    stages: list[tuple[tuple[tuple[LayerKind, int], ...], int]],
    block_tokens: int,
    contexts: list[int],
) -> None:
    caches = [StageCaches(layers, LONGEST) for layers, _ in stages]
    rooms = [room for _, room in stages]
    found = kv_room(caches, rooms, block_tokens)
    held, admitted = 0, []
    for context in contexts:
        blocks = -(-context // block_tokens)
        held += blocks + bounded_blocks_of(found.bounded_blocks, blocks)
        if held > found.capacity:
            break
        admitted.append(context)
    for cached, room in zip(caches, rooms, strict=True):
        assert sum(cached.sequence_bytes(context) for context in admitted) <= room


@given(stage_layers, st.integers(1 << 20, 1 << 26), st.sampled_from([1, 16]), st.integers(1, 400))
def test_one_stage_admits_all_that_fit_but_for_broken_blocks(
    layers: tuple[tuple[LayerKind, int], ...], room: int, block_tokens: int, context: int
) -> None:
    cached = StageCaches(layers, LONGEST)
    found = kv_room([cached], [room], block_tokens)
    blocks = -(-context // block_tokens)
    needed = blocks + bounded_blocks_of(found.bounded_blocks, blocks)
    whole = cached.sequence_bytes(blocks * block_tokens)
    if whole:
        most = room / (whole + 2 * cached.growing_bytes(block_tokens))
        assert found.capacity / needed >= most * 0.999 - 1


@pytest.mark.parametrize("kind", [DENSE, LATENT])
def test_layers_that_keep_every_token_have_plain_blocks(kind: LayerKind) -> None:
    cached = StageCaches(((kind, 3),), LONGEST)
    room = 7 * cached.growing_bytes(16) + 5
    found = kv_room([cached, cached], [room, 2 * room], 16)
    assert (found.blocks, found.bounded_blocks) == ((7, 14), ())


@given(
    st.lists(st.tuples(stage_layers, st.integers(1 << 22, 1 << 26)), min_size=1, max_size=3),
    st.lists(st.integers(1, LONGEST), min_size=1, max_size=9),
)
def test_the_most_bytes_of_blocks_are_no_less_than_any_sequences_take(
    stages: list[tuple[tuple[tuple[LayerKind, int], ...], int]], contexts: list[int]
) -> None:
    caches = [StageCaches(layers, LONGEST) for layers, _ in stages]
    found = kv_room(caches, [room for _, room in stages], 16)
    blocks = [-(-context // 16) for context in contexts]
    held = sum(each + bounded_blocks_of(found.bounded_blocks, each) for each in blocks)
    for cached, (_, room) in zip(caches, stages, strict=True):
        most = found.most_bytes(cached, 16, held)
        assert sum(cached.sequence_bytes(context) for context in contexts) <= most
        assert held > found.capacity or most <= room
