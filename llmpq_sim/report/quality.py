"""Sentences on a plan's quality loss and its uncertainty."""

from math import isfinite

from llmpq_sim.core.plan import Plan
from llmpq_sim.report.formatting import loss_text, rate_text
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.scoring import PlanScore

Content = dict[str, object]


def quality_parts(score: PlanScore, task: PlanningTask) -> list[str]:
    """Return a plan's loss beside its budget, and its perplexity where that can be estimated."""
    quality = task.quality
    if not quality.is_measured:
        measure, budget = quality.measure, loss_text(score.budget)
        return [f"quality loss {loss_text(score.loss)} of {budget} {measure}"]
    said = loss_with_interval(score.loss, interval_of(score.plan, task))
    parts = [f"{said} {quality.measure} (budget {loss_text(score.budget)})"]
    estimated, reference = quality.perplexity(score.loss), quality.perplexity(0.0)
    if estimated is not None and reference is not None:
        parts.append(f"perplexity about {rate_text(estimated)} (16 bit: {rate_text(reference)})")
    return parts


def loss_with_interval(loss: float, interval: float | None) -> str:
    """Return a loss with how far it may be off, such as ``0.0210 ± 0.0040``."""
    return loss_text(loss) if interval is None else f"{loss_text(loss)} ± {loss_text(interval)}"


def interval_of(plan: Plan, task: PlanningTask) -> float | None:
    """Return how far a plan's loss may be off to either side; None where that is not known."""
    if not task.quality.is_measured:
        return None
    return task.quality.interval(plan.layer_formats)


def may_miss_budget(score: PlanScore, task: PlanningTask) -> bool:
    """Return whether the budget lies within the interval of a plan's loss."""
    interval = interval_of(score.plan, task)
    return interval is not None and abs(score.budget - score.loss) < interval


def risk_sentences(score: PlanScore, task: PlanningTask, plan_file: str = "...") -> list[str]:
    """Return what to say where a plan may lose more than its budget.

    Args:
        score: the plan, scored.
        task: what it was made for.
        plan_file: the name of its file, as a shell reads it.
    """
    if not may_miss_budget(score, task):
        return []
    return [
        "The plan may miss the target: check with llmpq quality MODEL_DIR --plan "
        f"{plan_file} --text FILE."
    ]


def quality_content(score: PlanScore, task: PlanningTask) -> Content:
    """Return a plan's loss with its interval and budget as plain data; null is not known."""
    quality = task.quality
    estimated = quality.perplexity(score.loss)
    return {
        "loss": _finite(score.loss),
        "interval": _finite(interval_of(score.plan, task)),
        "budget": score.budget,
        "measure": quality.measure,
        "may_miss_budget": may_miss_budget(score, task),
        "perplexity": _finite(estimated),
        "reference_perplexity": _finite(quality.perplexity(0.0)),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
