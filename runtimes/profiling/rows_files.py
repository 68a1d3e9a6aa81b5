"""Files of measured rows, written one by one, with resume."""

import csv
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.units import US
from llmpq_sim.io.files import check_writable
from runtimes.profiling.points import KEY_COLUMNS, Point
from runtimes.profiling.timing import Timing

BACKEND = "torch"
COLUMNS = (
    "op",
    "phase",
    "quant",
    "backend",
    "version",
    "gpu",
    "model",
    "kernel",
    "m",
    "n",
    "k",
    "batch",
    "seq",
    "heads",
    "kv_heads",
    "head_dim",
    "kv_bits",
    "window",
    "experts",
    "chosen",
    "layers",
    "bytes",
    "latency_us",
    "spread",
    "repeats",
)
"""``latency_us`` is the median, ``spread`` half the interquartile range over it."""


TEXTS = ("op", "phase", "quant", "model", "kernel")


@dataclass(frozen=True)
class Origin:
    """Where rows come from; a file has rows of one origin.

    Attributes:
        version: of PyTorch.
        device: name of the profiled device.
        models: whose shapes are measured.
    """

    version: str
    device: str
    models: tuple[str, ...]


class RowsFile:
    """A CSV file that grows by whole rows.

    Attributes:
        timings: what the file holds, by key.
    """

    def __init__(self, stream: TextIO, origin: Origin, timings: dict[Point, Timing]) -> None:
        self.timings = timings
        self._stream = stream
        self._origin = origin

    def append(self, point: Point, timing: Timing) -> None:
        """Write a row and hand it to the operating system.

        Raises:
            InputError: it cannot be written.
        """
        try:
            self._stream.write(row_text(point, timing, self._origin))
            self._stream.flush()
        except OSError as error:
            raise InputError(
                f"cannot write {self._stream.name}: {error.strerror}; the rows before are kept, "
                "continue with --resume"
            ) from None
        self.timings[point] = timing


@contextmanager
def open_rows(path: Path, origin: Origin, *, resume: bool) -> Iterator[RowsFile]:
    """Give a file to which rows are appended.

    Args:
        path: a ``.csv`` file.
        origin: of all rows.
        resume: whether to go on with a file that is there; one is refused otherwise.

    Raises:
        InputError: the file is there, is of another origin, or cannot be written.
    """
    timings = check_rows(path, origin, resume=resume)
    try:
        with path.open("a", encoding="utf-8", newline="") as stream:
            if not timings and stream.tell() == 0:
                stream.write(",".join(COLUMNS) + "\n")
                stream.flush()
            yield RowsFile(stream, origin, timings)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def check_rows(path: Path, origin: Origin, *, resume: bool) -> dict[Point, Timing]:
    """Return what a file holds, once it is certain that rows may be added; cut off half a row.

    Raises:
        InputError: as ``open_rows``.
    """
    check_writable(path)
    if path.suffix != ".csv":
        raise InputError(f"--out: expected a file that ends in .csv, got {path}")
    if not path.exists():
        return {}
    if not path.is_file():
        raise InputError(f"cannot write {path}: it is not a regular file")
    if not resume:
        raise InputError(
            f"--out: {path} is there already; give --resume to measure what it lacks, "
            "or another name"
        )
    return _taken_up(path, origin)


def _taken_up(path: Path, origin: Origin) -> dict[Point, Timing]:
    try:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:  # the run was killed while it wrote its last row
            os.truncate(path, len(whole))
        text = whole.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    if not text:
        return {}
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise InputError(
            f"--resume: {path} has other columns than llmpq profile writes; give another name"
        )
    return dict(_read(row, f"{path.name} line {reader.line_num}", origin) for row in reader)


def _read(row: dict[str, str], where: str, origin: Origin) -> tuple[Point, Timing]:
    _check_origin(row, where, origin)
    try:
        values: dict[str, Any] = {
            name: row[name] if name in TEXTS else int(row[name] or 0) for name in KEY_COLUMNS
        }
        median_s, spread = float(row["latency_us"]) * US, float(row["spread"])
        return Point(**values), Timing(median_s, spread, int(row["repeats"]))
    except (ValueError, TypeError):
        raise InputError(f"{where}: expected a row of llmpq profile; give another name") from None


def _check_origin(row: dict[str, str], where: str, origin: Origin) -> None:
    for column, found, expected in (
        ("gpu", row["gpu"], (origin.device,)),
        ("backend", row["backend"], (BACKEND,)),
        ("version", row["version"], (origin.version,)),
        ("model", row["model"], ("", *origin.models)),
    ):
        if found not in expected:
            wanted = " or ".join(name for name in expected if name)
            raise InputError(
                f"--resume: {where}, column {column}: expected {wanted}, got {found!r}; rows of "
                "one file belong to one device, model and version: give another --out"
            )


def row_text(point: Point, timing: Timing, origin: Origin) -> str:
    """Return a row as a line of CSV."""
    values = {column.name: getattr(point, column.name) or "" for column in fields(point)}
    values |= {
        "backend": BACKEND,
        "version": origin.version,
        "gpu": origin.device,
        "latency_us": f"{timing.median_s / US:.4f}",
        "spread": f"{timing.spread:.4f}",
        "repeats": timing.repeats,
    }
    line = io.StringIO(newline="")
    csv.DictWriter(line, COLUMNS, lineterminator="\n").writerow(values)
    return line.getvalue()
