"""Tables of figures beside each other."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from llmpq_sim.core.result import SimulationResult
from llmpq_sim.core.units import gib
from llmpq_sim.latency.fitting.fit import FitError
from llmpq_sim.report.comparison import ComparisonRow, WhatIfRow
from llmpq_sim.report.console import WIDTH, new_table, plain
from llmpq_sim.report.formatting import (
    bar,
    folded,
    format_parts,
    percent_text,
    rate_text,
    seconds_text,
)
from llmpq_sim.report.front import FrontRow
from llmpq_sim.report.listings import Listing
from llmpq_sim.report.quality import loss_with_interval
from llmpq_sim.report.stages import StageRow

BAR_WIDTH = 8
"""Width of a bar, less where the console is too narrow for it."""

FORMATS_WIDTH = 20
NAME_WIDTH = 18
LEAST_NOTES_WIDTH = 10

COMPARISON_HEADINGS = ("tokens/s", "this plan is", "quality loss")
WHAT_IF_HEADINGS = ("what if (at least)", "tokens/s", "change")
ERROR_HEADINGS = ("median", "90th percentile", "rows")
SUMMARY_HEADINGS = ("mean", "p50", "p90", "p95", "p99")


def stage_table(rows: Sequence[StageRow], width: int) -> Table:
    """Return stages with their layers, and bars of their memory and busy time."""
    bar_width = min(max(BAR_WIDTH - (WIDTH - width + 1) // 2, 0), BAR_WIDTH)
    table = new_table("stage", "device", "layers", "formats", "memory", "busy", right=("stage",))
    table.columns[4].no_wrap = table.columns[5].no_wrap = True
    for row in rows:
        table.add_row(
            str(row.number),
            plain(row.device),
            row.layers_text,
            plain("\n".join(folded(format_parts(row.formats), FORMATS_WIDTH, ", "))),
            _memory_cell(row, bar_width),
            _busy_cell(row, bar_width),
        )
    return table


def _memory_cell(row: StageRow, bar_width: int) -> Text:
    figures = f"{gib(row.memory_bytes):>5} / {gib(row.limit_bytes)} GiB"
    style = "cyan" if row.memory_bytes <= row.limit_bytes else "red"
    return Text.assemble((bar(row.memory_bytes / row.limit_bytes, bar_width), style), figures)


def _busy_cell(row: StageRow, bar_width: int) -> Text:
    busy = row.busy_fraction
    if busy is None:
        return Text("-")
    return Text.assemble((bar(busy, bar_width), "green"), f"{percent_text(busy):>6}")


def comparison_table(rows: Sequence[ComparisonRow], width: int) -> Table:
    """Return plans with their figures; the reason against a plan takes the place of its figures."""
    room = width - NAME_WIDTH
    headings = _columns(COMPARISON_HEADINGS, COMPARISON_HEADINGS, ["formats"], room)
    table = new_table("plan", headings)
    for number, row in enumerate(rows):
        style = "bold" if number == 0 else ""
        figures = _columns(row.figures, COMPARISON_HEADINGS, row.notes, room)
        shown = " ".join(row.notes) if row.tokens_per_s is None else figures
        table.add_row(plain(row.name, style), plain(shown, style))
    return table


def what_if_table(rows: Sequence[WhatIfRow]) -> Table:
    """Return changes with the throughput they would give."""
    table = new_table(*WHAT_IF_HEADINGS, right=WHAT_IF_HEADINGS[1:])
    for row in rows:
        table.add_row(plain(row.label), *row.figures)
    return table


def _columns(
    figures: Sequence[str], headings: Sequence[str], notes: Sequence[str], width: int
) -> str:
    """Return figures below the right ends of their headings, and notes in lines behind them."""
    below = zip(figures, headings, strict=True)
    aligned = "  ".join(f"{text:>{len(heading)}}" for text, heading in below) + "   "
    room = max(width - len(aligned), LEAST_NOTES_WIDTH)
    first, *others = folded(notes, room, ", ") or [""]
    return "\n".join([aligned + first, *(" " * len(aligned) + line for line in others)])


def front_table(rows: Sequence[FrontRow], measure: str) -> Table:
    """Return plans between the fastest and the least damaging, by the measure of losses."""
    headings = ("tokens/s", measure, "stages")
    table = new_table(*headings, "formats", right=headings)
    for row in rows:
        loss = loss_with_interval(row.loss, row.interval)
        figures = (rate_text(row.tokens_per_s), loss, str(row.stages))
        table.add_row(*figures, plain(", ".join(row.formats)))
    return table


def latency_table(result: SimulationResult) -> Table:
    """Return what requests wait for their tokens: mean and percentiles."""
    table = new_table("time of a request", *SUMMARY_HEADINGS, right=SUMMARY_HEADINGS)
    for name, summary in (
        ("to its first token (TTFT)", result.ttft_s),
        ("per further token (TPOT)", result.tpot_s),
        ("to its last token", result.latency_s),
    ):
        times_s = (summary.mean, summary.p50, summary.p90, summary.p95, summary.p99)
        table.add_row(name, *(seconds_text(time_s) for time_s in times_s))
    return table


def listing_table(listing: Listing) -> Table:
    """Return what ships of one kind; columns of numbers are aligned to the right."""
    numbers = [
        heading
        for heading, *cells in zip(listing.columns, *listing.rows, strict=True)
        if all(cell.replace(".", "", 1).isdigit() or not cell for cell in cells)
    ]
    table = new_table(*listing.columns, right=numbers)
    for row in listing.rows:
        table.add_row(*map(plain, row))
    return table


def error_table(title: str, errors: Sequence[FitError]) -> Table:
    """Return how far predictions are from measurements, by what was predicted."""
    table = new_table(title, "format", "phase", *ERROR_HEADINGS, right=ERROR_HEADINGS)
    for error in errors:
        shares = (percent_text(error.median_ape, 1), percent_text(error.p90_ape, 1))
        names = map(plain, (error.op, error.format, error.phase))
        table.add_row(*names, *shares, str(error.rows))
    return table
