"""What is said about a trace that cannot be read."""

import bz2
import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.errors import InputError
from llmpq_sim.trace_readers.loading import load_trace
from tests.traces import columns, read, refusal, rng

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = "2023-11-16 18:15:46.6805900,374,44\n"
MOONCAKE = '{"timestamp": 0, "input_length": 6, "output_length": 2}\n'
KNOWN = (
    "openai-batch, bailian, llmservingsim, aibrix, dynamo-request-trace, sharegpt, mooncake, "
    "lengths, prompts, trace_synthetic, azure, burstgpt, vidur, splitwise-sim, blis, servegen"
)
STAMP = "a time such as 2023-11-16 18:15:46.6805900, with or without an offset such as +00:00"
TOKENS = "a whole number of at most 10000000 tokens"
CONVERT = (
    "cannot be replayed; convert it to JSON lines such as "
    '{"timestamp": 1500, "input_length": 512, "output_length": 64}, with the time in ms'
)


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


def test_columns_that_are_no_format_are_listed(tmp_path: Path) -> None:
    assert refusal(tmp_path, "t.csv", "a,b\n1,2\n") == (
        f"t.csv: no known trace format has the columns a, b; known are {KNOWN}"
    )
    assert refusal(tmp_path, "t.csv", "a,b\n1,2\n", trace_format="azure") == (
        "t.csv: expected the columns TIMESTAMP, ContextTokens, GeneratedTokens; missing are "
        "TIMESTAMP, ContextTokens, GeneratedTokens among a, b"
    )
    twice = HEADER.strip() + ",timestamp\n"
    assert refusal(tmp_path, "t.csv", twice) == (
        "t.csv: expected distinct columns, got TIMESTAMP, ContextTokens, GeneratedTokens, timestamp"
    )


def test_keys_that_are_no_format_are_listed(tmp_path: Path) -> None:
    assert refusal(tmp_path, "t.jsonl", '{"a": 1, "b": 2}') == (
        f"t.jsonl: no known trace format has records with the keys a, b; known are {KNOWN}"
    )
    assert refusal(tmp_path, "t.jsonl", "[]") == (
        f"t.jsonl: no known trace format has records with the keys none; known are {KNOWN}"
    )


def test_an_unknown_format_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    assert refusal(tmp_path, "t.csv", HEADER + ROW, trace_format="azur") == (
        f"--trace-format: expected one of {KNOWN}, got 'azur'"
    )


LENGTHS = {"input_length": 6, "output_length": 2}


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
    ("text", "message"),
    [
        ("{broken\n", "line 2: not JSON: Expecting property name enclosed in double quotes, near"),
        ('{"a": 1', "line 2: not JSON: Expecting ',' delimiter, near"),
        ("[1, 2]\n", "line 2: expected an object, got '1, 2]"),
        ("{}{}\n5\n", "line 2, input_length: expected"),
        (MOONCAKE.replace(": 6", ": NaN"), "line 2: expected finite numbers, got NaN"),
        ('{"a": ' + "[" * 100_000, "line 2: expected less deeply nested JSON"),
        (MOONCAKE.replace("6", "9" * 5000), "line 2: Exceeds the limit (4300 digits)"),
    ],
)
def test_what_is_not_json_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, "t.jsonl", MOONCAKE + text).startswith(f"t.jsonl {message}")


def test_the_line_of_an_error_is_right_far_into_a_file(tmp_path: Path) -> None:
    text = MOONCAKE * 20_000 + '{"timestamp": 0,, }\n' + MOONCAKE * 20_000
    message = "t.jsonl line 20001: not JSON: Expecting property name enclosed in double quotes"
    assert refusal(tmp_path, "t.jsonl", text).startswith(message)


