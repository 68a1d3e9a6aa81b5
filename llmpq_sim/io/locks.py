"""Locks on outputs that name their holder, and leftovers of processes that are gone.

A lock is a small file beside the output that is held by flock(2). The system lets go of it when
the process ends, however it ends, so that a lock never outlives its holder; the note in it says who
that is. Temporary files and folders carry the number of their process in their name and are held
likewise: the next one that writes there removes those that nobody holds.
"""

import json
import os
import secrets
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from time import sleep
from typing import IO, Any

from llmpq_sim.core.errors import InputError

HAS_LOCKS = os.name == "posix"
"""Elsewhere nothing is locked, and nothing is removed."""

if HAS_LOCKS:
    import fcntl

MARK = ".llmpq-"
"""With which the names of temporary files and of locks begin."""

LOCK_ENDING = ".lock"
OWNER_FILE = "owner"
ATTEMPTS, PAUSE_S = 10, 0.01
LONGEST_COMMAND = 60
LARGEST_NOTE_BYTES = 4096


@contextmanager
def locked(path: Path, option: str = "--out") -> Iterator[None]:
    """Keep other processes from writing a file, or what belongs to it, meanwhile.

    On a file system or a system that has no locks nothing is kept.

    Args:
        path: the file, or the folder.
        option: with which another could be chosen, for the message.

    Raises:
        InputError: another process holds it, which the message names; or nothing can be written.
    """
    if not HAS_LOCKS:
        yield
        return
    try:
        target = path.resolve()
        remove_leftovers(target.parent)
        lock = target.with_name(lock_name(target.name))
        held = _acquired(lock)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, BlockingIOError | PermissionError) and lock.exists():
            text = f"{path} is being written by {_holder(lock)}; wait for it or choose another"
            raise InputError(f"{text} {option}") from None
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise InputError(f"cannot write {path}: {reason}") from None
    try:
        yield
    finally:
        with suppress(OSError):  # another user's folder may let us write and not remove
            lock.unlink()
        os.close(held)


def lock_name(name: str) -> str:
    """Return the name of the lock of a file; any name of a file is short enough for it."""
    return f"{MARK}{sha256(os.fsencode(name)).hexdigest()[:16]}{LOCK_ENDING}"


def _acquired(lock: Path) -> int:
    """Return the descriptor of a lock that is held.

    Whoever looks for leftovers holds each lock for a moment, so one that is held is tried again.
    """
    for _ in range(ATTEMPTS):
        with suppress(BlockingIOError):
            return _acquired_at_once(lock)
        sleep(PAUSE_S)
    return _acquired_at_once(lock)


def _acquired_at_once(lock: Path) -> int:
    """Return the descriptor of a lock that is held.

    Whoever lets go removes the file first; so one that was opened in between is another file by now
    and is opened again.
    """
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(lock, flags, 0o644)
        try:
            is_held = hold(descriptor)
            with suppress(FileNotFoundError):
                if not is_held or os.path.samestat(os.fstat(descriptor), lock.stat()):
                    with suppress(OSError):  # a full disk: held all the same, by nobody named
                        os.truncate(descriptor, 0)
                        os.pwrite(descriptor, json.dumps(_note()).encode(), 0)
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _note() -> dict[str, Any]:
    program, *arguments = sys.argv or ["python"]
    words = " ".join(shlex.join([Path(program).name, *arguments]).split())
    text = words.encode(errors="backslashreplace").decode()
    if len(text) > LONGEST_COMMAND:
        text = f"{text[:LONGEST_COMMAND]}..."
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"process": os.getpid(), "command": text, "since": since}


def _holder(lock: Path) -> str:
    """Return in words who holds a lock, as far as its note says so."""
    try:
        with lock.open("rb") as stream:
            note = json.loads(stream.read(LARGEST_NOTE_BYTES))
        since = datetime.fromisoformat(note["since"]).astimezone()
        process, command = int(note["process"]), str(note["command"])
    except (OSError, ValueError, TypeError, KeyError):  # not written yet, or let go by now
        return "another process"
    shown = "".join(one if one.isprintable() else "?" for one in command)
    is_today = since.date() == datetime.now().astimezone().date()
    clock = f"{since:%H:%M}" if is_today else f"{since:%Y-%m-%d %H:%M}"
    return f"process {process} ({shown}, since {clock})"


def hold(descriptor: int | IO[bytes]) -> bool:
    """Hold an open file until it is closed; return False where there are no locks.

    Raises:
        BlockingIOError: another process holds it.
    """
    if not HAS_LOCKS:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


# ---- temporary files and folders


def temporary_name() -> str:
    """Return a name for a temporary file of this process; hold the file while it is written."""
    return f"{MARK}{os.getpid()}-{secrets.token_hex(8)}"


@contextmanager
def owned_folder(prefix: str) -> Iterator[Path]:
    """Give a new temporary folder, for this user alone, that is removed at the end.

    Those with the same prefix whose processes are gone are removed as well, at the beginning.

    Args:
        prefix: with which its name begins, such as ``llmpq-run-``.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        if _is_own_folder(left) and _is_left(left.name.removeprefix(prefix), left / OWNER_FILE):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-"))
    try:
        owner = os.open(folder / OWNER_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            hold(owner)
            yield folder
        finally:
            os.close(owner)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and locks in a folder whose processes are gone."""
    if not HAS_LOCKS:
        return
    with suppress(OSError):  # a folder that cannot be read is told of when it is written to
        for path in list(folder.glob(f"{MARK}*")):
            is_lock = path.name.endswith(LOCK_ENDING)
            if is_lock or _is_left(path.name.removeprefix(MARK), path):
                _remove_unheld(path)


def _is_own_folder(path: Path) -> bool:
    with suppress(OSError):
        return path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid()
    return False


def _is_left(name: str, held: Path) -> bool:
    """Return whether the process is gone that a name begins with, and nobody holds a file.

    Either alone might err: a process of another container has a number of its own there, and a file
    is not held in the moment in which it is made.
    """
    number, _, rest = name.partition("-")
    if not rest or not number.isdecimal() or _runs(int(number)):
        return False
    try:
        descriptor = _opened(held)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        return hold(descriptor)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    """Return a file opened to look who holds it; a link is not followed, a pipe not waited for."""
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _remove_unheld(path: Path) -> None:
    with suppress(OSError):
        descriptor = _opened(path)
        try:
            if hold(descriptor) and os.path.samestat(os.fstat(descriptor), path.stat()):
                path.unlink()
        finally:
            os.close(descriptor)


def _runs(process: int) -> bool:
    """Return whether a process of this number runs, whoever's it is."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
