"""Row of a trace: one request in any format, and what is wrong with bad ones.

A reader yields rows; what it must know for that, and what it leaves out, is its ``Reading``.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import LARGEST_NUMBER, kind_of
from llmpq_sim.io.traces.json_records import Record, json_records
from llmpq_sim.workloads.lengths import MOST_TOKENS


class Row(NamedTuple):
    """One request as a file states it.

    Attributes:
        time: arrival in the file's unit, or None.
        prompt, output: tokens; 0 or fewer in rows of requests that failed.
        session: what identifies its conversation, or None.
        blocks: identities of its prompt's blocks, or None.
    """

    time: float | None
    prompt: int
    output: int
    session: Hashable = None
    blocks: tuple[int, ...] | None = None


class Place(NamedTuple):
    """A line of a file, for messages."""

    name: str
    line: int

    def wrong(self, column: str, expected: str, found: object) -> InputError:
        """Return the error for a value that is not what was expected."""
        where = f"{self.name} line {self.line}, {column}"
        if found is None:
            return InputError(f"{where}: expected {expected}, but it is missing")
        return InputError(f"{where}: expected {expected}, got {kind_of(found)}")


@dataclass
class Reading:
    """A file as it is read.

    Attributes:
        path: the file.
        count_tokens: tokens of a text, or an error that says what is missing for it.
        block_tokens: tokens of a block of a prompt, where the file states it.
        dated: whether times are dates rather than numbers, or None where a format does not say.
        found: names under which tokens were found, of those that were looked for.
        dropped: records left out, by reason.
        notes: what was assumed, once each.
    """

    path: Path
    count_tokens: Callable[[str], int]
    block_tokens: int | None = None
    dated: bool | None = None
    found: set[str] = field(default_factory=set)
    dropped: Counter[str] = field(default_factory=Counter)
    notes: dict[str, None] = field(default_factory=dict)

    def records(self) -> Iterator[tuple[Place, Record]]:
        """Yield the file's JSON records and where they begin."""
        name = self.path.name
        for line, record in json_records(self.path):
            yield Place(name, line), record

    def note(self, text: str) -> None:
        """Keep what was assumed, once."""
        self.notes[text] = None


# ---- values of JSON


def json_tokens(record: Record, keys: tuple[str, ...], place: Place) -> int:
    """Return the tokens under the first of these keys that a record has."""
    key, value = _under(record, keys)
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or abs(value) > MOST_TOKENS:
        raise place.wrong(key, f"a whole number of at most {MOST_TOKENS} tokens", value)
    return value


def json_time(record: Record, keys: tuple[str, ...], place: Place) -> float | None:
    """Return the time under the first of these keys that a record has, or None."""
    key, value = _under(record, keys)
    if value is None:
        return None
    if type(value) not in {int, float} or not abs(value) <= LARGEST_NUMBER:
        raise place.wrong(key, "a time as a number", value)
    return value  # type: ignore[no-any-return]  # its type was just checked


def json_blocks(record: Record, key: str, place: Place) -> tuple[int, ...] | None:
    """Return a list of block identities, or None if the record has none."""
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(block) is int for block in value):
        raise place.wrong(key, "a list of whole numbers", value)
    return tuple(value)


def json_identity(record: Record, key: str, place: Place) -> str | int | None:
    """Return what identifies something: a text, a whole number, or None."""
    value = record.get(key)
    if value is not None and type(value) not in {str, int}:
        raise place.wrong(key, "a text or a whole number", value)
    return value


def json_objects(record: Record, key: str, place: Place) -> list[Record]:
    """Return a list of objects."""
    value = record.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise place.wrong(key, "a list of objects", value)
    return value


def _under(record: Record, keys: tuple[str, ...]) -> tuple[str, Any]:
    for key in keys:
        if (value := record.get(key)) is not None:
            return key, value
    return keys[0], None


# ---- cells of CSV

_WHOLE = re.compile(r"\s*([-+]?\d{1,18})(?:\.0*)?\s*", re.ASCII)
_NUMBER = re.compile(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*", re.ASCII)


def cell_tokens(cell: str, column: str, place: Place) -> int:
    """Return the tokens a cell states."""
    whole = _WHOLE.fullmatch(cell)
    if whole is None or abs(tokens := int(whole[1])) > MOST_TOKENS:
        raise place.wrong(column, f"a whole number of at most {MOST_TOKENS} tokens", cell)
    return tokens


def cell_time(cell: str, column: str, place: Place) -> float:
    """Return the time a cell states."""
    whole = _WHOLE.fullmatch(cell)
    if whole is not None:
        return int(whole[1])
    time = float(cell) if _NUMBER.fullmatch(cell) else math.nan
    if not abs(time) <= LARGEST_NUMBER:
        raise place.wrong(column, "a time as a number", cell)
    return time