def test_a_line_that_never_ends_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    endless = MOONCAKE + '{"text": "' + "x" * (17 * 1024**2)
    assert refusal(tmp_path, "t.jsonl", endless) == (
        "t.jsonl line 2: expected a record of at most 16 MiB, got more"
    )
    endless = HEADER + ROW + "x" * (17 * 1024**2)
    assert refusal(tmp_path, "t.csv", endless) == (
        "t.csv line 3: expected a record of at most 16 MiB, got more"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected requests, but the file is empty"),
        (b" \n\n", "expected requests, but the file is empty"),
        (b"\xef\xbb\xbf\n", "expected requests, but the file is empty"),
        (HEADER.encode(), "expected requests, got no rows"),
        (
            HEADER.encode() + b"2023-11-16 18:15:47,5,0\n2023-11-16 18:15:47,-5,1\n",
            "expected requests, got 2 rows, 1 without output tokens, 1 with a negative number of "
            "tokens",
        ),
        (b"\x7fELF\0\0", "expected a trace as text, got a binary file"),
        (
            b"PAR1\0",
            "expected a trace as text, got a parquet file; convert it to CSV with the same columns",
        ),
        (b"PK\x03\x04", "expected a trace as text, got a zip archive; unpack it"),
        (bz2.compress(b"x"), "expected a trace as text, got a file packed by bzip2; unpack it"),
        (
            HEADER.encode() + b"2023-11-16 18:15:47,\xff,1\n",
            "expected UTF-8 text, got byte 0xff at offset 60",
        ),
        (b"trace_version: 2\n", "this is the header of a BLIS trace; give its CSV file"),
        (b"a\rb\rc\n", None),
    ],
)
def test_a_file_that_holds_no_trace_says_what_it_is(
    tmp_path: Path, content: bytes, message: str | None
) -> None:
    found = refusal(tmp_path, "t.csv", content)
    if message is None:
        assert found.startswith("t.csv: no known trace format has the columns a; known are")
    else:
        assert found == f"t.csv: {message}"


def test_the_offset_of_a_bad_byte_is_right_across_pieces(tmp_path: Path) -> None:
    text = MOONCAKE.replace("}", ', "text": "é"}') * 10_000
    content = text.encode() + b'{"\xc3('
    found = f"byte 0xc3 at offset {len(text.encode()) + 2}"
    assert refusal(tmp_path, "t.jsonl", content) == f"t.jsonl: expected UTF-8 text, got {found}"


def test_a_packed_file_that_is_cut_short_is_told(tmp_path: Path) -> None:
    packed = gzip.compress((MOONCAKE * 50_000).encode())
    (tmp_path / "t.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError) as caught:
        load_trace(tmp_path / "t.jsonl.gz", rng=rng())
    assert str(caught.value) == (
        "t.jsonl.gz: the packed file is damaged or cut short (Compressed file ended before the "
        "end-of-stream marker was reached); fetch it again"
    )


def test_a_packed_file_that_is_damaged_is_told(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(MOONCAKE.encode()))
    packed[-6] ^= 1  # the checksum
    (tmp_path / "t.jsonl.gz").write_bytes(packed)
    with pytest.raises(InputError) as caught:
        load_trace(tmp_path / "t.jsonl.gz", rng=rng())
    assert str(caught.value).startswith(
        "t.jsonl.gz: the packed file is damaged or cut short (CRC check failed"
    )


def test_a_missing_file_and_a_pipe_are_named(tmp_path: Path) -> None:
    missing, pipe = tmp_path / "t.csv", tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, message in (
        (missing, f"cannot read {missing}: No such file or directory"),
        (pipe, f"{pipe}: expected a file, got a device or pipe"),
    ):
        with pytest.raises(InputError) as caught:
            load_trace(path, rng=rng())
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"spans": []}, "OpenTelemetry spans"),
        ({"resourceSpans": []}, "OpenTelemetry spans"),
        (
            {"id": 1, "block_size": 64, "requests": [{"t": 0, "in": 5, "out": 6}]},
            "an agentic trace of nested sessions (weka)",
        ),
    ],
)
def test_formats_that_are_not_requests_say_what_to_convert_to(
    tmp_path: Path, record: dict[str, Any], what: str
) -> None:
    assert refusal(tmp_path, "t.json", json.dumps(record)) == f"t.json: {what} {CONVERT}"


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


def test_a_unit_of_what_has_no_times_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, "t.csv", HEADER + ROW, time_unit="ms") == (
        "--time-unit: the times of t.csv are dates"
    )
    lengths = "input_length,output_length\n5,6\n"
    assert refusal(tmp_path, "t.csv", lengths, time_unit="ms") == "--time-unit: t.csv has no times"
    assert refusal(tmp_path, "t.csv", lengths, time_unit="h") == (
        "--time-unit: expected one of s, ms, us, ns, got 'h'"
    )


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    message = "--limit: expected at least 1 request, got 0"
    assert refusal(tmp_path, "t.csv", HEADER + ROW, limit=0) == message


def test_one_row_is_a_workload_without_a_rate(tmp_path: Path) -> None:
    workload = read(tmp_path, "t.csv", HEADER + ROW)
    assert columns(workload) == ([0.0], [374], [44])
    assert workload.notes[-1] == "only one request: it has no rate"


OVERLONG = HEADER + ROW + "2023-11-16 18:15:50,90,10\n"


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


def test_an_archive_without_clients_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("README"), io.BytesIO(b""))
    assert refusal(tmp_path, "t.tar", content.getvalue()) == (
        "t.tar: expected one folder with files chunk-<n>-trace.csv and chunk-<n>-dataset.json, got "
        "none"
    )
