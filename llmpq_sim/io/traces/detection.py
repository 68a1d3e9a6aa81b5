"""Detection of a trace's format from its first 64 KiB.

Packages add formats by entry points of the group ``llmpq.trace_formats``, each a ``TraceFormat``
under its own name. They are tried after those that ship, and loaded only then.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.extensions import ExtensionPoint
from llmpq_sim.io.traces import csv_formats, json_formats, text_formats
from llmpq_sim.io.traces.collecting import TimeUnit
from llmpq_sim.io.traces.csv_formats import CsvColumns, csv_rows, has_columns, header_cells
from llmpq_sim.io.traces.json_records import keys_of_first_record
from llmpq_sim.io.traces.named_columns import (
    AIPERF,
    HOW,
    LITELLM,
    OPENAI_USAGE,
    OPENTELEMETRY,
    TIMED_LENGTHS,
    TOKENS,
    NamedColumns,
    columns_from_text,
    named_csv_rows,
    named_json_rows,
)
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
        kind: ``json`` for records, ``csv`` for columns below a header.
        unit_by_size: whether times may be dates, or numbers whose size tells their unit.
    """

    name: str
    rows: Callable[[Reading], Iterator[Row]]
    matches: Callable[[Names], bool]
    unit: TimeUnit | None = None
    unit_by_content: bool = False
    block_tokens: int | None = None
    in_ticks: bool = False
    kind: Literal["json", "csv"] = "json"
    unit_by_size: bool = False


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


def named_format(name: str, columns: NamedColumns, kind: Literal["json", "csv"]) -> TraceFormat:
    """Return the format of files in which something is called so."""
    rows = partial(named_json_rows if kind == "json" else named_csv_rows, columns)
    return TraceFormat(name, rows, columns.fit, "s", kind=kind, unit_by_size=True)


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
    named_format("aiperf", AIPERF, "json"),
    named_format("litellm", LITELLM, "json"),
    named_format("openai-usage", OPENAI_USAGE, "json"),
    named_format("opentelemetry", OPENTELEMETRY, "json"),
    named_format("tokens", TOKENS, "json"),
    TraceFormat("prompts", text_formats.prompt_rows, _is_prompts),
)
"""In the order in which they are tried."""

BY_NAME_ONLY = (TraceFormat("trace_synthetic", json_formats.mooncake_rows, lambda _: False, "s"),)
"""Formats that look like another: GuideLLM's and vLLM's timed traces are Mooncake's in seconds."""


def csv_format(name: str, columns: CsvColumns, unit: TimeUnit | None) -> TraceFormat:
    """Return the format of CSV files with these columns."""
    rows, matches = partial(csv_rows, columns), partial(has_columns, columns)
    return TraceFormat(name, rows, matches, unit, kind="csv")


