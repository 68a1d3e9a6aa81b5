"""JSON of every answer: plain data in SI units."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Any

import llmpq_sim
from llmpq_sim.core.capacity import batch_capacity
from llmpq_sim.core.records import to_dict
from llmpq_sim.core.result import SimulationResult, Summary
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.report.alone import alone_content
from llmpq_sim.report.capacity import capacity_content
from llmpq_sim.report.eviction_advice import eviction_content
from llmpq_sim.report.formatting import format_counts
from llmpq_sim.report.layer_kinds import layer_kinds_content
from llmpq_sim.report.memory import memory_content
from llmpq_sim.report.quality import interval_of, quality_content
from llmpq_sim.report.rate_limit import rate_limit_content
from llmpq_sim.report.speeds import batch_speeds, service_speeds
from llmpq_sim.report.summary import error_fraction, plan_profiles, used_profiles
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.scoring import PlanScore

if TYPE_CHECKING:
    from llmpq_sim.api.replaying import Replay
    from llmpq_sim.api.verification import Verification
    from llmpq_sim.latency.fitting.fit import FitReport
    from llmpq_sim.report.execution_comparison import Comparison, Figure, StageComparison
    from llmpq_sim.search.baselines.simple import Baseline
    from llmpq_sim.search.planner import SearchOutcome
    from llmpq_sim.simulator.continuous.max_rate import MaxRate
    from llmpq_sim.simulator.continuous.saturation import Queue
    from llmpq_sim.simulator.continuous.service import Service

SEARCH_SCHEMA = "llmpq/search-report"
SIMULATION_SCHEMA = "llmpq/simulation"
VERIFICATION_SCHEMA = "llmpq/verification"
FIT_SCHEMA = "llmpq/fit-report"
COMPARISON_SCHEMA = "llmpq/comparison"
VERSION = 1

Content = dict[str, Any]


def search_content(outcome: SearchOutcome, plan: Content, plan_file: str | None) -> Content:
    """Return what a search found as plain data without NaN or infinity.

    Args:
        outcome: what was found.
        plan: the content of the plan file.
        plan_file: its name, or None if it was not written.
    """
    best, requests = outcome.best, outcome.task.costs.scenario.workload.requests
    content = {
        "schema": SEARCH_SCHEMA,
        "version": VERSION,
        "plan": plan,
        "plan_file": plan_file,
        "predicted": _predicted(best, outcome.task),
        "bound": {
            "tokens_per_s": finite(outcome.bound_tokens_per_s),
            "requests_per_s": finite(requests / outcome.certificate.bound_s),
            "makespan_s": finite(outcome.certificate.bound_s),
            "gap_fraction": finite(outcome.gap_fraction),
        },
        **layer_kinds_content(outcome.task.costs.scenario.model),
        "capacity": _batch_capacity(best, outcome.task),
        **_apart(best, outcome.task),
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
    if outcome.pins is not None:
        content["pins"] = to_dict(outcome.pins)
    if outcome.unpinned is not None:
        content["without_pins"] = _front_member(outcome.unpinned, outcome.task)
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
        "requests_per_s": result and finite(result.requests_per_s),
        **_predicted(score, task),
        "capacity": _batch_capacity(score, task),
        **_apart(score, task),
        "quality": quality_content(score, task),
    }


def verification_content(verification: Verification) -> Content:
    """Return what a plan's certificate proves as plain data."""
    limit_per_s = verification.requests_per_s
    return {
        "schema": VERIFICATION_SCHEMA,
        "version": VERSION,
        "bound_s": finite(verification.bound_s),
        "makespan_s": finite(verification.score.makespan_s),
        "gap_fraction": finite(verification.gap_fraction),
        "micro_batchings": verification.entries,
        "refined": verification.refined,
        **({} if limit_per_s is None else {"requests_per_s": limit_per_s}),
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
        "notes": [*profile.notes, *profile.part_notes],
        "rows_used": report.rows_used,
        "rows_dropped": dict(report.rows_dropped),
        "errors": [asdict(error) for error in report.errors],
        "baseline_errors": [asdict(error) for error in report.baseline_errors],
    }


