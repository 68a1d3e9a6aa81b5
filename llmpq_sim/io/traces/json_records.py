"""Stream of JSON records from a text of any size: lines, an array, or spread over lines."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.traces.streams import check_length, text_pieces

Record = dict[str, Any]

NEAR_END_CHARACTERS = 16
"""An error this close to the end of what was read may only be a record that is cut off there."""

_BETWEEN_RECORDS = re.compile(r"[\s,\[\]]*")
_KEY = re.compile(r'(?<!\\)"([\w.]+)"\s*:')


def json_records(path: Path) -> Iterator[tuple[int, Record]]:
    """Yield each record of a file with the line on which it begins.

    Raises:
        InputError: the file cannot be read, is not JSON, or has something else than objects.
    """
    buffer, line = "", 1
    for piece in text_pieces(path):
        buffer, at = buffer + piece, 0
        while (begin := _begin(buffer, at)) < len(buffer):
            line += buffer.count("\n", at, begin)
            at = begin
            found = _decoded(buffer, at)
            if isinstance(found, ValueError):
                if piece and _may_go_on(found, len(buffer)):
                    break
                raise _not_json(found, buffer, path.name, line + _lines_to(found, buffer, at))
            record, end = found
            if not isinstance(record, dict):
                place = f"{path.name} line {line}"
                raise InputError(f"{place}: expected an object, got {buffer[at : at + 40]!r}")
            yield line, record
            line += buffer.count("\n", at, end)
            at = end
        buffer = buffer[at:]
        check_length(len(buffer), f"{path.name} line {line}")


def keys_of_first_record(head: str) -> frozenset[str]:
    """Return the keys of the record that a text begins with, of any depth if it is cut off."""
    found = _decoded(head, _begin(head, 0))
    if not isinstance(found, ValueError) and isinstance(found[0], dict):
        return frozenset(found[0])
    return frozenset(_KEY.findall(head))


def _begin(buffer: str, at: int) -> int:
    """Return where the next record begins."""
    between = _BETWEEN_RECORDS.match(buffer, at)
    return between.end() if between else at


def _decoded(buffer: str, at: int) -> tuple[object, int] | ValueError:
    """Return a record and where it ends, or why there is none."""
    try:
        return _DECODER.raw_decode(buffer, at)
    except RecursionError:
        return ValueError("expected less deeply nested JSON")
    except ValueError as error:  # of which JSON's own are a kind
        return error


def _may_go_on(error: ValueError, end: int) -> bool:
    """Return whether more text might complete the record."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.pos >= end - NEAR_END_CHARACTERS or "Unterminated" in error.msg


def _lines_to(error: ValueError, buffer: str, at: int) -> int:
    place = error.pos if isinstance(error, json.JSONDecodeError) else at
    return buffer.count("\n", at, place)


def _not_json(error: ValueError, buffer: str, name: str, line: int) -> InputError:
    if not isinstance(error, json.JSONDecodeError):
        return InputError(f"{name} line {line}: {error}")
    near = buffer[max(error.pos - 20, 0) : error.pos + 20]
    return InputError(f"{name} line {line}: not JSON: {error.msg}, near {near!r}")


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"expected finite numbers, got {constant}")


_DECODER = json.JSONDecoder(parse_constant=_no_number)
