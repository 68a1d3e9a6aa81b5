"""Measured kernel times in CSV and parquet files."""

import csv
import gzip
import io
import zlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import kind_of
from llmpq_sim.core.units import MIB
from llmpq_sim.io.files import LARGEST_FILE_BYTES, read_text
from llmpq_sim.latency.fitting.rows import Measurements

TEXTS = ("op", "phase", "quant", "backend", "version", "gpu", "model", "kernel")
NUMBERS = tuple(column.name for column in fields(Measurements) if column.name not in TEXTS)

NEEDED = {
    "gemm": ("quant", "m", "n", "k"),
    "attention": ("phase", "batch", "seq", "heads", "kv_heads", "head_dim"),
    "layer": ("model", "phase", "quant", "batch", "seq"),
    "embedding": ("m", "n"),
    "head": ("m", "n", "k"),
    "visit": ("batch",),
    "served": ("model", "phase", "quant", "kernel", "batch", "seq", "layers"),
    "link": ("bytes",),
}
"""Columns without which rows of an operator say nothing. Others than these, ``op`` and
``latency_us`` are optional, and unknown columns are ignored."""

Columns = dict[str, list[Any]]


def read_measurements(path: Path) -> Measurements:
    """Return the rows of a ``.csv``, ``.csv.gz`` or ``.parquet`` file of timed kernels.

    Raises:
        InputError: it cannot be read, lacks a column, or a cell is no number.
    """
    if path.suffix == ".parquet":
        columns = _parquet_columns(path)
    elif path.suffix == ".gz":
        columns = _csv_columns(_unpacked(path), path.name)
    else:
        columns = _csv_columns(read_text(path), path.name)
    _check_columns(columns, path.name)
    rows = len(columns["op"])
    read: dict[str, Any] = {name: _texts(columns.get(name), rows) for name in TEXTS}
    read |= {name: _numbers(columns.get(name), rows, name, path.name) for name in NUMBERS}
    return Measurements(**read)


def _check_columns(columns: Columns, where: str) -> None:
    for name in ("op", "latency_us"):
        if name not in columns:
            found = ", ".join(columns) or "none"
            raise InputError(f"{where}: expected a column {name}, got {found}")
    operators = set(columns["op"])
    for operator, needed in NEEDED.items():
        missing = [name for name in needed if name not in columns]
        if operator in operators and missing:
            raise InputError(
                f"{where}: rows with op={operator} need the columns {', '.join(needed)}; "
                f"missing are {', '.join(missing)}"
            )


def _csv_columns(text: str, where: str) -> Columns:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[list[str]] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        for row in reader:
            if row and len(row) != len(header):
                raise InputError(
                    f"{where} line {reader.line_num}: expected {len(header)} cells as in the "
                    f"header, got {len(row)}"
                )
            rows.append(row)
    except csv.Error as error:
        raise InputError(f"{where} line {reader.line_num}: not CSV: {error}") from None
    if len(set(header)) < len(header):
        raise InputError(f"{where}: expected distinct columns, got {', '.join(header)}")
    return {name: [row[i] if row else "" for row in rows] for i, name in enumerate(header)}


def _unpacked(path: Path) -> str:
    """Return the text of a compressed file, refusing one that unpacks to something huge."""
    try:
        with gzip.open(path) as stream:
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


def _parquet_columns(path: Path) -> Columns:
    import pyarrow
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path).names
        known = [name for name in names if name in (*TEXTS, *NUMBERS)]
        table = pyarrow.parquet.read_table(path, columns=known)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    return {name: table.column(name).to_pylist() for name in known}


def _texts(cells: list[Any] | None, rows: int) -> np.ndarray[Any, np.dtype[np.str_]]:
    if cells is None:
        return np.full(rows, "", dtype=np.str_)
    return np.asarray(["" if cell is None else str(cell).strip() for cell in cells], dtype=np.str_)


def _numbers(
    cells: list[Any] | None, rows: int, column: str, where: str
) -> np.ndarray[Any, np.dtype[np.float64]]:
    if cells is None:
        return np.full(rows, np.nan)
    absent = [None if cell in ("", None) else cell for cell in cells]
    try:
        return np.asarray([np.nan if cell is None else float(cell) for cell in absent], np.float64)
    except (TypeError, ValueError):
        raise _not_a_number(absent, column, where) from None


def _not_a_number(cells: list[Any], column: str, where: str) -> InputError:
    for line, cell in enumerate(cells, start=2):
        try:
            float(0 if cell is None else cell)
        except (TypeError, ValueError):
            return InputError(
                f"{where} line {line}, column {column}: expected a number, got {kind_of(cell)}"
            )
    return InputError(f"{where} column {column}: expected numbers")