def _predicted(score: PlanScore, task: PlanningTask) -> Content:
    result = score.result
    return {
        "makespan_s": result and finite(result.makespan_s),
        "tokens_per_s": result and finite(result.tokens_per_s),
        "stage_busy_fraction": result and [finite(part) for part in result.stage_busy_fraction],
        "stage_memory_bytes": [stage.total_bytes for stage in score.memory],
        "stage_memory_limit_bytes": [stage.limit_bytes for stage in score.memory],
        "ttft_s": result and summary_content(result.ttft_s),
        "tpot_s": result and summary_content(result.tpot_s),
        "latency_s": result and summary_content(result.latency_s),
        "error_fraction": error_fraction(plan_profiles(score, task)),
    }


def _batch_capacity(score: PlanScore, task: PlanningTask) -> Content:
    return capacity_content(batch_capacity(score.plan, task.costs.scenario))


def _apart(score: PlanScore, task: PlanningTask) -> Content:
    """Return speeds by phase and memory by purpose."""
    speeds = batch_speeds(score, task)
    return {"speeds": speeds and speeds.content(), "memory": memory_content(score.memory)}


def service_apart(service: Service) -> Content:
    """Return a service's speeds by phase and its memory by purpose."""
    return {
        "speeds": service_speeds(service).content(),
        "memory": memory_content(service.memory),
    }


def _baseline(baseline: Baseline) -> Content:
    score = baseline.score
    result = score.result if score else None
    return {
        "name": baseline.name,
        "feasible": result is not None,
        "tokens_per_s": result and finite(result.tokens_per_s),
        "quality_loss": score and finite(score.loss),
        "why_not": baseline.infeasible_reason,
        "unmoved_reason": baseline.unmoved_reason,
        "micro_batching": score and to_dict(score.plan.micro_batching),
    }


def _front_member(score: PlanScore, task: PlanningTask) -> Content:
    return {
        "tokens_per_s": score.result and finite(score.result.tokens_per_s),
        "quality_loss": score.loss,
        "quality_interval": interval_of(score.plan, task),
        "formats": format_counts(score.plan.layer_formats),
        "plan": to_dict(score.plan),
    }


def replay_content(replay: Replay) -> Content:
    """Return a service as plain data without NaN or infinity."""
    from llmpq_sim.simulator.continuous.capacity import service_capacity  # noqa: PLC0415 - slow

    service = replay.service
    return {
        "schema": SIMULATION_SCHEMA,
        "version": VERSION,
        "llmpq_version": llmpq_sim.__version__,
        **service_content(service),
        **service_apart(service),
        "error_fraction": error_fraction(used_profiles(service.plan, replay.saved.task)),
        "queue": _queue(replay.queue),
        "capacity": capacity_content(service_capacity(service)),
        "max_rate": replay.max_rate and _max_rate(replay.max_rate),
        "bound": rate_limit_content(replay.rate, service.workload),
        "trace": trace_content(service.workload),
        "settings": asdict(service.settings),
        "objectives": service.objectives and asdict(service.objectives),
        "notes": replay_notes(replay),
        "advice": eviction_content(replay),
        "alone": alone_content(replay.alone),
        "seed": replay.seed,
        "wall_seconds": replay.wall_seconds,
    }


def service_content(service: Service) -> Content:
    """Return the metrics of a service, its memory and its price as plain data."""
    return {
        **result_content(service.result),
        "stage_memory_bytes": list(service.memory_bytes),
        "stage_memory_limit_bytes": list(service.limit_bytes),
        "usd_per_million_tokens": service.usd_per_million_tokens,
    }


def result_content(result: SimulationResult) -> Content:
    """Return the metrics of a simulated service as plain data."""
    return {
        "requests": result.requests,
        "finished": result.finished,
        "refused": result.refused,
        "output_tokens": result.output_tokens,
        "makespan_s": finite(result.makespan_s),
        "tokens_per_s": finite(result.tokens_per_s),
        "requests_per_s": finite(result.requests_per_s),
        "ttft_s": summary_content(result.ttft_s),
        "tpot_s": summary_content(result.tpot_s),
        "itl_s": summary_content(result.itl_s),
        "latency_s": summary_content(result.latency_s),
        "stage_busy_fraction": list(result.stage_busy_fraction),
        "stage_bubble_fraction": [1 - busy for busy in result.stage_busy_fraction],
        "kv_peak_fraction": list(result.kv_peak_fraction),
        "preemptions": result.preemptions,
        "reused_prompt_tokens": result.reused_prompt_tokens,
        "goodput_per_s": result.goodput_per_s,
        "slo_attainment": result.slo_attainment,
    }


