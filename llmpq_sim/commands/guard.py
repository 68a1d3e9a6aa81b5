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
from io import TextIOWrapper

import llmpq_sim
from llmpq_sim.commands.interruption import interruption_text
from llmpq_sim.core.errors import LlmpqError, encodable

FAILED, FAULT, INTERRUPTED = 1, 70, 130
STDIN, STDOUT, STDERR = 0, 1, 2
OUT_OF_MEMORY = ("cannot allocate memory", "can't allocate memory", "not enough memory")
LOST_OUTPUT = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF, errno.EFBIG)

Tell = Callable[[str, int], None]
"""Is given the message of a failure and its exit code."""


def guarded(run: Callable[[], object], tell: Tell | None = None) -> int:
    """Run a command, and return the exit code of the process.

    Args:
        run: what the command does; it may exit by SystemExit, as click's commands do.
        tell: says that it failed; by default a line on stderr.
    """
    say = _on_stderr if tell is None else tell
    if not _has_streams():
        say("stdout is closed: give it a file, or /dev/null", FAILED)
        return FAILED
    try:
        code = _code_of(run)
        _flush()
    except BaseException as error:  # nothing passes: this is the outermost of all
        message, code = failure(error)
        _let_go_of_stdout()
        say(message, code)
    return code


def failure(error: BaseException) -> tuple[str, int]:
    """Return what is said of an exception that ended a command, and the exit code.

    What nobody foresaw is written to a report file, which the message names.
    """
    if isinstance(error, LlmpqError):
        return str(error), FAILED
    if isinstance(error, KeyboardInterrupt):
        return interruption_text(error), INTERRUPTED
    text = _one_line(str(error))
    if isinstance(error, MemoryError) or any(part in text.lower() for part in OUT_OF_MEMORY):
        return "not enough memory: ask for less, or give the machine more", FAILED
    if isinstance(error, BrokenPipeError):
        return "stdout was closed before all was written", FAILED
    if isinstance(error, OSError) and error.errno in LOST_OUTPUT:
        where = f" {error.filename}" if error.filename else ""
        return encodable(f"cannot write{where}: {error.strerror}"), FAILED
    kind = type(error).__name__
    what = "something is nested too deeply" if isinstance(error, RecursionError) else kind
    told = f"a fault of llmpq's own ({what}{': ' + text if text else ''})"
    return f"{told}; please report it with {_report(error)}", FAULT


def _on_stderr(message: str, code: int) -> None:
    line = message if code == INTERRUPTED else f"error: {message}"
    try:
        print(line, file=sys.stderr, flush=True)  # noqa: T201
    except OSError:  # stderr is gone as well; the exit code is left
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)


def _code_of(run: Callable[[], object]) -> int:
    try:
        run()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)  # noqa: T201
            return FAILED
        return 0 if ended.code is None else int(ended.code)
    return 0


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
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
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
