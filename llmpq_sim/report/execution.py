"""Screen of a prediction beside its measurement."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from llmpq_sim.core.units import GIB, MIB
from llmpq_sim.report.console import labelled, new_table, paragraph, plain, put, width_of
from llmpq_sim.report.execution_comparison import Comparison, Figure, StageComparison
from llmpq_sim.report.execution_summary import (
    LABELS,
    comparison_headline,
    comparison_notes,
    error_text,
    execution_parts,
    reading_sentences,
    run_parts,
    verdict_text,
)
from llmpq_sim.report.formatting import percent_text, rate_text, seconds_text
from llmpq_sim.report.summary import trust_parts, used_profiles

FIGURE_HEADINGS = ("predicted", "measured", "error")
STAGE_HEADINGS = (
    "memory\npredicted", "\nmeasured", "\nerror", "busy\npredicted", "\nmeasured", "\nerror",
)  # fmt: skip
VISIT_HEADINGS = ("visits\npredicted", "\nmeasured", "mean time\npredicted", "\nmeasured")


def show_comparison(console: Console, comparison: Comparison, written: Sequence[str] = ()) -> None:
    """Write a prediction beside its measurement, the answer first.

    Args:
        console: where to.
        comparison: what to show.
        written: sentences on files that were written beside it.
    """
    width = width_of(console)
    headline = paragraph(comparison_headline(comparison), width)
    headline.stylize("bold")
    put(console, headline)
    put(console, *(paragraph(text, width) for text in reading_sentences(comparison)), "")
    _put_facts(console, comparison)
    put(console, "", figure_table(comparison.figures))
    put(console, "", stage_comparison_table(comparison.stages))
    put(console, "", visit_table(comparison.stages))
    for text in written:
        put(console, "", plain(text))


def _put_facts(console: Console, comparison: Comparison) -> None:
    saved = comparison.saved
    rows = [
        ("scenario", execution_parts(comparison)),
        ("run", run_parts(comparison)),
        ("profiles", trust_parts(used_profiles(saved.plan, saved.task))),
    ]
    notes = comparison_notes(comparison)
    rows += [("" if number else "notes", [note]) for number, note in enumerate(notes)]
    put(console, labelled(rows, width_of(console)))


def figure_table(figures: Sequence[Figure]) -> Table:
    """Return the figures of the whole pipeline, predicted and measured."""
    table = new_table("whole pipeline", *FIGURE_HEADINGS, "stated", right=FIGURE_HEADINGS)
    for figure in figures:
        table.add_row(LABELS[figure.name], *_cells(figure), verdict_text(figure))
    return table


def stage_comparison_table(stages: Sequence[StageComparison]) -> Table:
    """Return memory and busy share of each stage, predicted and measured."""
    table = new_table("\nstage", "\ndevice", *STAGE_HEADINGS, right=("\nstage", *STAGE_HEADINGS))
    for stage in stages:
        figures = (*_cells(stage.memory), *_cells(stage.busy))
        table.add_row(str(stage.number), plain(stage.device), *figures)
    return table


def visit_table(stages: Sequence[StageComparison]) -> Table:
    """Return how many visits of each phase a stage had and how long they took on average."""
    right = ("\nstage", *VISIT_HEADINGS, "\nerror")
    table = new_table("\nstage", "\nphase", *VISIT_HEADINGS, "\nerror", "\nstated", right=right)
    for stage in stages:
        for phase in stage.phases:
            counts = (str(phase.predicted_visits), str(phase.measured_visits))
            figures = (*counts, *_cells(phase.visit), verdict_text(phase.visit))
            table.add_row(str(stage.number), phase.phase, *figures)
    return table


def _cells(figure: Figure) -> tuple[str, str, str]:
    return (
        _value_text(figure, figure.predicted),
        _value_text(figure, figure.measured),
        error_text(figure),
    )


def _value_text(figure: Figure, value: float) -> str:
    match figure.kind:
        case "rate":
            return rate_text(value)
        case "time":
            return seconds_text(value)
        case "bytes":
            return size_text(value)
        case "share":
            return percent_text(value, 1)


def size_text(size_bytes: float) -> str:
    """Return a size with at least three digits, such as ``87.3 MiB`` or ``1.21 GiB``."""
    value, unit = (size_bytes / GIB, "GiB") if size_bytes >= GIB else (size_bytes / MIB, "MiB")
    decimals = 2 if value < 10 else 1
    return f"{value:.{decimals}f} {unit}"
