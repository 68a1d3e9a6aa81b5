"""Comparison of a plan: with baselines, with one device less, and with its Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmpq_sim.report.formatting import format_parts, loss_text, rate_text
from llmpq_sim.report.quality import interval_of
from llmpq_sim.search.scoring import PlanScore

if TYPE_CHECKING:
    from llmpq_sim.search.baselines.simple import Baseline
    from llmpq_sim.search.planner import SearchOutcome

MOST_ROWS = 20


@dataclass(frozen=True)
class ComparisonRow:
    """A plan beside the one found.

    Attributes:
        name: what it is called.
        tokens_per_s: its throughput, or None where it is not feasible.
        speedup: throughput of the plan found over its own; None for the plan found itself, and for
            a baseline that ended where it started.
        loss: its quality loss.
        notes: its formats, or why it is not feasible or could not move.
    """

    name: str
    tokens_per_s: float | None
    speedup: float | None
    loss: float | None
    notes: list[str]

    @property
    def figures(self) -> tuple[str, str, str]:
        """Throughput, speedup and loss as tables show them; empty where there is none."""
        return (
            "" if self.tokens_per_s is None else rate_text(self.tokens_per_s),
            "" if self.speedup is None else f"x{self.speedup:.2f}",
            "" if self.loss is None else loss_text(self.loss),
        )


@dataclass(frozen=True)
class WhatIfRow:
    """What the throughput would be with something changed.

    Attributes:
        label: what is changed.
        tokens_per_s: throughput then, or None where no plan was found.
        change_fraction: how much more that is than the plan found has, negative if it is less.
    """

    label: str
    tokens_per_s: float | None
    change_fraction: float | None

    @property
    def figures(self) -> tuple[str, str]:
        """Throughput and change as tables show them."""
        if self.tokens_per_s is None or self.change_fraction is None:
            return "", "no plan"
        return rate_text(self.tokens_per_s), f"{100 * self.change_fraction:+.1f} %"


def comparison_rows(outcome: SearchOutcome) -> list[ComparisonRow]:
    """Return the plan, the best without its pins where one was sought, then each baseline."""
    from llmpq_sim.search.baselines.simple import Baseline  # noqa: PLC0415 - loads all planners

    best = outcome.best
    unpinned = outcome.unpinned
    free = [] if unpinned is None else [Baseline("without pins", unpinned, None)]
    rows = [Baseline("this plan", best, None), *free, *outcome.baselines]
    return [_row(baseline, best) for baseline in rows]


def _row(baseline: Baseline, best: PlanScore) -> ComparisonRow:
    score = baseline.score
    if score is None or score.result is None:
        infeasible_reason = baseline.infeasible_reason or "not feasible"
        return ComparisonRow(baseline.name, None, None, None, [infeasible_reason])
    formats, unmoved = format_parts(score.plan.layer_formats), baseline.unmoved_reason
    is_compared = score is not best and unmoved is None
    return ComparisonRow(
        name=baseline.name,
        tokens_per_s=score.result.tokens_per_s,
        speedup=score.makespan_s / best.makespan_s if is_compared else None,
        loss=score.loss,
        notes=formats if unmoved is None else [*formats, unmoved],
    )


def what_if_rows(outcome: SearchOutcome) -> list[WhatIfRow]:
    """Return what would be with something changed, in the order of the outcome."""
    tokens = outcome.task.costs.scenario.workload.total_output_tokens
    return [
        WhatIfRow(
            label=changed.label,
            tokens_per_s=(rate := changed.tokens_per_s),
            change_fraction=None if rate is None else rate * outcome.best.makespan_s / tokens - 1,
        )
        for changed in outcome.what_if
    ]


@dataclass(frozen=True)
class FrontRow:
    """One plan of the front."""

    tokens_per_s: float
    loss: float
    interval: float | None
    formats: list[str]
    stages: int


@dataclass(frozen=True)
class Mark:
    """A point of the scatter: quality loss to the right, throughput upwards."""

    loss: float
    tokens_per_s: float
    symbol: str


def front_rows(outcome: SearchOutcome) -> list[FrontRow]:
    """Return the plans of the front, the fastest first."""
    rows = [
        FrontRow(
            tokens_per_s=score.result.tokens_per_s,
            loss=score.loss,
            interval=interval_of(score.plan, outcome.task),
            formats=format_parts(score.plan.layer_formats),
            stages=len(score.plan.stages),
        )
        for score in outcome.front
        if score.result is not None
    ]
    return sorted(rows, key=lambda row: (-row.tokens_per_s, row.loss))


def thinned(rows: Sequence[FrontRow], most: int = MOST_ROWS) -> list[FrontRow]:
    """Return at most so many rows, evenly spread, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(number * (len(rows) - 1) / (most - 1))] for number in range(most)]


def front_marks(outcome: SearchOutcome) -> list[Mark]:
    """Return the baselines as ``+`` and, drawn over them, the front as ``o``."""
    others = [baseline.score for baseline in outcome.baselines]
    marks = [Mark(s.loss, s.result.tokens_per_s, "+") for s in others if s and s.result]
    return marks + [Mark(row.loss, row.tokens_per_s, "o") for row in front_rows(outcome)]


def scatter_lines(marks: Sequence[Mark], width: int, height: int, measure: str) -> list[str]:
    """Return a scatter of marks in so many columns and rows, axes and labels included.

    Later marks cover earlier ones. Both axes span the marks and need not start at zero; the one to
    the right is named after the measure of losses.
    """
    if not marks:
        return []
    losses, rates = [mark.loss for mark in marks], [mark.tokens_per_s for mark in marks]
    labels = [rate_text(max(rates)), rate_text(min(rates))]
    margin = max(len(label) for label in labels)
    rows, columns = height - 2, max(width - margin - 2, 1)
    grid = [[" "] * columns for _ in range(rows)]
    for mark in marks:
        column = _place(mark.loss, min(losses), max(losses), columns)
        row = _place(mark.tokens_per_s, max(rates), min(rates), rows)
        grid[row][column] = mark.symbol
    ticks = {0: labels[0], rows - 1: labels[1]}
    lines = [
        f"{ticks.get(number, ''):>{margin}} │{''.join(row)}".rstrip()
        for number, row in enumerate(grid)
    ]
    least, most = loss_text(min(losses)), loss_text(max(losses))
    axis = f"{least}{f' {measure} ':^{max(columns - len(least) - len(most), 0)}}{most}"
    return [*lines, " " * margin + " └" + "─" * columns, " " * (margin + 2) + axis]


def _place(value: float, first: float, last: float, places: int) -> int:
    """Return where a value lies between the first place, 0, and the last."""
    return 0 if first == last else round((value - first) / (last - first) * (places - 1))
