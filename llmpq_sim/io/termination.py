"""Termination by SIGTERM, which ends a command as Ctrl-C does.

Schedulers, containers and ``timeout`` end processes so. What runs is unwound by an exception of
Ctrl-C's kind: files and folders are cleaned up, child processes ended, and what is kept is said.
"""

import signal
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, NoReturn

BY_CTRL_C = 128 + signal.SIGINT


class Termination(KeyboardInterrupt):
    """SIGTERM has come; an interruption for whoever catches one.

    Attributes:
        exit_code: of a process that ends so, as shells have it: 128 and the signal's number.
        has_come: whether this process was told to end.
    """

    exit_code: ClassVar[int] = 128 + signal.SIGTERM
    has_come: ClassVar[bool] = False


def interrupt_on_sigterm() -> None:
    """Let SIGTERM raise ``Termination`` in the main thread, from where this is called."""
    signal.signal(signal.SIGTERM, _raise)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise ``Termination`` in the main thread while something runs."""
    before = signal.getsignal(signal.SIGTERM)
    interrupt_on_sigterm()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def interruption_exit_code() -> int:
    """Return the exit code of a command that was interrupted and has kept what it had."""
    return Termination.exit_code if Termination.has_come else BY_CTRL_C


def _raise(_number: int, _frame: types.FrameType | None) -> NoReturn:
    Termination.has_come = True
    raise Termination
