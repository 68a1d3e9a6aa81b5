"""JSON of answers: plain data in SI units."""

from dataclasses import asdict
from math import isfinite
from typing import Any

from llmpq_sim.api.verify import Verification
from llmpq_sim.core.result import Summary
from llmpq_sim.io.plans import plan_to_content
from llmpq_sim.latency.fitting.fit import FitReport
from llmpq_sim.report.formatting import format_counts
from llmpq_sim.report.quality import interval_of, quality_content
from llmpq_sim.report.summary import error_fraction, plan_profiles
from llmpq_sim.search.baselines.simple import Baseline
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.planner import SearchOutcome
from llmpq_sim.search.scoring import PlanScore

SEARCH_SCHEMA = "llmpq/search-report"
SIMULATION_SCHEMA = "llmpq/simulation"
VERIFICATION_SCHEMA = "llmpq/verification"
FIT_SCHEMA = "llmpq/fit-report"
VERSION = 1

Content = dict[str, Any]


def search_content(outcome: SearchOutcome, plan: Content, plan_file: str | None) -> Content:
    """Return what a search found as plain data without NaN or infinity.

    Args:
        outcome: what was found.
        plan: the content of the plan file.
        plan_file: its name, or None if it was not written.
    """
    best = outcome.best
    content = {
        "schema": SEARCH_SCHEMA,
        "version": VERSION,
        "plan": plan,
        "plan_file": plan_file,
        "predicted": _predicted(best, outcome.task),
        "bound": {
            "tokens_per_s": _finite(outcome.bound_tokens_per_s),
            "makespan_s": _finite(outcome.certificate.bound_s),
            "gap_fraction": _finite(outcome.gap_fraction),
        },
        "quality": quality_content(best, outcome.task),
        "baselines": [_baseline(baseline) for baseline in outcome.baselines],
        "what_if": [asdict(changed) for changed in outcome.what_if],
        "search": {
            "seconds": outcome.seconds,
            "evaluations": outcome.evaluations,
            "generations": outcome.generations,
            "seed": outcome.settings.seed,
            "ended": outcome.ended,
        },
    }
    if outcome.settings.wants_front:
        content["front"] = [_front_member(score, outcome.task) for score in outcome.front]
    return content


def predicted_content(score: PlanScore, task: PlanningTask) -> Content:
    """Return what a plan is predicted to do as plain data; null where it does not fit."""
    result = score.result
    return {
        "schema": SIMULATION_SCHEMA,
        "version": VERSION,
        "requests": task.costs.scenario.workload.requests,
        "finished": result.finished if result else 0,
        "requests_per_s": result and _finite(result.requests_per_s),
        **_predicted(score, task),
        "quality": quality_content(score, task),
    }


def verification_content(verification: Verification) -> Content:
    """Return what a plan's certificate proves as plain data."""
    return {
        "schema": VERIFICATION_SCHEMA,
        "version": VERSION,
        "bound_s": _finite(verification.bound_s),
        "makespan_s": _finite(verification.score.makespan_s),
        "gap_fraction": _finite(verification.gap_fraction),
        "micro_batchings": verification.entries,
        "refined": verification.refined,
    }


def fit_content(report: FitReport, profile_file: str) -> Content:
    """Return what a fit made, and its errors, as plain data."""
    profile = report.profile
    return {
        "schema": FIT_SCHEMA,
        "version": VERSION,
        "profile_file": profile_file,
        "device": profile.device,
        "kernels": profile.kernels,
        "status": profile.status,
        "error_fraction": profile.error_fraction,
        "formats": list(profile.formats),
        "notes": list(profile.notes),
        "rows_used": report.rows_used,
        "rows_dropped": dict(report.rows_dropped),
        "errors": [asdict(error) for error in report.errors],
        "baseline_errors": [asdict(error) for error in report.baseline_errors],
    }


def _predicted(score: PlanScore, task: PlanningTask) -> Content:
    result = score.result
    return {
        "makespan_s": result and _finite(result.makespan_s),
        "tokens_per_s": result and _finite(result.tokens_per_s),
        "stage_busy_fraction": result and [_finite(part) for part in result.stage_busy_fraction],
        "stage_memory_bytes": [stage.total_bytes for stage in score.memory],
        "stage_memory_limit_bytes": [stage.limit_bytes for stage in score.memory],
        "ttft_s": result and _summary(result.ttft_s),
        "tpot_s": result and _summary(result.tpot_s),
        "latency_s": result and _summary(result.latency_s),
        "error_fraction": error_fraction(plan_profiles(score, task)),
    }


def _baseline(baseline: Baseline) -> Content:
    score = baseline.score
    result = score.result if score else None
    return {
        "name": baseline.name,
        "feasible": result is not None,
        "tokens_per_s": result and _finite(result.tokens_per_s),
        "quality_loss": score and _finite(score.loss),
        "why_not": baseline.why_not,
    }


def _front_member(score: PlanScore, task: PlanningTask) -> Content:
    return {
        "tokens_per_s": score.result and _finite(score.result.tokens_per_s),
        "quality_loss": score.loss,
        "quality_interval": interval_of(score.plan, task),
        "formats": format_counts(score.plan.layer_formats),
        "plan": plan_to_content(score.plan),
    }


def _summary(summary: Summary) -> Content:
    return {name: _finite(value) for name, value in asdict(summary).items()}


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
