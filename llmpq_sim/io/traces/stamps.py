"""Timestamps of date and time of day."""

import re
from datetime import UTC, datetime
from functools import lru_cache

from llmpq_sim.io.traces.rows import Place

_STAMP = re.compile(
    r"\s*(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\s?(Z|[+-]\d\d:?\d\d)?\s*", re.ASCII
)
EXPECTED = "a time such as 2023-11-16 18:15:46.6805900, with or without an offset such as +00:00"


def is_stamp(cell: str) -> bool:
    """Return whether a cell looks like a date and time."""
    return _STAMP.fullmatch(cell) is not None


def stamp_ns(cell: str, column: str, place: Place) -> int:
    """Return the nanoseconds since 1970 of a stamp; one without an offset is taken as UTC.

    Fractions have up to nine digits, more than Python's own parsers read.

    Raises:
        InputError: the cell is no stamp.
    """
    match = _STAMP.fullmatch(cell)
    if match is None:
        raise place.wrong(column, EXPECTED, cell)
    day, clock, fraction, offset = match.groups()
    try:
        second = _second(f"{day} {clock}{offset or ''}")
    except ValueError:
        raise place.wrong(column, EXPECTED, cell) from None
    return second * 1_000_000_000 + int((fraction or "").ljust(9, "0"))


@lru_cache(maxsize=16)
def _second(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
