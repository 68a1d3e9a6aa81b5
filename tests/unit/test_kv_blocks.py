import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.simulator.continuous.kv_blocks import BlockPool, prefix_kv_blocks, prefix_names
from llmpq_sim.simulator.continuous.sequence import Sequence
from tests.serving import limits, trace


def prompt(pool: BlockPool, names: tuple[int, ...], tokens: int) -> Sequence:
    """Return a sequence that has just computed its prompt with blocks of the pool."""
    sequence = Sequence(0, tokens, 1, names)
    units = pool.longest_cached_prefix(sequence)
    pool.share(sequence, units)
    blocks = -(-tokens // 4) - sequence.blocks
    pool.take(blocks)
    sequence.blocks += blocks
    before, sequence.computed_tokens = units * pool.prefix_tokens, tokens
    pool.publish(sequence, before)
    return sequence


def test_what_is_taken_is_given_back() -> None:
    pool = BlockPool(capacity=5, prefix_kv_blocks=1, block_tokens=4)
    sequence = prompt(pool, (), 9)
    assert pool.available == 2
    pool.release(sequence)
    assert (pool.available, pool.free) == (5, 5)


def test_equal_prefixes_share_blocks_while_in_use() -> None:
    pool = BlockPool(capacity=10, prefix_kv_blocks=2, block_tokens=4)
    prompt(pool, (1, 2), 20)
    second = prompt(pool, (1, 3), 20)
    assert second.prefix == [1, 3]
    assert pool.available == 10 - 5 - 3


def test_one_token_is_always_left_to_compute() -> None:
    pool = BlockPool(capacity=10, prefix_kv_blocks=1, block_tokens=4)
    prompt(pool, (1, 2), 8)
    assert pool.longest_cached_prefix(Sequence(1, 8, 1, (1, 2))) == 1
    assert pool.longest_cached_prefix(Sequence(2, 9, 1, (1, 2))) == 2


def test_a_prefix_stays_until_its_room_is_needed_the_end_of_a_prompt_goes_first() -> None:
    pool = BlockPool(capacity=3, prefix_kv_blocks=1, block_tokens=4)
    pool.release(prompt(pool, (1, 2, 3), 12))
    assert (pool.free, pool.available) == (0, 3)
    pool.take(1)
    assert pool.longest_cached_prefix(Sequence(1, 99, 1, (1, 2, 3))) == 2


def test_the_prefix_unused_for_longest_goes_first() -> None:
    pool = BlockPool(capacity=2, prefix_kv_blocks=1, block_tokens=4)
    first, second = prompt(pool, (1,), 4), prompt(pool, (2,), 4)
    pool.release(second)
    pool.release(first)
    pool.take(1)
    assert pool.longest_cached_prefix(Sequence(2, 9, 1, (2,))) == 0
    assert pool.longest_cached_prefix(Sequence(3, 9, 1, (1,))) == 1


def test_room_is_counted_without_the_prefix_to_be_shared() -> None:
    pool = BlockPool(capacity=3, prefix_kv_blocks=1, block_tokens=4)
    pool.release(prompt(pool, (1, 2), 8))
    assert pool.available_beside(Sequence(1, 99, 1, (1, 2)), 2) == 1


def test_a_unit_computed_twice_is_named_once() -> None:
    pool = BlockPool(capacity=4, prefix_kv_blocks=1, block_tokens=4)
    first, second = Sequence(0, 4, 1, (1,)), Sequence(1, 4, 1, (1,))
    for sequence in (first, second):
        pool.take(1)
        sequence.blocks, sequence.computed_tokens = 1, 4
        pool.publish(sequence, 0)
    assert (first.prefix, second.prefix) == ([1], [])
    pool.release(second)
    assert pool.free == 3


def test_only_units_that_a_prompt_fills_are_named() -> None:
    workload = trace([0.0], [11], [1], ((7, 8, 9),), 4)
    assert prefix_names(workload, limits(prefix_caching=True), 0) == (7, 8)
    assert prefix_names(workload, limits(), 0) == ()


def test_prefix_blocks_are_a_whole_number_of_kv_blocks() -> None:
    workload = trace([0.0], [11], [1], ((7, 8),), 6)
    assert prefix_kv_blocks(workload, limits(prefix_caching=True, block_tokens=3)) == 2
    with pytest.raises(InputError) as caught:
        prefix_kv_blocks(workload, limits(prefix_caching=True, block_tokens=4))
    assert str(caught.value) == (
        "block_tokens: expected a divisor of 6, the prefix block of made up, got 4; "
        "choose one or turn prefix caching off"
    )