def trace_content(workload: TraceWorkload) -> Content:
    """Return which requests were served: their name, hash, and rate or users."""
    from llmpq_sim.io.workloads import workload_sha256  # noqa: PLC0415 - slow to load

    return {
        "name": workload.name,
        "sha256": workload_sha256(workload),
        "rate_per_s": workload.rate_per_s,
        "concurrency": workload.concurrency,
        "prompt_tokens": workload.total_prompt_tokens,
        "output_tokens": workload.total_output_tokens,
    }


def replay_notes(replay: Replay) -> list[str]:
    """Return what was assumed, dropped or changed, and whether the plan holds the rate."""
    workload, queue = replay.service.workload, replay.queue
    notes = list(workload.notes)
    if queue.sustained_rate_per_s is not None:
        notes.append(
            f"the queue grows without bound: {workload.rate_per_s:.3g} requests/s arrive, the plan "
            f"could hold about {queue.sustained_rate_per_s:.3g}"
        )
    return notes


def summary_content(summary: Summary) -> Content:
    """Return mean and percentiles as plain data."""
    return {name: finite(value) for name, value in asdict(summary).items()}


def finite(value: float) -> float | None:
    """Return a number as JSON has it; what is none is null."""
    return value if isfinite(value) else None


def _queue(queue: Queue) -> Content:
    return {
        "most_waiting": queue.most,
        "mean_waiting": queue.mean,
        "waiting_at_end": queue.at_end,
        "grows": queue.sustained_rate_per_s is not None,
        "sustained_rate_per_s": queue.sustained_rate_per_s,
    }


def _max_rate(highest: MaxRate) -> Content:
    return asdict(highest)


def comparison_content(comparison: Comparison) -> Content:
    """Return a prediction beside its measurement as plain data without NaN or infinity."""
    from llmpq_sim.report.execution import (  # noqa: PLC0415 - slow to load
        comparison_headline,
        comparison_notes,
        reading_sentences,
    )

    loaded = comparison.loaded
    return {
        "schema": COMPARISON_SCHEMA,
        "version": VERSION,
        "llmpq_version": llmpq_sim.__version__,
        "headline": comparison_headline(comparison),
        "reading": reading_sentences(comparison),
        "figures": {figure.name: figure_content(figure) for figure in comparison.figures},
        "stages": [_stage(stage) for stage in comparison.stages],
        "stated_fraction": comparison.stated_fraction,
        "predicted": result_content(comparison.prediction.result),
        "measured": result_content(loaded.execution.result),
        "plan_sha256": loaded.plan_sha256,
        "model": loaded.model,
        "policy": loaded.policy,
        "settings": loaded.settings and asdict(loaded.settings),
        "dtype": loaded.execution.dtype,
        "loading_s": loaded.execution.loading_s,
        "notes": comparison_notes(comparison),
        "seed": loaded.seed,
        "measured_by_version": loaded.llmpq_version,
    }


def figure_content(figure: Figure) -> Content:
    """Return one quantity; a share's error is a difference, any other's a fraction."""
    error = "error_points" if figure.kind == "share" else "error_fraction"
    content: Content = {
        "predicted": figure.predicted,
        "measured": figure.measured,
        error: None
        if figure.error is None
        else figure.error * (100 if figure.kind == "share" else 1),
    }
    if figure.stated_fraction is not None:
        content |= {"stated_fraction": figure.stated_fraction, "is_within": figure.is_within}
    return content


def _stage(stage: StageComparison) -> Content:
    return {
        "number": stage.number,
        "device": stage.device,
        "memory_bytes": figure_content(stage.memory),
        "busy_fraction": figure_content(stage.busy),
        "phases": {
            phase.phase: {
                "predicted_visits": phase.predicted_steps,
                "measured_visits": phase.measured_steps,
                "visit_s": figure_content(phase.step),
            }
            for phase in stage.phases
        },
    }
