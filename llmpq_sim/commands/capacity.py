"""Options of ``llmpq simulate`` on what fits at once and on closed loops of several sizes."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmpq_sim.commands.options import BatchOptions, SpreadOptions
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.limits import MOST_TRACE_REQUESTS, check_count

if TYPE_CHECKING:
    from llmpq_sim.api import ServingOptions, TraceOptions
    from llmpq_sim.io.plans import SavedPlan


@dataclass(frozen=True)
class CapacityOptions:
    """What fits at once."""

    capacity: Annotated[
        bool, typer.Option("--capacity", help="Say what fits at once, and simulate nothing.")
    ] = False
    context_tokens: Annotated[
        int | None,
        typer.Option("--context", help="With --capacity: requests of so many tokens.", min=2),
    ] = None
    sequences: Annotated[
        int | None,
        typer.Option(help="With --capacity: the longest context of so many.", min=1),
    ] = None


@dataclass(frozen=True)
class SweepOptions:
    """Closed loops of several sizes."""

    sweep_concurrency: Annotated[
        str | None,
        typer.Option(help="A row for each number of requests in flight, such as 1,2,4,8."),
    ] = None

    @property
    def concurrencies(self) -> list[int]:
        """The sizes of the loops, each once, in the order in which they were given.

        Raises:
            InputError: they are no whole numbers above 0.
        """
        sizes = []
        for part in (self.sweep_concurrency or "").split(","):
            text = part.strip()
            if not (text.isascii() and text.isdigit() and len(text) < 20):
                raise InputError(
                    "--sweep-concurrency: expected whole numbers with commas between, such as "
                    f"1,2,4,8, got {self.sweep_concurrency!r}"
                )
            size = check_count("--sweep-concurrency", int(text), MOST_TRACE_REQUESTS, "in flight")
            sizes.append(size)
        return list(dict.fromkeys(sizes))


def print_capacity(
    plan: "SavedPlan | Path",
    batch: BatchOptions,
    trace: "TraceOptions | None",
    serving: "ServingOptions",
    asked: CapacityOptions,
    *,
    as_json: bool,
) -> None:
    """Print what fits a plan at once: its batch, another, or the requests of a trace."""
    from llmpq_sim.api import capacity
    from llmpq_sim.report.capacity import CAPACITY_SCHEMA, VERSION, capacity_content, show_capacity
    from llmpq_sim.report.console import answer_console, print_json

    found = capacity(
        plan,
        batch=batch.batch,
        prompt_tokens=batch.prompt_tokens,
        output_tokens=batch.outputs,
        trace=trace,
        options=serving,
        context_tokens=asked.context_tokens,
        sequences=asked.sequences,
    )
    if as_json:
        head = {"schema": CAPACITY_SCHEMA, "version": VERSION}
        print_json(head | {"capacity": capacity_content(found)})
        return
    show_capacity(answer_console(), found)


def print_sweep(
    plan: "SavedPlan",
    sizes: SweepOptions,
    trace: "TraceOptions",
    serving: "ServingOptions",
    at_once: SpreadOptions,
    *,
    as_json: bool,
) -> None:
    """Print what a plan does with ever more requests in flight."""
    from llmpq_sim.api import sweep_concurrency
    from llmpq_sim.report.console import answer_console, print_json
    from llmpq_sim.report.progress import steps_shown
    from llmpq_sim.report.sweep import show_sweep, sweep_content

    with at_once.at_once() as workers, steps_shown(sys.stderr.isatty()) as show:
        found = sweep_concurrency(
            plan,
            concurrencies=sizes.concurrencies,
            trace=trace,
            options=serving,
            on_point=lambda point: show(
                f"{point.concurrency} in flight: {point.result.tokens_per_s:.1f} tokens/s"
            ),
            workers=workers,
        )
    if as_json:
        print_json(sweep_content(found))
        return
    show_sweep(answer_console(), found)
