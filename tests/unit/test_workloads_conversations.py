"""Conversations: their growth, and the blocks that their prompts share."""

from dataclasses import replace

import numpy as np
import pytest

from llmpq_sim.workloads.arrivals import LognormalDelay
from llmpq_sim.workloads.conversations import Conversations, Turns
from llmpq_sim.workloads.lengths import Uniform, independent
from tests.traces import rng

CONVERSATIONS = Conversations(
    block_tokens=16,
    shared_blocks=1,
    another_turn=(0.5, 0.25),
    gap=LognormalDelay(median_s=100.0, sigma=0.0, most_s=1e9),
    growth=Uniform(7, 7),
    most_prompt_tokens=10_000,
)
LENGTHS = independent(Uniform(40, 40), Uniform(3, 3))


def turns(prompts: list[int], sessions: list[int]) -> Turns:
    return Turns(
        np.arange(len(prompts), dtype=np.float64),
        np.array(prompts),
        np.ones(len(prompts), dtype=np.int64),
        np.array(sessions),
    )


def test_the_mean_number_of_turns_is_the_sum_of_who_gets_there() -> None:
    # 1 + 0.5 + 0.5 x (0.25 + 0.25^2 + ...)
    assert CONVERSATIONS.mean_turns() == pytest.approx(1.5 + 0.5 * 0.25 / 0.75)


def test_a_prompt_repeats_all_before_it_and_adds_to_it() -> None:
    drawn = CONVERSATIONS.draw(5000, 2.0, LENGTHS, rng())
    assert set((drawn.prompt_tokens - 40) % (3 + 7)) == {0}
    turn = (drawn.prompt_tokens - 40) // 10
    mean_turns = CONVERSATIONS.mean_turns()
    assert np.mean(turn == 0) == pytest.approx(1 / mean_turns, abs=0.02)
    assert np.mean(turn == 1) == pytest.approx(0.5 / mean_turns, abs=0.02)


def test_requests_come_at_rate_one_of_operational_time() -> None:
    drawn = CONVERSATIONS.draw(5000, 2.0, LENGTHS, rng())
    assert drawn.operational[0] == 0
    assert drawn.operational[-1] == pytest.approx(5000)
    assert np.diff(drawn.operational).std() == pytest.approx(1, abs=0.05)


def test_turns_of_a_conversation_keep_the_gap() -> None:
    drawn = CONVERSATIONS.draw(5000, 2.0, LENGTHS, rng())
    order = np.lexsort((drawn.prompt_tokens, drawn.session))
    follows = np.diff(drawn.session[order]) == 0
    gaps = np.diff(drawn.operational[order])[follows]
    assert gaps / 2.0 == pytest.approx(100.0, rel=0.1)


def test_no_prompt_is_longer_than_the_most() -> None:
    short = replace(CONVERSATIONS, most_prompt_tokens=50)
    assert set(short.draw(2000, 2.0, LENGTHS, rng()).prompt_tokens.tolist()) == {40, 50}


def test_a_prompt_shares_the_full_blocks_of_the_turn_before() -> None:
    blocks = CONVERSATIONS.blocks(turns([40, 33, 60, 64, 90], [0, 1, 0, 0, 0]))
    assert blocks == (
        (0, 1, 2),  # two full blocks and one of its own
        (0, 3, 4),  # another conversation: only the system prompt is shared
        (0, 1, 5, 6),  # two full blocks of 40 tokens, then 60 tokens have three
        (0, 1, 5, 7),  # 60 tokens had three full blocks
        (0, 1, 5, 7, 8, 9),  # 64 tokens are four full blocks
    )


def test_prompts_have_one_block_per_begun_block_of_tokens() -> None:
    drawn = CONVERSATIONS.draw(1000, 2.0, LENGTHS, rng())
    counts = [len(row) for row in CONVERSATIONS.blocks(drawn)]
    assert counts == np.ceil(drawn.prompt_tokens / 16).tolist()


def test_a_prompt_shorter_than_the_system_prompt_has_a_part_of_it() -> None:
    longer = replace(CONVERSATIONS, shared_blocks=4)
    assert longer.blocks(turns([20, 20], [0, 0])) == ((0, 1), (0, 1))
