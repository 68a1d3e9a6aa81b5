"""CSV trace formats: the meaning of each column."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.traces.rows import Place, Reading, Row, cell_time, cell_tokens
from llmpq_sim.io.traces.stamps import is_stamp, stamp_ns
from llmpq_sim.io.traces.streams import text_lines

SEPARATORS = (",", ";", "\t")


@dataclass(frozen=True)
class CsvColumns:
    """Names of the columns of a format, compared without regard to case.

    Attributes:
        prompt, output: tokens.
        time: arrival, or None where requests have none.
        session: what identifies a conversation, or None.
        dated: whether times are dates with a time of day.
        time_optional: whether files without the time exist.
    """

    prompt: str
    output: str
    time: str | None = None
    session: str | None = None
    dated: bool = False
    time_optional: bool = False

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns without which a file is not of this format."""
        time = () if self.time is None or self.time_optional else (self.time,)
        return (*time, self.prompt, self.output)


AZURE = CsvColumns("ContextTokens", "GeneratedTokens", "TIMESTAMP", dated=True)
BURSTGPT = CsvColumns("Request tokens", "Response tokens", "Timestamp", "Session ID")
VIDUR = CsvColumns("num_prefill_tokens", "num_decode_tokens", "arrived_at", time_optional=True)
SPLITWISE_SIM = CsvColumns("prompt_size", "token_size", "arrival_timestamp")
BLIS = CsvColumns("input_tokens", "output_tokens", "arrival_time_us")
LENGTHS = CsvColumns("input_length", "output_length")


def has_columns(columns: CsvColumns, header: frozenset[str]) -> bool:
    """Return whether a header, in lower case, has what a format needs."""
    return {name.lower() for name in columns.needed} <= header


def separator_of(line: str) -> str:
    """Return what separates the cells of a header: the most frequent of comma, ; and tab."""
    return max(SEPARATORS, key=line.count)


def header_cells(line: str, name: str) -> list[str]:
    """Return the cells of a header; a first line of data without one is taken as Azure's.

    Raises:
        InputError: it is not CSV.
    """
    try:
        cells = next(csv.reader([line], delimiter=separator_of(line)), [])
    except csv.Error as error:
        raise InputError(f"{name} line 1: not CSV: {error}") from None
    if len(cells) == 3 and is_stamp(cells[0]):
        return list(AZURE.needed)
    return [cell.strip() for cell in cells]


def csv_rows(columns: CsvColumns, reading: Reading) -> Iterator[Row]:
    """Yield the rows of a file.

    Raises:
        InputError: it cannot be read, lacks a column, or a cell says something that cannot be.
    """
    records = cell_records(reading, columns.needed, may_be_bare=columns.dated)
    return (_row(columns, cells, place) for place, cells in records)


def cell_records(
    reading: Reading, needed: tuple[str, ...] = (), *, may_be_bare: bool = False
) -> Iterator[tuple[Place, dict[str, str]]]:
    """Yield the cells of each row by their column in lower case.

    Args:
        reading: the file.
        needed: columns without which it is not of the format.
        may_be_bare: whether a file without a header may begin with a date.

    Raises:
        InputError: it cannot be read, lacks a column, or a row has other cells than the header.
    """
    name = reading.path.name
    lines = text_lines(reading.path)
    first = next(lines, "")
    header = header_cells(first, name)
    keys = _keys(needed, header, name)
    separator = separator_of(first)
    bare = may_be_bare and is_stamp(first.split(separator)[0])
    rows = lines if not bare else _again(first, lines)
    reader = csv.reader(rows, strict=True, delimiter=separator)
    skipped = 0 if bare else 1
    try:
        for cells in reader:
            if not cells:
                continue
            place = Place(name, reader.line_num + skipped)
            if len(cells) != len(header):
                raise InputError(
                    f"{name} line {place.line}: expected {len(header)} cells as in the header, "
                    f"got {len(cells)}"
                )
            yield place, dict(zip(keys, cells, strict=True))
    except csv.Error as error:
        line = reader.line_num + skipped
        raise InputError(f"{name} line {line}: not CSV: {error}") from None


def _again(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _keys(needed: tuple[str, ...], header: list[str], name: str) -> list[str]:
    """Return the columns in lower case, if all that are needed are there, once each."""
    keys = [cell.lower() for cell in header]
    missing = [column for column in needed if column.lower() not in keys]
    if missing:
        raise InputError(
            f"{name}: expected the columns {', '.join(needed)}; missing are "
            f"{', '.join(missing)} among {', '.join(header)}"
        )
    if len(set(keys)) < len(keys):
        raise InputError(f"{name}: expected distinct columns, got {', '.join(header)}")
    return keys


def _row(columns: CsvColumns, cells: dict[str, str], place: Place) -> Row:
    return Row(
        _time(columns, cells, place),
        cell_tokens(cells[columns.prompt.lower()], columns.prompt, place),
        cell_tokens(cells[columns.output.lower()], columns.output, place),
        _session(columns, cells),
    )


def _time(columns: CsvColumns, cells: dict[str, str], place: Place) -> float | None:
    if columns.time is None or columns.time.lower() not in cells:
        return None
    cell = cells[columns.time.lower()]
    if columns.dated:
        return stamp_ns(cell, columns.time, place)
    return cell_time(cell, columns.time, place)


def _session(columns: CsvColumns, cells: dict[str, str]) -> str | None:
    if columns.session is None or columns.session.lower() not in cells:
        return None
    return cells[columns.session.lower()].strip() or None
