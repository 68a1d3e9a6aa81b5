"""Messages about rows and records that hold no request, or one that is too long."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trace_contents import HEADER, MOONCAKE, ROW
from tests.traces import columns, read, refusal

STAMP = "a time such as 2023-11-16 18:15:46.6805900, with or without an offset such as +00:00"
TOKENS = "a whole number of at most 10000000 tokens"
LENGTHS = {"input_length": 6, "output_length": 2}
OVERLONG = HEADER + ROW + "2023-11-16 18:15:50,90,10\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + ROW + "yesterday,1,2\n", f"line 3, TIMESTAMP: expected {STAMP}, got 'yesterday'"),
        (
            HEADER + "2023-02-30 00:00:00,1,2\n",
            f"line 2, TIMESTAMP: expected {STAMP}, got '2023-02-30 00:00:00'",
        ),
        (
            HEADER + ROW + "2023-11-16 18:15:47,37x,44\n",
            f"line 3, ContextTokens: expected {TOKENS}, got '37x'",
        ),
        (
            HEADER + "2023-11-16 18:15:47,37,\n",
            f"line 2, GeneratedTokens: expected {TOKENS}, got ''",
        ),
        (
            HEADER + "2023-11-16 18:15:47,1_0,4\n",
            f"line 2, ContextTokens: expected {TOKENS}, got '1_0'",
        ),
        (
            HEADER + "2023-11-16 18:15:47,37.5,4\n",
            f"line 2, ContextTokens: expected {TOKENS}, got '37.5'",
        ),
        (
            HEADER + "2023-11-16 18:15:47,99999999,4\n",
            f"line 2, ContextTokens: expected {TOKENS}, got '99999999'",
        ),
        (
            HEADER + "2023-11-16 18:15:47,37\n",
            "line 2: expected 3 cells as in the header, got 2",
        ),
        (HEADER + 'a,"b,c', "line 2: not CSV: unexpected end of data"),
        (
            "arrived_at,num_prefill_tokens,num_decode_tokens\nnan,1,2\n",
            "line 2, arrived_at: expected a time as a number, got 'nan'",
        ),
        (
            "arrived_at,num_prefill_tokens,num_decode_tokens\n1e300,1,2\n",
            "line 2, arrived_at: expected a time as a number, got '1e300'",
        ),
    ],
)
def test_a_bad_cell_is_named_with_its_line_and_column(
    tmp_path: Path, text: str, message: str
) -> None:
    assert refusal(tmp_path, "t.csv", text) == f"t.csv {message}"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (LENGTHS | {"timestamp": "5"}, "timestamp: expected a time as a number, got '5'"),
        (LENGTHS | {"timestamp": True}, "timestamp: expected a time as a number, got True"),
        (LENGTHS | {"timestamp": 10**400}, None),
        (
            {"timestamp": 0, "output_length": 2},
            f"input_length: expected {TOKENS}, but it is missing",
        ),
        (
            {"timestamp": 0, "input_length": 2.5, "output_length": 2},
            f"input_length: expected {TOKENS}, got 2.5",
        ),
        (
            {"timestamp": 0, "input_length": 2, "output_length": "2"},
            f"output_length: expected {TOKENS}, got '2'",
        ),
        (
            LENGTHS | {"timestamp": 0, "hash_ids": "x"},
            "hash_ids: expected a list of whole numbers, got 'x'",
        ),
        (
            LENGTHS | {"timestamp": 0, "hash_ids": [1, "x"]},
            "hash_ids: expected a list of whole numbers, got a list",
        ),
        (
            LENGTHS | {"timestamp": 0, "session_id": [1]},
            "session_id: expected a text or a whole number, got a list",
        ),
    ],
)
def test_a_bad_value_is_named_with_its_line_and_key(
    tmp_path: Path, record: dict[str, Any], message: str | None
) -> None:
    found = refusal(tmp_path, "t.jsonl", MOONCAKE + json.dumps(record))
    if message is None:  # as long as the number
        assert found.startswith("t.jsonl line 2, timestamp: expected a time as a number, got 1000")
    else:
        assert found == f"t.jsonl line 2, {message}"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"custom_id": "1", "body": []}, "body: expected an object, got a list"),
        (
            {"custom_id": "1", "body": {"prompt": "x"}},
            f"max_tokens: expected {TOKENS}, but it is missing",
        ),
        (
            {"custom_id": "1", "body": {"messages": "x", "max_tokens": 5}},
            "messages: expected a list of objects, got 'x'",
        ),
        (
            {"custom_id": "1", "body": {"messages": [{"content": 5}], "max_tokens": 5}},
            "content: expected a text, got 5",
        ),
        (
            {"custom_id": "1", "body": {"max_tokens": 5}},
            "body.prompt: expected a text, but it is missing",
        ),
        ({"prompt": "x"}, f"output_tokens: expected {TOKENS}, but it is missing"),
        ({"conversations": {}}, "conversations: expected a list of objects, got a mapping"),
        (
            {"conversations": [{"value": "x"}, {"from": "gpt"}]},
            "value: expected a text, but it is missing",
        ),
        (
            {"timestamp": 5, "event": {"schema": "other"}},
            "event: expected an event of the schema dynamo.request.trace, got a mapping",
        ),
        ({"input_toks": 5}, "arrival_time_ns: expected a time as a number, but it is missing"),
        (
            {"timestamp": 5, "requests": [5]},
            "requests: expected a list of objects, got a list",
        ),
        (
            {"chat_id": 1, "parent_chat_id": -1} | LENGTHS,
            "timestamp: expected a time as a number, but it is missing",
        ),
    ],
)
def test_records_of_every_format_say_what_they_lack(
    tmp_path: Path, record: dict[str, Any], message: str
) -> None:
    found = refusal(tmp_path, "t.jsonl", json.dumps(record), chars_per_token=4.0)
    assert found == f"t.jsonl line 1, {message}"


def test_turns_of_prompts_say_what_to_convert_to(tmp_path: Path) -> None:
    text = '{"session_id": "a", "turns": []}'
    assert refusal(tmp_path, "t.jsonl", text, chars_per_token=4.0) == (
        "t.jsonl line 1: turns of prompts have no output lengths; convert each to an object with "
        "prompt and output_tokens"
    )


def test_times_for_some_requests_only_are_refused(tmp_path: Path) -> None:
    text = MOONCAKE + '{"input_length": 6, "output_length": 2}\n'
    assert refusal(tmp_path, "t.jsonl", text) == (
        "t.jsonl: expected a time for every request or for none, got 1 times for 2 requests"
    )


def test_more_blocks_than_tokens_are_refused(tmp_path: Path) -> None:
    text = '{"timestamp": 0, "input_length": 6, "output_length": 2, "hash_ids": [1, 2]}'
    assert refusal(tmp_path, "t.jsonl", text) == (
        "t.jsonl: expected blocks of at least 16 tokens, got 2 for a prompt of 6 tokens"
    )


def test_more_blocks_than_a_stated_size_allows_are_left_out_with_a_note(tmp_path: Path) -> None:
    text = (
        '{"chat_id": 1, "parent_chat_id": -1, "timestamp": 0, "input_length": 17, '
        '"output_length": 2, "hash_ids": [1, 2, 3]}'
    )
    workload = read(tmp_path, "t.jsonl", text)
    assert workload.prefix_blocks == ((1, 2),)
    assert "prompts cut to the blocks they have tokens for: 1 of 1" in workload.notes


def test_one_row_is_a_workload_without_a_rate(tmp_path: Path) -> None:
    workload = read(tmp_path, "t.csv", HEADER + ROW)
    assert columns(workload) == ([0.0], [374], [44])
    assert workload.notes[-1] == "only one request: it has no rate"


def test_overlong_requests_are_refused_with_counts_dropped_or_cut(tmp_path: Path) -> None:
    options: dict[str, Any] = {"longest_context_tokens": 200}
    assert refusal(tmp_path, "t.csv", OVERLONG, **options) == (
        "t: 1 of 2 requests exceed the longest context of 200 tokens, the longest takes 418; give "
        "--overlong drop or --overlong truncate"
    )
    dropped = read(tmp_path, "t.csv", OVERLONG, overlong="drop", **options)
    assert columns(dropped)[1:] == ([90], [10])
    assert dropped.notes[-1] == "dropped as longer than 200 tokens: 1 of 2"
    cut = read(tmp_path, "t.csv", OVERLONG, overlong="truncate", **options)
    assert columns(cut)[1:] == ([156, 90], [44, 10])
    fitting = read(tmp_path, "t.csv", OVERLONG, longest_context_tokens=418)
    assert columns(fitting)[1:] == ([374, 90], [44, 10])
