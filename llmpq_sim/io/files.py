"""Strict reading and atomic writing of files."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.units import MIB
from llmpq_sim.io.parsing import parse_json, parse_yaml

__all__ = [
    "check_writable",
    "json_text",
    "parse_json",
    "parse_yaml",
    "read_json",
    "read_text",
    "read_yaml",
    "sha256_of",
    "whole_file",
    "write_json",
    "write_text",
]

LARGEST_FILE_BYTES = 64 * MIB
LARGEST_YAML_BYTES = MIB  # people write it, and its parser takes seconds for more


def read_json(path: Path) -> object:
    """Return the content of a JSON file.

    Raises:
        InputError: it cannot be read, is not JSON, or is unsafe (see ``parse_json``).
    """
    return parse_json(read_text(path), path.name)


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
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            found = "a folder" if path.is_dir() else "a device or pipe"
            raise InputError(f"{path}: expected a file, got {found}")
        size_bytes = path.stat().st_size
        if size_bytes > largest_bytes:
            limit = f"at most {largest_bytes // MIB} MiB"
            raise InputError(f"{path}: expected {limit}, got {size_bytes / MIB:.1f} MiB")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


# ---- writing


def check_writable(path: Path) -> None:
    """Check that a file could be written, before work is done for it.

    Raises:
        InputError: its folder is missing or closed, or the path is a folder.
    """
    folder = path.resolve().parent
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    if not folder.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write {path}: the folder {folder} is not writable")


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
        temporary = target.with_name(f".llmpq-{secrets.token_hex(8)}")
        stream = temporary.open("xb")
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
