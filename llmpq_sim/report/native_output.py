"""Guard of standard output against libraries written in C that print to it."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def native_output_on_stderr() -> Iterator[None]:
    """Send what C libraries print to standard output to standard error meanwhile.

    HiGHS prints a line of its own in rare cases, which would damage the JSON of a command.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what C buffered would otherwise follow later
        os.dup2(kept, 1)
        os.close(kept)
