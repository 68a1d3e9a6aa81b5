"""The instant by which a search is to end, known to every step however deep.

It is ambient, as the cancel scopes of Trio are, so that a solver called from a baseline called
from a planner need not be handed it. Without a time limit nothing here depends on the clock.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from math import inf

_deadline_s: ContextVar[float] = ContextVar("deadline_s", default=inf)


class OutOfTime(Exception):  # noqa: N818 - it ends a step as expected, it is no error
    """The time limit passed; what was found until then stands."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Let what runs inside end so many seconds from now, or earlier if a limit around it does."""
    until_s = inf if seconds is None else time.monotonic() + seconds
    token = _deadline_s.set(min(until_s, _deadline_s.get()))
    try:
        yield
    finally:
        _deadline_s.reset(token)


def share_of_time(share: float) -> AbstractContextManager[None]:
    """Let what runs inside take so much of the time left, so that later steps have some too."""
    return time_limit(share * time_left_s())


@contextmanager
def without_time_limit() -> Iterator[None]:
    """Let what runs inside take the time it needs: there is nothing yet that could be given."""
    token = _deadline_s.set(inf)
    try:
        yield
    finally:
        _deadline_s.reset(token)


def time_left_s() -> float:
    """Return the seconds left, infinitely many without a limit; 0 when it has passed."""
    until_s = _deadline_s.get()
    return inf if until_s == inf else max(until_s - time.monotonic(), 0.0)


def solver_options() -> dict[str, float]:
    """Return what tells HiGHS of the time left; nothing without a limit.

    Raises:
        OutOfTime: the time limit has passed.
    """
    check_time()
    left_s = time_left_s()
    return {} if left_s == inf else {"time_limit": left_s}


def check_time() -> None:
    """Raise when no time is left.

    Raises:
        OutOfTime: the time limit has passed.
    """
    if time_left_s() == 0.0:
        raise OutOfTime
