"""JSON of a prediction beside its measurement, in SI units."""

import llmpq_sim
from llmpq_sim.report.execution_comparison import Comparison, Figure, StageComparison
from llmpq_sim.report.execution_summary import (
    comparison_headline,
    comparison_notes,
    reading_sentences,
)
from llmpq_sim.report.json_reports import Content
from llmpq_sim.report.service_content import result_content
from llmpq_sim.simulator.continuous.settings import settings_to_content

COMPARISON_SCHEMA = "llmpq/comparison"
VERSION = 1


def comparison_content(comparison: Comparison) -> Content:
    """Return a prediction beside its measurement as plain data without NaN or infinity."""
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
        "settings": loaded.settings and settings_to_content(loaded.settings),
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
                "predicted_visits": phase.predicted_visits,
                "measured_visits": phase.measured_visits,
                "visit_s": figure_content(phase.visit),
            }
            for phase in stage.phases
        },
    }
