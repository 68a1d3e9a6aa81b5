"""Strict reading and atomic writing of files."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.limits import LARGEST_FILE_BYTES, LARGEST_YAML_BYTES
from llmpq_sim.core.units import MIB
from llmpq_sim.io.locks import hold, temporary_name
from llmpq_sim.io.parsing import parse_json, parse_yaml

__all__ = [
    "LARGEST_FILE_BYTES",
    "check_regular",
    "check_writable",
    "is_file",
    "is_folder",
    "json_text",
    "make_folder",
    "open_regular",
    "parse_json",
    "parse_yaml",
    "read_foreign_json",
    "read_json",
    "read_text",
    "read_yaml",
    "sha256_of",
    "whole_file",
    "write_json",
    "write_text",
]


def read_json(path: Path) -> object:
    """Return the content of a JSON file.

    Raises:
        InputError: it cannot be read, is not JSON, or is unsafe (see ``parse_json``).
    """
    return parse_json(read_text(path), path.name)


def read_foreign_json(path: Path) -> object:
    """Return the content of a JSON file of others, who write Infinity and NaN as Python does.

    Raises:
        InputError: it cannot be read, is not JSON, or is unsafe (see ``parse_json``).
    """
    return parse_json(read_text(path), path.name, finite=False)


def read_yaml(path: Path) -> object:
    """Return the content of a YAML file.

    Raises:
        InputError: it cannot be read, is not YAML, or is unsafe (see ``parse_yaml``).
    """
    return parse_yaml(read_text(path, LARGEST_YAML_BYTES), path.name)


def read_text(path: Path, largest_bytes: int = LARGEST_FILE_BYTES) -> str:
    """Return a file's UTF-8 text without a byte order mark.

    Raises:
        InputError: there is no such file, or it is too large, empty or not UTF-8.
    """
    content = _read_bytes(path, largest_bytes)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte 0x{content[error.start]:02x} at offset {error.start}"
        raise InputError(f"{path.name}: expected UTF-8 text, got {found}") from None
    if not text.strip():
        raise InputError(f"{path.name}: expected content, but the file is empty")
    return text


def _read_bytes(path: Path, largest_bytes: int) -> bytes:
    with open_regular(path) as stream:
        size_bytes = os.fstat(stream.fileno()).st_size
        if size_bytes > largest_bytes:
            limit = f"at most {largest_bytes // MIB} MiB"
            raise InputError(f"{path}: expected {limit}, got {size_bytes / MIB:.1f} MiB")
        try:
            return stream.read()
        except OSError as error:
            raise InputError(f"cannot read {path}: {_reason(error)}") from None


def open_regular(path: Path) -> BinaryIO:
    """Return an open file: every reader's way to a path, which never waits.

    Opening a pipe waits for a writer, and a device may have no end; so it is looked at what was
    opened, and nothing but a regular file is given.

    Raises:
        InputError: it cannot be opened, or is a folder, a device or a pipe.
    """
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        _check_kind(path)  # sockets cannot be opened at all
        raise InputError(f"cannot read {path}: {_reason(error)}") from None
    mode = os.fstat(number).st_mode
    if not stat.S_ISREG(mode):
        os.close(number)
        raise _not_regular(path, mode)
    return os.fdopen(number, "rb")


def check_regular(path: Path) -> None:
    """Raise InputError unless a path is a file that a library may open by its name."""
    open_regular(path).close()


def _check_kind(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode):
        raise _not_regular(path, mode)


def _not_regular(path: Path, mode: int) -> InputError:
    found = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
    return InputError(f"{path}: expected a file, got {found}")


def is_file(path: Path) -> bool:
    """Return whether there is such a file; a name that is none, say too long a one, has none."""
    return os.path.isfile(path)  # noqa: PTH113  pathlib's raises for names that are too long


def is_folder(path: Path) -> bool:
    """Return whether there is such a folder; a name that is none, say too long a one, has none."""
    return os.path.isdir(path)  # noqa: PTH112  pathlib's raises for names that are too long


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


# ---- writing


def check_writable(path: Path) -> None:
    """Check that a file could be written, before work is done for it.

    Raises:
        InputError: its folder is missing or closed, or the path is a folder.
    """
    try:
        folder = path.resolve().parent
        path.is_dir()  # says so where the name is too long for any file
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot write {path}: {_reason(error)}") from None
    if is_folder(path):
        raise InputError(f"cannot write {path}: it is a folder")
    if path.exists() and not is_file(path):
        raise InputError(f"cannot write {path}: it is not a regular file")
    if not is_folder(folder):
        raise InputError(f"cannot write {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write {path}: the folder {folder} is not writable")


def make_folder(path: Path) -> None:
    """Make a folder, and those it is in, unless it is there.

    Raises:
        InputError: it cannot be made, or something else has its name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"cannot make the folder {path}: a file has its name") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot make the folder {path}: {_reason(error)}") from None


def write_json(path: Path, content: object) -> None:
    """Write a file of JSON whole or not at all; the same content gives the same bytes.

    Raises:
        InputError: it cannot be written.
    """
    write_text(path, json_text(content))


def json_text(content: object) -> str:
    """Return JSON in the order of insertion, indented by one; a list of plain values is a line."""
    return _rendered(content, "") + "\n"


def _rendered(value: object, margin: str) -> str:
    inner = margin + " "
    if isinstance(value, Mapping) and value:
        lines = [f"{inner}{_plain(key)}: {_rendered(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{margin}}}"
    if isinstance(value, list | tuple) and any(
        isinstance(i, Mapping | list | tuple) for i in value
    ):
        lines = [inner + _rendered(item, inner) for item in value]
        return "[\n" + ",\n".join(lines) + f"\n{margin}]"
    return _plain(value)


def _plain(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 text whole or not at all.

    The text is written beside the file and then takes its name, so that a reader or a crash never
    meets half a file.

    Raises:
        InputError: it cannot be written.
    """
    try:
        content = text.encode()
    except ValueError as error:
        raise InputError(f"cannot write {path}: {_reason(error)}") from None
    with whole_file(path) as stream:
        stream.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Give a stream whose content takes a file's name once it is complete.

    Raises:
        InputError: it cannot be written.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():  # never put a file in a device's place
            raise InputError(f"cannot write {path}: it is not a regular file")
        temporary = target.with_name(temporary_name())
        stream = temporary.open("xb")
        hold(stream)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot write {path}: {_reason(error)}") from None
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {_reason(error)}") from None
    except BaseException:  # an interrupt, too, leaves nothing behind
        temporary.unlink(missing_ok=True)
        raise


def sha256_of(content: object) -> str:
    """Return the SHA-256 of content as canonical JSON: sorted keys, no blanks."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
