"""Plain characters where the encoding of an output has none of those that screens show.

An output that is no UTF-8 (cp1252, latin-1, ascii) shows what it can, and for the rest what reads
alike: ``#`` for a bar, ``+-`` for the interval. A name with bytes that are no text shows them.
"""

import codecs
import io
from typing import TextIO
from unicodedata import normalize

HANDLER = "llmpq-plain"
"""Name of the error handler, for whoever encodes text for people."""

_ALIKE = {
    "·": "|",
    "±": "+-",
    "\u00d7": "x",
    "█": "#",
    "░": ".",
    "▲": "^",
    "•": "*",
    "│": "|",
    "└": "+",
    "─": "-",
    "━": "-",
    "�": "?",
} | dict(zip("▁▂▃▄▅▆▇", "_.-=+*%", strict=True))

FIRST_BRAILLE, LAST_BRAILLE = 0x2800, 0x28FF
"""Of which Rich's spinners are made."""


def allow_plain_characters(*streams: TextIO) -> None:
    """Let streams show what they cannot encode by what reads alike, rather than fail."""
    codecs.register_error(HANDLER, _plainly)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_alike, error.object[error.start : error.end])), error.end


def _alike(character: str) -> str:
    if character in _ALIKE:
        return _ALIKE[character]
    if FIRST_BRAILLE <= ord(character) <= LAST_BRAILLE:
        return "."
    letters = normalize("NFKD", character).encode("ascii", "ignore").decode()
    return letters or character.encode("ascii", "backslashreplace").decode()
