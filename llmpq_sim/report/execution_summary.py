"""Summary of a prediction beside its measurement, in a few words."""

from llmpq_sim.report.execution_comparison import (
    Comparison,
    Figure,
    PhaseComparison,
    StageComparison,
)
from llmpq_sim.report.formatting import counted, rate_text, seconds_text, span_text
from llmpq_sim.report.summary import kinds_text

MOST_REASONS = 3
"""Stages and phases that are named where an error is larger than stated."""

LABELS = {
    "tokens_per_s": "tokens/s",
    "requests_per_s": "requests/s",
    "makespan_s": "makespan",
    "ttft_s.mean": "TTFT, mean",
    "ttft_s.p50": "TTFT, p50",
    "ttft_s.p99": "TTFT, p99",
    "tpot_s.mean": "TPOT, mean",
    "tpot_s.p50": "TPOT, p50",
    "tpot_s.p99": "TPOT, p99",
}
"""What people call the figures of a pipeline."""


def comparison_headline(comparison: Comparison) -> str:
    """Return the throughput that was predicted and measured, and whether its error is as stated."""
    figure = comparison.figures[0]
    text = (
        f"predicted {rate_text(figure.predicted)} tokens/s, measured {rate_text(figure.measured)}: "
        f"error {error_text(figure)}"
    )
    return text if figure.is_within is None else f"{text}, {verdict_text(figure, 'the stated ')}"


def error_text(figure: Figure) -> str:
    """Return an error with its sign; that of a share in percentage points."""
    if figure.error is None:
        return "-"
    rounded = round(100 * figure.error, 1) + 0.0  # + 0.0 makes a negative zero positive
    return f"{rounded:+.1f} {'points' if figure.kind == 'share' else '%'}"


def verdict_text(figure: Figure, stated: str = "") -> str:
    """Return whether an error is within what the profiles state, nothing where they state none."""
    if figure.is_within is None or figure.stated_fraction is None:
        return ""
    side = "within" if figure.is_within else "outside"
    return f"{side} {stated}± {_stated_text(figure.stated_fraction)}"


def _stated_text(fraction: float) -> str:
    return f"{100 * fraction:.1f}".removesuffix(".0") + " %"


def reading_sentences(comparison: Comparison) -> list[str]:
    """Return which visits explain what is outside the stated interval, in sentences."""
    counts = _counts_sentences(comparison)
    outside = [figure for figure in comparison.figures if figure.is_within is False]
    if not outside:
        return ["Every time is within what the profiles state.", *counts]
    places = [
        (abs(phase.lost_s), stage, phase)
        for stage in comparison.stages
        for phase in stage.phases
        if phase.visit.is_within is False and phase.predicted_visits
    ]
    if not places:
        return [
            "The visits of every stage take what was predicted, within what its profile states: "
            "the error lies between them, in links, scheduling and waiting.",
            *counts,
        ]
    places.sort(key=lambda place: -place[0])
    return [*(_reason(stage, phase) for _, stage, phase in places[:MOST_REASONS]), *counts]


def _reason(stage: StageComparison, phase: PhaseComparison) -> str:
    visit = phase.visit
    return (
        f"Stage {stage.number} ({stage.device}): {phase.phase} visits take "
        f"{seconds_text(visit.measured)}, predicted {seconds_text(visit.predicted)} "
        f"({error_text(visit)}, {verdict_text(visit)})."
    )


def _counts_sentences(comparison: Comparison) -> list[str]:
    """Return where stage 0, through which all visits pass, had more or fewer than predicted."""
    differing = [
        f"{counted(phase.measured_visits, f'{phase.phase} visit')} (predicted "
        f"{phase.predicted_visits})"
        for phase in comparison.stages[0].phases
        if phase.measured_visits != phase.predicted_visits
    ]
    if not differing:
        return []
    return [f"Batches were cut otherwise than predicted: {', '.join(differing)} a stage."]


def execution_parts(comparison: Comparison) -> list[str]:
    """Return what was served where: model, devices and the requests as they were."""
    scenario = comparison.saved.task.costs.scenario
    requests = comparison.loaded.execution.requests
    prompts = span_text(request.prompt_tokens for request in requests)
    outputs = span_text(request.output_tokens for request in requests)
    return [
        f"{scenario.model.name} ({counted(scenario.model.layers, 'layer')})",
        f"{scenario.cluster.name} ({kinds_text(scenario.cluster)})",
        f"{counted(len(requests), 'request')} of {prompts} prompt + {outputs} output tokens",
    ]


def run_parts(comparison: Comparison) -> list[str]:
    """Return how it was run."""
    loaded = comparison.loaded
    parts = [
        f"{loaded.policy} batching",
        f"computed in {loaded.execution.dtype}",
        f"loaded in {seconds_text(loaded.execution.loading_s)}",
        f"seed {loaded.seed}",
    ]
    refused = loaded.execution.result.refused
    return [*parts, f"{counted(refused, 'request')} refused"] if refused else parts


def comparison_notes(comparison: Comparison) -> list[str]:
    """Return what a reader should know of the prediction, then of the measurement, once each."""
    notes = (*comparison.prediction.notes, *comparison.loaded.execution.notes)
    return list(dict.fromkeys(notes))
