"""Interruptions of a command: what is kept of it, and how to go on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

NOTHING = "nothing was written"


@contextmanager
def keeping(kept: Callable[[], str]) -> Iterator[None]:
    """Add to an interruption of what runs meanwhile what is kept of it; an empty text is none."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        if text := kept():
            interruption.add_note(text)
        raise


def interruption_text(interruption: KeyboardInterrupt) -> str:
    """Return the line that says that a command was interrupted, and what it keeps."""
    notes = getattr(interruption, "__notes__", ())
    return f"interrupted; {'; '.join(notes) or NOTHING}"
