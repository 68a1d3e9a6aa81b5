"""How far is a search or a fit? Drawn on stderr, and only where someone can watch it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from llmpq_sim.report.drawing import plain
from llmpq_sim.report.words import rate_text
from llmpq_sim.search.planner import Progress

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
def progress_bar(
    enabled: bool, console: Console | None = None
) -> Iterator[Callable[[Progress], None]]:
    """Give a callback that draws progress, and clear the bar at the end.

    Args:
        enabled: whether to draw at all.
        console: where to; stderr unless told. Nothing is drawn where it is no terminal.
    """
    screen = console or Console(stderr=True)
    if not (enabled and screen.is_terminal):
        yield lambda _: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[best]}"),
    )
    with ProgressBar(*columns, console=screen, transient=True) as drawn:
        shown = drawn.add_task("starting", total=1, best="")

        def show(progress: Progress) -> None:
            drawn.update(
                shown,
                description=f"{STEPS.get(progress.step, progress.step):<30}",
                completed=progress.done,
                total=max(progress.total, 1),
                best=best_text(progress),
            )

        yield show


def best_text(progress: Progress) -> str:
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
    screen = console or Console(stderr=True)
    if not (enabled and screen.is_terminal):
        yield lambda _: None
        return
    with screen.status("starting") as status:
        yield lambda step: status.update(plain(step))
