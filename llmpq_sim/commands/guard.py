"""Top-level guard: whatever ends a command ends it with one line on stderr and an exit code.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | an expected failure: the line says where, what was expected, what was found and what to do |
| 2 | options that do not parse |
| 70 | a fault of llmpq's own: the line names a report file. Source: ``EX_SOFTWARE`` of sysexits.h |
| 130 | interrupted by Ctrl-C. Source: 128 and the signal's number, as shells have it |
"""

import errno
import os
import platform
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from typing import Any

import typer

import llmpq_sim
from llmpq_sim.commands.interruption import Interrupted
from llmpq_sim.core.errors import LlmpqError, encodable

FAILED, FAULT = 1, 70
STDIN, STDOUT, STDERR = 0, 1, 2
OUT_OF_MEMORY = ("cannot allocate memory", "can't allocate memory", "not enough memory")
USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""What Typer raises for wrong usage; it names the class only by those derived from it."""

LOST_OUTPUT = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF, errno.EFBIG)


@dataclass(frozen=True)
class Failure:
    """Why a command ended.

    Attributes:
        message: what is said of it, one line but for wrong usage.
        kind: the class of the error.
        exit_code: of the process.
        said: the text on stderr where it is not the message alone.
    """

    message: str
    kind: str
    exit_code: int = FAILED
    said: str = ""

    @property
    def shown(self) -> str:
        """The text on stderr."""
        return self.said or f"error: {self.message}"

    def content(self) -> dict[str, str]:
        """Return the failure as JSON has it."""
        return {"message": self.message, "kind": self.kind}


def guarded(run: Callable[[], object], say: Callable[[Failure], None]) -> int:
    """Run a command, and return the exit code of the process.

    Args:
        run: what the command does; it returns an exit code, or nothing where it is done.
        say: tells of a failure.
    """
    if not _has_streams():
        _say(say, Failure("stdout is closed: give it a file, or /dev/null", "OSError"))
        return FAILED
    try:
        code = run()
        _flush()
    except SystemExit as ended:  # as click ends where nobody reads its output
        code = ended.code
        _let_go_of_stdout()
    except BaseException as error:  # nothing passes: this is the outermost of all
        found = failure(error)
        _let_go_of_stdout()
        _say(say, found)
        return found.exit_code
    return code if isinstance(code, int) else 0


def failure(error: BaseException) -> Failure:
    """Return what is said of an exception that ended a command, and the exit code.

    What nobody foresaw is written to a report file, which the message names.
    """
    kind = type(error).__name__
    if isinstance(error, LlmpqError):
        return Failure(str(error), kind)
    if isinstance(error, KeyboardInterrupt):
        error = Interrupted(error)
    if isinstance(error, Interrupted):
        return Failure(str(error), kind, error.exit_code, str(error))
    if isinstance(error, USAGE_ERROR):
        shown = StringIO()
        error.show(file=shown)
        return Failure(
            error.format_message(), "UsageError", error.exit_code, shown.getvalue().rstrip()
        )
    return _of_system(error) or _of_ours(error)


def _of_system(error: BaseException) -> Failure | None:
    """Return what is said of memory or output that is lost, None of another exception."""
    kind = type(error).__name__
    if isinstance(error, MemoryError) or _tells_of_memory(error):
        return Failure("not enough memory: ask for less, or give the machine more", kind)
    if isinstance(error, BrokenPipeError):
        return Failure("stdout was closed before all was written", kind)
    if isinstance(error, OSError) and error.errno in LOST_OUTPUT:
        where = f" {error.filename}" if error.filename else ""
        return Failure(encodable(f"cannot write{where}: {error.strerror}"), kind)
    if isinstance(error, OSError) and isinstance(error.filename, str):  # too long, closed, a loop
        name = error.filename if len(error.filename) <= 200 else f"{error.filename[:197]}..."
        return Failure(encodable(f"cannot use {name}: {error.strerror}"), kind)
    return None


def _of_ours(error: BaseException) -> Failure:
    """Return what is said of what nobody foresaw, with the report of it."""
    kind, text = type(error).__name__, _one_line(str(error))
    what = "something is nested too deeply" if isinstance(error, RecursionError) else kind
    told = f"a fault of llmpq's own ({what}{': ' + text if text else ''})"
    return Failure(f"{told}; please report it with {_report(error)}", "InternalError", FAULT)


def _tells_of_memory(error: BaseException) -> bool:
    return any(part in str(error).lower() for part in OUT_OF_MEMORY)


def _say(say: Callable[[Failure], None], failure: Failure) -> None:
    try:
        say(failure)
        sys.stderr.flush()
        _flush()
    except OSError:  # there is nobody to tell; the exit code is left
        for number in (STDOUT, STDERR):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _one_line(text: str) -> str:
    line = _without_secrets(encodable(" ".join(text.split())))
    return line if len(line) <= 300 else line[:297] + "..."


# ---- streams


def _has_streams() -> bool:
    """Give closed streams an end, and return whether stdout is open.

    A number that is free would be that of the next file opened, and what is printed would go there.
    """
    missing = [number for number in (STDIN, STDOUT, STDERR) if not _is_open(number)]
    for number in missing:
        os.dup2(os.open(os.devnull, os.O_RDWR), number, inheritable=True)
    if STDERR in missing or sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    return STDOUT not in missing and sys.stdout is not None


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _flush() -> None:
    """Write out what was printed, so that a full disk is noticed here rather than at exit."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _let_go_of_stdout() -> None:
    """Write out what can be; let the rest go to nowhere, so that the exit is quiet."""
    try:
        _flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)


# ---- the report

SECRETS = (
    (
        re.compile(r"(?i)(--[\w-]*(?:password|secret|api-key|auth)[\w-]*|--token)([= ])\S+"),
        r"\1\2…",
    ),
    (re.compile(r"(\w+://)[^/\s@]+@"), r"\1…@"),
    (re.compile(r"\b(?:hf_|sk-|ghp_)[\w-]{8,}"), "…"),
)
"""What may stand in a command line or a message and is not for others to read."""


def _report(error: BaseException) -> str:
    """Write a report and return its path, or what to do where none can be written."""
    shown = "".join(traceback.format_exception(error))
    content = (
        f"llmpq {llmpq_sim.__version__}, Python {platform.python_version()}, "
        f"{platform.platform()}\n\n{shlex.join(sys.argv)}\n\n{shown}"
    )
    try:
        number, path = tempfile.mkstemp(prefix="llmpq-fault-", suffix=".txt")
        with os.fdopen(number, "w", encoding="utf-8") as stream:
            stream.write(_without_secrets(encodable(content)))
    except OSError as failed:
        return f"the command that led to it (a report cannot be written: {failed.strerror})"
    return path


def _without_secrets(text: str) -> str:
    for pattern, shown in SECRETS:
        text = pattern.sub(shown, text)
    return text