CSV_FORMATS = (
    csv_format("azure", csv_formats.AZURE, "ns"),
    csv_format("burstgpt", csv_formats.BURSTGPT, "s"),
    csv_format("vidur", csv_formats.VIDUR, "s"),
    csv_format("splitwise-sim", csv_formats.SPLITWISE_SIM, "s"),
    csv_format("blis", csv_formats.BLIS, "us"),
    named_format("litellm", LITELLM, "csv"),
    named_format("opentelemetry", OPENTELEMETRY, "csv"),
    named_format("tokens", TOKENS, "csv"),
    named_format("timed-lengths", TIMED_LENGTHS, "csv"),
    csv_format("lengths", csv_formats.LENGTHS, None),
)
FORMATS = (*JSON_FORMATS, *BY_NAME_ONLY, *CSV_FORMATS)
KINDS = {"json": "JSON", "csv": "CSV"}
SERVEGEN = "servegen"
BUNDLED = (*dict.fromkeys(item.name for item in FORMATS), SERVEGEN)
TRACE_FORMATS = ExtensionPoint("llmpq.trace_formats", "trace format")
CONVERT = (
    "convert it to JSON lines such as "
    '{"timestamp": 1500, "input_length": 512, "output_length": 64}, with the time in ms'
)
REFUSED = (
    (_has("spans"), "OpenTelemetry spans"),
    (_has("resourceSpans"), "OpenTelemetry spans"),
    (_has("id", "requests"), "an agentic trace of nested sessions (weka)"),
)
MESSAGES = (
    "records of messages hold texts without token counts or times: count the tokens with the "
    "model's tokenizer, and "
)
MAGICS = (
    (b"PAR1", "a parquet file; convert it to CSV with the same columns"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\x28\xb5\x2f\xfd", "a file packed by zstd; unpack it"),
    (b"BZh", "a file packed by bzip2; unpack it"),
    (b"\xfd7zXZ\x00", "a file packed by xz; unpack it"),
)


class KnownFormat(NamedTuple):
    """What is said of a format that can be read: the kind of its files, and how times are told."""

    name: str
    kind: str
    times: str


def known_formats() -> list[KnownFormat]:
    """Return every format that can be read; those of packages are not loaded for it."""
    known = []
    for name in dict.fromkeys(item.name for item in FORMATS):
        items = [item for item in FORMATS if item.name == name]
        kinds = " or ".join(KINDS[item.kind] for item in items)
        known.append(KnownFormat(name, kinds, _times(items[-1])))
    known.append(KnownFormat(SERVEGEN, "folder or tar", "drawn"))
    return known + [KnownFormat(name, "of a package", "") for name in _offered()]


def _times(item: TraceFormat) -> str:
    if item.name == "azure":
        return "dates"
    if item.unit_by_size:
        return "dates or s, ms, us, ns"
    return item.unit or "none"


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
        if name not in _offered():
            raise InputError(f"--trace-format: expected one of {_known()}, got {name!r}")
        return _loaded(name)
    return named[0] if len(named) == 1 or _head_text(path)[0] in "[{" else named[-1]


def format_of_columns(text: str, path: Path) -> TraceFormat:
    """Return the format of a file whose columns the user named.

    Raises:
        InputError: the text names no columns, or the file is no text.
    """
    columns = columns_from_text(text)
    return named_format("columns", columns, "json" if _head_text(path)[0] in "[{" else "csv")


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
    for item in chain(CSV_FORMATS, _installed("csv")):
        if item.matches(names):
            return item
    raise InputError(
        f"{path.name}: no known trace format has the columns {', '.join(header)[:200]}; name yours "
        f"as in {HOW}; known are {_known()}"
    )


def _json_format(keys: Names, name: str) -> TraceFormat:
    for matches, what in REFUSED:
        if matches(keys) and "timestamp" not in keys:
            raise InputError(f"{name}: {what} cannot be replayed; {CONVERT}")
    for item in chain(JSON_FORMATS, _installed("json")):
        if item.matches(keys):
            return item
    if "messages" in keys:
        raise InputError(f"{name}: {MESSAGES}{CONVERT}")
    found = ", ".join(sorted(keys)[:12]) or "none"
    raise InputError(
        f"{name}: no known trace format has records with the keys {found}; name yours as in {HOW}; "
        f"known are {_known()}"
    )


def _known() -> str:
    """Return the names of all formats; packages are not loaded for it."""
    return ", ".join((*BUNDLED, *_offered()))


def _offered() -> list[str]:
    """Return what packages offer, by name; a name that ships stays what it is."""
    return [name for name in TRACE_FORMATS.names() if name not in BUNDLED]


def _loaded(name: str) -> TraceFormat:
    """Return the format that a package offers.

    Raises:
        InputError: the package cannot be imported, or offers something else.
    """
    item = TRACE_FORMATS.load(name)
    if not isinstance(item, TraceFormat) or item.name != name:
        raise TRACE_FORMATS.unfit(name, "a TraceFormat of this name", item)
    return item


def _installed(kind: str) -> Iterator[TraceFormat]:
    """Yield the formats of packages, loaded when it is their turn."""
    for name in _offered():
        item = _loaded(name)
        if item.kind == kind:
            yield item


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
