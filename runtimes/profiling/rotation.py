"""Rotation of weights and caches, which keeps them as cold as in serving.

The same work is done on copies in turn, so many that together they exceed the last-level cache: by
the time a copy comes round again, the others have pushed it out.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from runtimes.profiling.timing import Call

Copy = TypeVar("Copy")

MOST_COPIES = 256
"""More would take longer to make than to time. Only matrices of tiny models are that small."""

CACHES_FILLED = 2
"""Last-level caches that the copies fill together: caches do not always forget the oldest first."""


def copies_needed(copy_bytes: int, cache_bytes: int, most_bytes: int) -> int:
    """Return how many copies must take turns so that each is cold when its turn comes.

    Args:
        copy_bytes: of one copy.
        cache_bytes: of the last-level cache.
        most_bytes: of all copies together; at least one copy is made whatever it is.
    """
    copy_bytes = max(copy_bytes, 1)
    wanted = max(math.ceil(CACHES_FILLED * cache_bytes / copy_bytes), 2)
    return max(min(wanted, most_bytes // copy_bytes, MOST_COPIES), 1)


class Rotation:
    """A call that does the same work on another copy each time."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls
        self._next = 0

    @property
    def turns(self) -> int:
        """Calls after which the first copy's turn comes again."""
        return len(self._calls)

    def round(self) -> object:
        """Do the work on every copy once."""
        for _ in range(self.turns - 1):
            self()
        return self()

    def __call__(self) -> object:
        """Do the work on the copy whose turn it is."""
        call = self._calls[self._next]
        self._next = (self._next + 1) % len(self._calls)
        return call()


def rotated(copies: Sequence[Copy], work: Callable[[Copy], object]) -> Rotation:
    """Return a call that does some work on each of the copies in turn."""
    return Rotation([partial(work, copy) for copy in copies])
