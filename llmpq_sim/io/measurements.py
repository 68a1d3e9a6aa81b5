"""Measured kernel times in CSV and parquet files."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import kind_of
from llmpq_sim.core.limits import (
    LARGEST_FILE_BYTES,
    LARGEST_TABLE_BYTES,
    LONGEST_CELL_CHARACTERS,
    MOST_MEASURED_ROWS,
)
from llmpq_sim.core.units import MIB
from llmpq_sim.io.files import open_regular, read_text
from llmpq_sim.io.public_tables import PUBLIC_COLUMNS, tidy_columns
from llmpq_sim.latency.fitting.rows import Measurements

TEXTS = (
    *("op", "phase", "quant", "backend", "version", "gpu", "model", "kernel"),
    *("routing", "algorithm"),
)
NUMBERS = tuple(column.name for column in fields(Measurements) if column.name not in TEXTS)
KNOWN = frozenset((*TEXTS, *NUMBERS, *PUBLIC_COLUMNS))

NEEDED = {
    "gemm": ("quant", "m", "n", "k"),
    "attention": ("phase", "batch", "seq", "heads", "kv_heads", "head_dim"),
    "layer": ("model", "phase", "quant", "batch", "seq"),
    "embedding": ("m", "n"),
    "head": ("m", "n", "k"),
    "visit": ("batch",),
    "served": ("model", "phase", "quant", "kernel", "batch", "seq", "layers"),
    "link": ("bytes",),
    "experts": ("quant", "m", "n", "k", "experts", "chosen"),
    "latent": ("phase", "batch", "seq", "heads"),
    "recurrent": ("phase", "algorithm", "kernel", "batch", "seq", "heads", "head_dim", "value_dim"),
}
"""Columns without which rows of an operator say nothing. Others than these, ``op`` and
``latency_us`` are optional, and unknown columns are ignored."""

Columns = dict[str, list[Any]]
PIECE_ROWS = 16_384


def read_measurements(path: Path) -> Measurements:
    """Return the rows of a ``.csv``, ``.csv.gz`` or ``.parquet`` file of timed kernels.

    Public tables of kernels are told by their columns (`llmpq_sim.io.public_tables`).

    The file is read a piece at a time, and given up as soon as it has more rows than are ever
    measured.

    Raises:
        InputError: it cannot be read, lacks a column, is too large, or a cell is no number.
    """
    if path.suffix == ".parquet":
        return _joined(_parquet_pieces(path), path.name)
    text = _unpacked(path) if path.suffix == ".gz" else read_text(path)
    return _joined(_csv_pieces(text, path.name), path.name)


def _joined(pieces: Iterator[Columns], where: str) -> Measurements:
    """Return the rows of all pieces, of which the first may be empty and names the columns."""
    parts: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in (*TEXTS, *NUMBERS)}
    rows = 0
    for columns in map(tidy_columns, pieces):
        _check_columns(columns, where)
        count = len(columns["op"])
        _check_size(rows + count, parts, where)
        for name in TEXTS:
            parts[name].append(_texts(columns.get(name), count, name, where))
        for name in NUMBERS:
            parts[name].append(_numbers(columns.get(name), count, (name, where, rows + 2)))
        rows += count
    return Measurements(**{name: np.concatenate(part) for name, part in parts.items()})


def _check_size(rows: int, parts: dict[str, list[np.ndarray[Any, Any]]], where: str) -> None:
    """Raise InputError for more rows, or more letters in them, than any table has."""
    if rows > MOST_MEASURED_ROWS:
        raise InputError(f"{where}: expected at most {MOST_MEASURED_ROWS} rows, got more")
    widths = (max((part.itemsize for part in parts[name]), default=0) for name in TEXTS)
    if rows * sum(widths) > LARGEST_TABLE_BYTES:
        raise InputError(
            f"{where}: expected shorter texts in so many rows; they take more than "
            f"{LARGEST_TABLE_BYTES // MIB} MiB"
        )


def _check_columns(columns: Columns, where: str) -> None:
    for name in ("op", "latency_us"):
        if name not in columns:
            found = ", ".join(map(str, columns)) or "none"
            raise InputError(f"{where}: expected a column {name}, got {found[:400]}")
    operators = set(columns["op"])
    for operator, needed in NEEDED.items():
        missing = [name for name in needed if name not in columns]
        if operator in operators and missing:
            raise InputError(
                f"{where}: rows with op={operator} need the columns {', '.join(needed)}; "
                f"missing are {', '.join(missing)}"
            )


# ---- CSV


def _csv_pieces(text: str, where: str) -> Iterator[Columns]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) < len(header):
            found = ", ".join(header)[:400]
            raise InputError(f"{where}: expected distinct columns, got {found}")
        known = [i for i, name in enumerate(header) if name in KNOWN]
        yield {name: [] for name in header}
        while rows := [
            _row(row, header, f"{where} line {reader.line_num}")
            for row in islice(reader, PIECE_ROWS)
        ]:
            yield {header[i]: [row[i] if row else "" for row in rows] for i in known}
    except csv.Error as error:
        raise InputError(f"{where} line {reader.line_num}: not CSV: {error}") from None


def _row(row: list[str], header: list[str], where: str) -> list[str]:
    if row and len(row) != len(header):
        raise InputError(f"{where}: expected {len(header)} cells as in the header, got {len(row)}")
    return row


def _unpacked(path: Path) -> str:
    """Return the text of a compressed file, refusing one that unpacks to something huge."""
    try:
        with open_regular(path) as packed, gzip.open(packed) as stream:
            content = stream.read(LARGEST_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    if len(content) > LARGEST_FILE_BYTES:
        raise InputError(
            f"{path}: expected at most {LARGEST_FILE_BYTES // MIB} MiB once unpacked, got more"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path.name}: expected UTF-8 text once unpacked") from None


# ---- parquet


def _parquet_pieces(path: Path) -> Iterator[Columns]:
    """Yield the known columns of a file, some rows at a time.

    The library raises errors of many types for a damaged file; each means that it is damaged.
    """
    import pyarrow.parquet

    with open_regular(path) as stream:
        try:
            file = pyarrow.parquet.ParquetFile(stream)
            known = _known_columns(file.schema_arrow, path.name)
            yield {name: [] for name in known}
            for batch in file.iter_batches(PIECE_ROWS, columns=known):
                yield {name: batch.column(name).to_pylist() for name in known}
        except InputError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"cannot read {path}: {reason}") from None


def _known_columns(schema: Any, where: str) -> list[str]:
    """Return the columns of a file that mean something, each of texts or numbers."""
    names = [field.name for field in schema if field.name in KNOWN]
    if len(set(names)) < len(names):
        raise InputError(f"{where}: expected distinct columns, got {', '.join(names)}")
    for name in names:
        kind = schema.field(name).type
        if not _is_plain(kind):
            raise InputError(
                f"{where} column {name}: expected texts or numbers, got the type {kind}"
            )
    return names


def _is_plain(kind: Any) -> bool:
    """Return whether cells of a type are texts or numbers."""
    from pyarrow import types

    plain = (
        types.is_string,
        types.is_large_string,
        types.is_string_view,
        types.is_integer,
        types.is_floating,
        types.is_boolean,
        types.is_decimal,
        types.is_null,
    )
    value = kind.value_type if types.is_dictionary(kind) else kind
    return any(is_of_type(value) for is_of_type in plain)


# ---- cells


def _texts(
    cells: list[Any] | None, rows: int, column: str, where: str
) -> np.ndarray[Any, np.dtype[np.str_]]:
    if cells is None:
        return np.full(rows, "", dtype=np.str_)
    texts = ["" if cell is None else str(cell).strip() for cell in cells]
    longest = max(map(len, texts), default=0)
    if longest > LONGEST_CELL_CHARACTERS:
        raise InputError(
            f"{where} column {column}: expected texts of at most {LONGEST_CELL_CHARACTERS} "
            f"characters, got {longest}"
        )
    return np.asarray(texts, dtype=np.str_)


def _numbers(
    cells: list[Any] | None, rows: int, place: tuple[str, str, int]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a column's numbers; what messages call it are its name, its file and first line."""
    if cells is None:
        return np.full(rows, np.nan)
    absent = [None if cell in ("", None) else cell for cell in cells]
    try:
        return np.asarray([np.nan if cell is None else float(cell) for cell in absent], np.float64)
    except (TypeError, ValueError, OverflowError):
        raise _not_a_number(absent, place) from None


def _not_a_number(cells: list[Any], place: tuple[str, str, int]) -> InputError:
    column, where, first_line = place
    for line, cell in enumerate(cells, start=first_line):
        try:
            float(0 if cell is None else cell)
        except (TypeError, ValueError, OverflowError):
            return InputError(
                f"{where} line {line}, column {column}: expected a number, got {kind_of(cell)}"
            )
    return InputError(f"{where} column {column}: expected numbers")
