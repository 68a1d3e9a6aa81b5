"""Comparison of a plan with baselines, and with a cluster of one device less."""

from dataclasses import dataclass

from llmpq_sim.report.formatting import format_parts, loss_text, rate_text
from llmpq_sim.search.baselines.simple import Baseline
from llmpq_sim.search.planner import SearchOutcome
from llmpq_sim.search.scoring import PlanScore


@dataclass(frozen=True)
class ComparisonRow:
    """A plan beside the one found.

    Attributes:
        name: what it is called.
        tokens_per_s: its throughput, or None where it is not feasible.
        speedup: throughput of the plan found over its own; None for the plan found itself.
        loss: its quality loss.
        notes: its formats, or why it is not feasible.
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
    """Return the plan found, then each baseline in its order."""
    best = outcome.best
    rows = [(Baseline("this plan", best, None)), *outcome.baselines]
    return [_row(baseline, best) for baseline in rows]


def _row(baseline: Baseline, best: PlanScore) -> ComparisonRow:
    score = baseline.score
    if score is None or score.result is None:
        why_not = baseline.why_not or "not feasible"
        return ComparisonRow(baseline.name, None, None, None, [why_not])
    return ComparisonRow(
        name=baseline.name,
        tokens_per_s=score.result.tokens_per_s,
        speedup=None if score is best else score.makespan_s / best.makespan_s,
        loss=score.loss,
        notes=format_parts(score.plan.layer_formats),
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
