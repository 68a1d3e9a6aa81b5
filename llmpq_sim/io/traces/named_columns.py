"""Rows by the names of their columns or keys: logs of servers and clients, and what users name.

A name may be a path into nested JSON, such as ``usage.prompt_tokens``. Times are dates, or numbers
since 1970 in a unit that their size tells, or plain seconds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.traces.collecting import TimeUnit
from llmpq_sim.io.traces.csv_formats import cell_records
from llmpq_sim.io.traces.json_records import Record
from llmpq_sim.io.traces.rows import (
    Place,
    Reading,
    Row,
    cell_time,
    cell_tokens,
    json_time,
    json_tokens,
)
from llmpq_sim.io.traces.stamps import is_stamp, stamp_ns

Lookup = Callable[[str], object]

HOW = "--columns time=TIMESTAMP,prompt=usage.prompt_tokens,output=usage.completion_tokens"
SINCE_1970: tuple[tuple[TimeUnit, float], ...] = (
    ("s", 1e9),
    ("ms", 1e12),
    ("us", 1e15),
    ("ns", 1e18),
)
"""About the present in each unit: seconds since 1970 have ten digits from 2001 to 2286."""

LATEST = 10**19
"""Nanoseconds from 1970 to 2286."""


@dataclass(frozen=True)
class NamedColumns:
    """What the columns of a format are called; each may have several names.

    Attributes:
        prompt, output: tokens.
        time: arrival.
        time_optional: whether files without the time exist.
    """

    prompt: tuple[str, ...]
    output: tuple[str, ...]
    time: tuple[str, ...] = ()
    time_optional: bool = True

    def fit(self, names: frozenset[str]) -> bool:
        """Return whether a file has what is needed, given its columns or its outermost keys."""
        lower = {name.lower() for name in names}

        def has(wanted: tuple[str, ...]) -> bool:
            return any({each.lower(), each.lower().split(".")[0]} & lower for each in wanted)

        return has(self.prompt) and has(self.output) and (self.time_optional or has(self.time))


LITELLM = NamedColumns(("prompt_tokens",), ("completion_tokens",), ("startTime",), False)
OPENAI_USAGE = NamedColumns(
    ("usage.prompt_tokens", "usage.input_tokens"),
    ("usage.completion_tokens", "usage.output_tokens"),
    ("created", "created_at", "timestamp"),
)
AIPERF = NamedColumns(
    ("metrics.input_sequence_length.value",),
    ("metrics.output_sequence_length.value",),
    ("metadata.request_start_ns",),
    False,
)
OPENTELEMETRY = NamedColumns(
    ("gen_ai.usage.input_tokens", "attributes.gen_ai.usage.input_tokens"),
    ("gen_ai.usage.output_tokens", "attributes.gen_ai.usage.output_tokens"),
    ("start_time", "startTimeUnixNano", "timestamp"),
)
TOKENS = NamedColumns(
    ("prompt_tokens",),
    ("completion_tokens",),
    ("timestamp", "time", "arrival_time", "start_time", "created", "created_at"),
)
TIMED_LENGTHS = NamedColumns(
    ("input_length", "input_tokens"), ("output_length", "output_tokens"), TOKENS.time, False
)


def columns_from_text(text: str) -> NamedColumns:
    """Return the columns of ``--columns``, such as ``time=ts,prompt=in,output=out``.

    Raises:
        InputError: it names something else, or leaves out the tokens.
    """
    named: dict[str, str] = {}
    for part in text.split(","):
        key, separator, name = (piece.strip() for piece in part.partition("="))
        if key not in ("time", "prompt", "output") or not separator or not name or key in named:
            raise InputError(
                f"--columns: expected time, prompt and output as in {HOW}, got {text!r}"
            )
        named[key] = name
    if missing := [key for key in ("prompt", "output") if key not in named]:
        raise InputError(f"--columns: expected {' and '.join(missing)} as in {HOW}, got {text!r}")
    time = (named["time"],) if "time" in named else ()
    return NamedColumns((named["prompt"],), (named["output"],), time, time_optional=not time)


def unit_by_size(time: float) -> TimeUnit:
    """Return the unit in which a time counts from 1970, or seconds where it counts from a start."""
    return next((unit for unit, now in SINCE_1970 if now <= time < 10 * now), "s")


def named_csv_rows(columns: NamedColumns, reading: Reading) -> Iterator[Row]:
    """Yield the rows of a CSV file; those without tokens are failed requests.

    Raises:
        InputError: no row states its tokens, or a cell says something that cannot be.
    """
    records = cell_records(reading)
    return _rows(columns, reading, ((place, cells, _cell) for place, cells in records))


def named_json_rows(columns: NamedColumns, reading: Reading) -> Iterator[Row]:
    """Yield the rows of a file of JSON records; those without tokens are failed requests.

    Raises:
        InputError: no record states its tokens, or a value is something that cannot be.
    """
    return _rows(columns, reading, ((place, each, value_at) for place, each in reading.records()))


def _rows(
    columns: NamedColumns,
    reading: Reading,
    records: Iterator[tuple[Place, Record, Callable[[Record, str], object]]],
) -> Iterator[Row]:
    known: list[str] = []
    for place, record, look in records:
        known = known or list(record)
        lookup = partial(look, record)
        time = _time(columns, place, lookup, reading)
        prompt = _tokens(columns.prompt, place, lookup, reading)
        yield Row(time, prompt, _tokens(columns.output, place, lookup, reading))
    wanted = [
        names for names in (columns.prompt, columns.output) if reading.found.isdisjoint(names)
    ]
    if known and wanted:
        raise InputError(
            f"{reading.path.name}: no row has tokens in "
            f"{' and '.join(' or '.join(names) for names in wanted)}; the first row has "
            f"{', '.join(known)[:200]}; name others as in {HOW}"
        )


def _cell(cells: Record, name: str) -> object:
    return cells.get(name.lower())


def value_at(record: Record, path: str) -> object:
    """Return the value under a key, or under keys joined by dots in nested records, or None."""
    if path in record:
        return record[path]
    for end in (number for number, character in enumerate(path) if character == "."):
        inner = record.get(path[:end])
        if isinstance(inner, dict) and (found := value_at(inner, path[end + 1 :])) is not None:
            return found
    return None


def _tokens(names: tuple[str, ...], place: Place, lookup: Lookup, reading: Reading) -> int:
    """Return the tokens under the first of these names; 0 where a failed request has none."""
    for name in names:
        value = lookup(name)
        if value is None or value == "":
            continue
        reading.found.add(name)
        if isinstance(value, str):
            return cell_tokens(value, name, place)
        return json_tokens({name: value}, (name,), place)
    return 0


def _time(columns: NamedColumns, place: Place, lookup: Lookup, reading: Reading) -> float | None:
    found = ((name, lookup(name)) for name in columns.time)
    name, value = next(
        ((name, value) for name, value in found if value not in (None, "")), ("", None)
    )
    if value is None:
        if columns.time and not columns.time_optional:
            raise place.wrong(columns.time[0], "a time", None)
        return None
    dated = isinstance(value, str) and is_stamp(value)
    if reading.dated is None:
        reading.dated = dated
    if dated != reading.dated:
        expected = "a date" if reading.dated else "a number"
        raise place.wrong(name, f"{expected}, as in the rows before", value)
    if isinstance(value, str):
        return stamp_ns(value, name, place) if dated else _number(value, name, place)
    if type(value) is int and abs(value) < LATEST:
        return value
    return json_time({name: value}, (name,), place)


def _number(cell: str, name: str, place: Place) -> float:
    """Return the time of a cell; nanoseconds since 1970 have more digits than other times."""
    digits = cell.strip()
    is_whole = digits.isascii() and digits.isdigit() and len(digits) <= len(str(LATEST))
    return int(digits) if is_whole else cell_time(cell, name, place)
