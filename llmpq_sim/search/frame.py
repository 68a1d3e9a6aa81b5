"""Frame of every search: its time budget, interruptions, and who is told of its progress."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from llmpq_sim.search.deadline import OutOfTime, time_left_s

Ending = Literal["done", "budget", "interrupted"]


@dataclass(frozen=True)
class SearchProgress:
    """What a search reports while it runs: its step, and how far it is."""

    step: str
    done: int
    total: int
    best_tokens_per_s: float | None


@dataclass
class SearchFrame:
    """The course of one search.

    Attributes:
        on_progress: receives every step.
        best_tokens_per_s: of the best found so far, or None.
        ended: why the search stopped, or is to stop.
        cut_short: what was ended or left out for want of time, in order.
        started_s: when it began, by the monotonic clock.
    """

    on_progress: Callable[[SearchProgress], None]
    best_tokens_per_s: float | None = None
    ended: Ending = "done"
    cut_short: list[str] = field(default_factory=list)
    started_s: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long the search has run."""
        return time.monotonic() - self.started_s

    def has_time(self, step: str) -> bool:
        """Return whether a step may begin; without time it counts as cut short."""
        if self.ended == "interrupted":
            return False
        if time_left_s() == 0.0:
            self.cut(step)
            return False
        return True

    def cut(self, step: str) -> None:
        """Note that a step was cut short by the time budget."""
        self.ended = "budget"
        if step not in self.cut_short:
            self.cut_short.append(step)

    @contextmanager
    def step(self, name: str, is_kept: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Let a step end early, by the deadline or by Ctrl-C, and the search go on to its answer.

        Args:
            name: what is said to be cut short.
            is_kept: whether there is an answer to give after an interruption; without one, the
                interruption ends the search.
        """
        try:
            yield
        except OutOfTime:
            self.cut(name)
        except KeyboardInterrupt:
            if not is_kept():
                raise
            self.ended = "interrupted"

    def tell(self, step: str, done: int, total: int) -> None:
        """Tell how far a step is."""
        self.on_progress(SearchProgress(step, done, total, self.best_tokens_per_s))

    def told(self, step: str) -> Callable[[int, int], None]:
        """Return what a step calls with how much is done, of how much."""
        return lambda done, total: self.tell(step, done, total)
