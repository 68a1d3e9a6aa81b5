"""Detection of a trace's format from its first 64 KiB."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.traces import csv_formats, json_formats, text_formats
from llmpq_sim.io.traces.collecting import TimeUnit
from llmpq_sim.io.traces.csv_formats import CsvColumns, csv_rows, has_columns, header_cells
from llmpq_sim.io.traces.json_records import keys_of_first_record
from llmpq_sim.io.traces.rows import Reading, Row
from llmpq_sim.io.traces.streams import GZIP_MAGIC, read_head

Names = frozenset[str]


@dataclass(frozen=True)
class TraceFormat:
    """A format that can be read.

    Attributes:
        name: what ``--trace-format`` calls it.
        rows: reads a file's rows.
        matches: whether the keys of a file's first record, or its columns in lower case, are this
            format's.
        unit: of times, or None where there are none.
        unit_by_content: whether the unit is seconds instead where stamps have fractions and no
            prompt has blocks.
        block_tokens: tokens of a block of a prompt, where the format fixes them.
        in_ticks: whether repeated stamps are ticks of a recorder rather than arrivals at once.
    """

    name: str
    rows: Callable[[Reading], Iterator[Row]]
    matches: Callable[[Names], bool]
    unit: TimeUnit | None = None
    unit_by_content: bool = False
    block_tokens: int | None = None
    in_ticks: bool = False


def _has(*needed: str) -> Callable[[Names], bool]:
    return frozenset(needed).issubset


def _states_lengths(keys: Names) -> bool:
    prompts, outputs = json_formats.PROMPT_KEYS, json_formats.OUTPUT_KEYS
    return not keys.isdisjoint(prompts) and not keys.isdisjoint(outputs)


def _is_mooncake(keys: Names) -> bool:
    times = {*json_formats.TIME_KEYS, *json_formats.DELAY_KEYS, "hash_ids", "session_id"}
    return _states_lengths(keys) and not keys.isdisjoint(times)


def _is_llmservingsim(keys: Names) -> bool:
    return "input_toks" in keys or "sub_requests" in keys


def _is_prompts(keys: Names) -> bool:
    return not keys.isdisjoint((*text_formats.PROMPT_KEYS, "turns"))


JSON_FORMATS = (
    TraceFormat("openai-batch", text_formats.openai_batch_rows, _has("custom_id", "body")),
    TraceFormat(
        "bailian",
        json_formats.bailian_rows,
        _has("chat_id", "parent_chat_id"),
        "s",
        block_tokens=16,
    ),
    TraceFormat("llmservingsim", json_formats.llmservingsim_rows, _is_llmservingsim, "ns"),
    TraceFormat("aibrix", json_formats.aibrix_rows, _has("timestamp", "requests"), "ms"),
    TraceFormat("dynamo-request-trace", json_formats.dynamo_rows, _has("event"), "ms"),
    TraceFormat("sharegpt", text_formats.sharegpt_rows, _has("conversations")),
    TraceFormat(
        "mooncake",
        json_formats.mooncake_rows,
        _is_mooncake,
        "ms",
        unit_by_content=True,
        in_ticks=True,
    ),
    TraceFormat("lengths", json_formats.length_rows, _states_lengths),
    TraceFormat("prompts", text_formats.prompt_rows, _is_prompts),
)
"""In the order in which they are tried."""

BY_NAME_ONLY = (TraceFormat("trace_synthetic", json_formats.mooncake_rows, lambda _: False, "s"),)
"""Formats that look like another: GuideLLM's and vLLM's timed traces are Mooncake's in seconds."""


def _of_csv(name: str, columns: CsvColumns, unit: TimeUnit | None) -> TraceFormat:
    return TraceFormat(name, partial(csv_rows, columns), partial(has_columns, columns), unit)


CSV_FORMATS = (
    _of_csv("azure", csv_formats.AZURE, "ns"),
    _of_csv("burstgpt", csv_formats.BURSTGPT, "s"),
    _of_csv("vidur", csv_formats.VIDUR, "s"),
    _of_csv("splitwise-sim", csv_formats.SPLITWISE_SIM, "s"),
    _of_csv("blis", csv_formats.BLIS, "us"),
    _of_csv("lengths", csv_formats.LENGTHS, None),
)
FORMATS = (*JSON_FORMATS, *BY_NAME_ONLY, *CSV_FORMATS)
KNOWN = ", ".join((*dict.fromkeys(item.name for item in FORMATS), "servegen"))
CONVERT = (
    "convert it to JSON lines such as "
    '{"timestamp": 1500, "input_length": 512, "output_length": 64}, with the time in ms'
)
REFUSED = (
    (_has("spans"), "OpenTelemetry spans"),
    (_has("resourceSpans"), "OpenTelemetry spans"),
    (_has("id", "requests"), "an agentic trace of nested sessions (weka)"),
)
MAGICS = (
    (b"PAR1", "a parquet file; convert it to CSV with the same columns"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\x28\xb5\x2f\xfd", "a file packed by zstd; unpack it"),
    (b"BZh", "a file packed by bzip2; unpack it"),
    (b"\xfd7zXZ\x00", "a file packed by xz; unpack it"),
)


def is_tar(path: Path) -> bool:
    """Return whether a file is a tar archive, packed or not."""
    return read_head(path)[257:262] == b"ustar"


def format_named(name: str, path: Path) -> TraceFormat:
    """Return the format of this name; where it is one of JSON and of CSV, the one the file has.

    Raises:
        InputError: there is none.
    """
    named = [item for item in FORMATS if item.name == name]
    if not named:
        raise InputError(f"--trace-format: expected one of {KNOWN}, got {name!r}")
    return named[0] if len(named) == 1 or _head_text(path)[0] in "[{" else named[-1]


def detected_format(path: Path) -> TraceFormat:
    """Return the format of a file, told from its beginning.

    Raises:
        InputError: it is no text, or of no known format.
    """
    head = _head_text(path)
    if head[0] in "[{":
        return _json_format(keys_of_first_record(head), path.name)
    if head.startswith("trace_version"):
        raise InputError(f"{path.name}: this is the header of a BLIS trace; give its CSV file")
    header = header_cells(head.splitlines()[0], path.name)
    names = frozenset(cell.lower() for cell in header)
    for item in CSV_FORMATS:
        if item.matches(names):
            return item
    raise InputError(
        f"{path.name}: no known trace format has the columns {', '.join(header)[:200]}; known are "
        f"{KNOWN}"
    )


def _json_format(keys: Names, name: str) -> TraceFormat:
    for matches, what in REFUSED:
        if matches(keys) and "timestamp" not in keys:
            raise InputError(f"{name}: {what} cannot be replayed; {CONVERT}")
    for item in JSON_FORMATS:
        if item.matches(keys):
            return item
    found = ", ".join(sorted(keys)[:12]) or "none"
    raise InputError(
        f"{name}: no known trace format has records with the keys {found}; known are {KNOWN}"
    )


def _head_text(path: Path) -> str:
    """Return the beginning of a file as text without leading blanks."""
    head = read_head(path)
    for magic, what in MAGICS:
        if head.startswith(magic):
            raise InputError(f"{path.name}: expected a trace as text, got {what}")
    if b"\0" in head or head.startswith(GZIP_MAGIC):
        raise InputError(f"{path.name}: expected a trace as text, got a binary file")
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    if not text:
        raise InputError(f"{path.name}: expected requests, but the file is empty")
    return text
