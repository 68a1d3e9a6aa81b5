"""Messages about files that hold no trace, and about options that do not fit one."""

import bz2
import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.traces.loading import load_trace
from llmpq_sim.io.traces.named_columns import HOW
from tests.trace_contents import HEADER, MOONCAKE, ROW
from tests.traces import refusal, rng

KNOWN = (
    "openai-batch, bailian, llmservingsim, aibrix, dynamo-request-trace, sharegpt, mooncake, "
    "lengths, aiperf, litellm, openai-usage, opentelemetry, tokens, prompts, trace_synthetic, "
    "azure, burstgpt, vidur, splitwise-sim, blis, timed-lengths, servegen"
)
CONVERT = (
    "cannot be replayed; convert it to JSON lines such as "
    '{"timestamp": 1500, "input_length": 512, "output_length": 64}, with the time in ms'
)


def test_columns_that_are_no_format_are_listed(tmp_path: Path) -> None:
    assert refusal(tmp_path, "t.csv", "a,b\n1,2\n") == (
        f"t.csv: no known trace format has the columns a, b; name yours as in {HOW}; "
        f"known are {KNOWN}"
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
        f"t.jsonl: no known trace format has records with the keys a, b; name yours as in "
        f"{HOW}; known are {KNOWN}"
    )
    assert refusal(tmp_path, "t.jsonl", "[]") == (
        f"t.jsonl: no known trace format has records with the keys none; name yours as in "
        f"{HOW}; known are {KNOWN}"
    )


def test_an_unknown_format_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    assert refusal(tmp_path, "t.csv", HEADER + ROW, trace_format="azur") == (
        f"--trace-format: expected one of {KNOWN}, got 'azur'"
    )


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
        assert found.startswith("t.csv: no known trace format has the columns a; name yours")
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


def test_an_archive_without_clients_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("README"), io.BytesIO(b""))
    assert refusal(tmp_path, "t.tar", content.getvalue()) == (
        "t.tar: expected one folder with files chunk-<n>-trace.csv and chunk-<n>-dataset.json, got "
        "none"
    )
