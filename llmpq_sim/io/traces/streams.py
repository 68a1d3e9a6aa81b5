"""Text streams of traces of any size, compressed or not."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.limits import LARGEST_RECORD_BYTES
from llmpq_sim.core.units import KIB, MIB
from llmpq_sim.io.files import open_regular

HEAD_BYTES = 64 * KIB
PIECE_BYTES = 256 * KIB
GZIP_MAGIC = b"\x1f\x8b"


def read_head(path: Path) -> bytes:
    """Return the first 64 KiB of a file's content, unpacked if it is packed.

    Raises:
        InputError: it cannot be read or unpacked, or is empty.
    """
    with _opened(path) as stream:
        head = stream.read(HEAD_BYTES)
    if not head.strip():
        raise InputError(f"{path.name}: expected requests, but the file is empty")
    return head


def text_pieces(path: Path) -> Iterator[str]:
    """Yield a file's UTF-8 text in pieces, without a byte order mark.

    Raises:
        InputError: it cannot be read or unpacked, or is no text.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    offset = 0
    with _opened(path) as stream:
        while True:
            piece = stream.read(PIECE_BYTES)
            begun = len(decoder.getstate()[0])  # bytes of a character that the last piece cut
            try:
                yield decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                place = offset - begun + error.start
                found = f"byte 0x{error.object[error.start]:02x} at offset {place}"
                raise InputError(f"{path.name}: expected UTF-8 text, got {found}") from None
            if not piece:
                return
            offset += len(piece)


def text_lines(path: Path) -> Iterator[str]:
    """Yield a file's lines without their ends.

    Raises:
        InputError: the file cannot be read, or a line is longer than any record.
    """
    rest, number = "", 1
    for piece in text_pieces(path):
        *lines, rest = (rest + piece).split("\n")
        yield from lines
        number += len(lines)
        check_length(len(rest), f"{path.name} line {number}")
    if rest:
        yield rest


def check_length(characters: int, where: str) -> None:
    """Raise InputError if a record is longer than any can be, so that none fills the memory."""
    if characters > LARGEST_RECORD_BYTES:
        raise InputError(
            f"{where}: expected a record of at most {LARGEST_RECORD_BYTES // MIB} MiB, got more"
        )


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file's content, unpacked if it begins as gzip does; failures to read are told."""
    try:
        with open_regular(path) as stream:
            packed = stream.read(2) == GZIP_MAGIC
            stream.seek(0)
            yield cast("BinaryIO", gzip.GzipFile(fileobj=stream)) if packed else stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path.name}: the packed file is damaged or cut short ({error}); fetch it again"
        ) from None
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise InputError(f"cannot read {path}: {reason}") from None
