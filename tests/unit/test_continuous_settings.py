from typing import Any

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.records import from_dict, to_dict
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from tests.serving import limits


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"token_budget": 0}, "token_budget: expected at least 1, got 0"),
        ({"sequence_limit": 0}, "sequence_limit: expected at least 1, got 0"),
        ({"block_tokens": -1}, "block_tokens: expected at least 1, got -1"),
        (
            {"longest_context_tokens": 1},
            "longest_context_tokens: expected at least 2 (a prompt and an output token), got 1",
        ),
        (
            {"sequence_limit": 9},
            "sequence_limit: expected at most the token budget of 8, so that every sequence can "
            "decode in one batch, got 9",
        ),
        (
            {"chunked_prefill": False},
            "token_budget: expected at least the longest context of 64 tokens where prompts are "
            "not cut, got 8; raise it or use chunked prefill",
        ),
        ({"chunk_tokens": 0}, "chunk_tokens: expected at least 1, got 0"),
        ({"batches_in_flight": 0}, "batches_in_flight: expected at least 1, got 0"),
        (
            {"token_budget": 64, "chunked_prefill": False, "chunk_tokens": 16},
            "chunk_tokens: expected none where prompts are not cut, got 16; leave it out or use "
            "chunked prefill",
        ),
    ],
)
def test_limits_that_contradict_each_other_are_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        limits(**fields)
    assert str(caught.value) == message


def test_more_batches_than_stages_are_refused() -> None:
    assert limits().most_in_flight(3) == 3
    assert limits(batches_in_flight=2).most_in_flight(3) == 2
    with pytest.raises(InputError) as caught:
        limits(batches_in_flight=4).most_in_flight(3)
    assert str(caught.value) == (
        "batches_in_flight: expected at most 3, the stages of the plan, as each computes one batch "
        "at a time, got 4"
    )


def test_a_block_begun_is_a_block_taken() -> None:
    assert [limits().blocks(tokens) for tokens in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_files_hold_choices_that_differ_from_those_of_old_files() -> None:
    old = to_dict(limits())
    assert not old.keys() & {"admission", "chunk_tokens", "batches_in_flight"}
    for settings in (
        limits(),
        limits(admission="no-evict", chunk_tokens=6, batches_in_flight=2),
    ):
        assert from_dict(ContinuousSettings, Fields(to_dict(settings), "file")) == settings
