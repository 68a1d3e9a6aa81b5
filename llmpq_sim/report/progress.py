"""Progress on stderr, where someone can watch, and where C libraries print meanwhile."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from llmpq_sim.report.console import plain
from llmpq_sim.report.formatting import rate_text
from llmpq_sim.search.frame import SearchProgress

STEPS = {
    "bound": "bounding every micro-batching",
    "baselines": "planning as others do",
    "seeds": "seeking first plans",
    "front": "seeking plans of less loss",
    "generations": "improving plans",
    "certificate": "tightening the bound",
}
"""What each step of a search does, in words."""


@contextmanager
def progress_line(
    enabled: bool, console: Console | None, *, has_bar: bool = True
) -> Iterator[Callable[[str, float, str], None]]:
    """Give a callback that draws a text, a share of the work done and what else to say.

    Args:
        enabled: whether to draw at all.
        console: where to; stderr unless told. Nothing is drawn where it is no terminal.
        has_bar: whether the share is known and drawn.
    """
    screen = console or Console(stderr=True)
    if not (enabled and screen.is_terminal):
        yield lambda *_: None
        return
    bars = (BarColumn(bar_width=16),) if has_bar else ()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        *bars,
        TimeElapsedColumn(),
        TextColumn("{task.fields[more]}", markup=False),
    )
    with ProgressBar(*columns, console=screen, transient=True) as drawn:
        shown = drawn.add_task("starting", total=1.0, more="")
        yield lambda text, done, more: drawn.update(
            shown, description=plain(text).plain, completed=done, more=more
        )


@contextmanager
def progress_bar(
    enabled: bool, console: Console | None = None
) -> Iterator[Callable[[SearchProgress], None]]:
    """Give a callback that draws how far a search is, and clear it at the end."""
    with progress_line(enabled, console) as update:

        def show(progress: SearchProgress) -> None:
            step, total = STEPS.get(progress.step, progress.step), max(progress.total, 1)
            update(
                f"{step:<30} {progress.done}/{total}", progress.done / total, best_text(progress)
            )

        yield show


def best_text(progress: SearchProgress) -> str:
    """Return the throughput found so far, or nothing before there is any."""
    best = progress.best_tokens_per_s
    return "" if best is None else f"{rate_text(best)} tokens/s so far"


@contextmanager
def steps_shown(enabled: bool, console: Console | None = None) -> Iterator[Callable[[str], None]]:
    """Give a callback that shows the step at work, and clear it at the end.

    Args:
        enabled: whether to show at all.
        console: where to; stderr unless told. Nothing is shown where it is no terminal.
    """
    with progress_line(enabled, console, has_bar=False) as update:
        yield lambda step: update(step, 0.0, "")


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
