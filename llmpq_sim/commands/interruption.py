"""Interruptions of a command: what is kept of it, and how to go on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

NOTHING = "nothing was written"
BY_CTRL_C = 130
"""Exit code, as shells have it: 128 and the number of the signal."""


@contextmanager
def keeping(kept: Callable[[], str]) -> Iterator[None]:
    """Add to an interruption of what runs meanwhile what is kept of it; an empty text is none."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        if text := kept():
            interruption.add_note(text)
        raise


class Interrupted(Exception):  # noqa: N818 - what happened, no fault
    """A command was interrupted; the message says what it keeps.

    Attributes:
        exit_code: of the process.
    """

    def __init__(self, interruption: KeyboardInterrupt) -> None:
        notes = getattr(interruption, "__notes__", ())
        super().__init__(f"interrupted; {'; '.join(notes) or NOTHING}")
        self.exit_code: int = getattr(interruption, "exit_code", BY_CTRL_C)
