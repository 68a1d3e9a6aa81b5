"""Report of a prediction beside its measurement: screen, summary and timeline."""

from collections.abc import Sequence
from heapq import merge
from pathlib import Path

from rich.console import Console
from rich.table import Table

from llmpq_sim.core.execution import StageStep
from llmpq_sim.core.units import GIB, MIB
from llmpq_sim.report.console import labelled, new_table, paragraph, plain, print_to, width_of
from llmpq_sim.report.execution_comparison import (
    Comparison,
    Figure,
    PhaseComparison,
    StageComparison,
)
from llmpq_sim.report.formatting import counted, percent_text, rate_text, seconds_text, span_text
from llmpq_sim.report.summary import kinds_text, trust_parts, used_profiles
from llmpq_sim.report.timeline import MOST_SLICES, Timeline, phase_of, timeline_file

FIGURE_HEADINGS = ("predicted", "measured", "error")
STAGE_HEADINGS = (
    "memory\npredicted", "\nmeasured", "\nerror", "busy\npredicted", "\nmeasured", "\nerror",
)  # fmt: skip
STEP_HEADINGS = ("visits\npredicted", "\nmeasured", "mean time\npredicted", "\nmeasured")

MOST_REASONS = 3
"""Stages and phases that are named where an error is larger than stated."""

LABELS = {
    "tokens_per_s": "tokens/s",
    "requests_per_s": "requests/s",
    "prefill_tokens_per_s": "prefill tokens/s",
    "decode_tokens_per_s": "decode tokens/s",
    "tokens_per_s_per_user": "tokens/s per user",
    "makespan_s": "makespan",
    "ttft_s.mean": "TTFT, mean",
    "ttft_s.p50": "TTFT, p50",
    "ttft_s.p99": "TTFT, p99",
    "tpot_s.mean": "TPOT, mean",
    "tpot_s.p50": "TPOT, p50",
    "tpot_s.p99": "TPOT, p99",
}
"""What people call the figures of a pipeline."""

PROCESSES = ("predicted", "measured")


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
    print_to(console, headline)
    print_to(console, *(paragraph(text, width) for text in reading_sentences(comparison)), "")
    _print_facts(console, comparison)
    print_to(console, "", figure_table(comparison.figures))
    print_to(console, "", stage_comparison_table(comparison.stages))
    print_to(console, "", step_table(comparison.stages))
    for text in written:
        print_to(console, "", plain(text))


def _print_facts(console: Console, comparison: Comparison) -> None:
    saved = comparison.saved
    rows = [
        ("scenario", execution_parts(comparison)),
        ("run", run_parts(comparison)),
        ("profiles", trust_parts(used_profiles(saved.plan, saved.task))),
    ]
    notes = comparison_notes(comparison)
    rows += [("" if number else "notes", [note]) for number, note in enumerate(notes)]
    print_to(console, labelled(rows, width_of(console)))


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


def step_table(stages: Sequence[StageComparison]) -> Table:
    """Return how many steps of each phase a stage had and how long they took on average."""
    right = ("\nstage", *STEP_HEADINGS, "\nerror")
    table = new_table("\nstage", "\nphase", *STEP_HEADINGS, "\nerror", "\nstated", right=right)
    for stage in stages:
        for phase in stage.phases:
            counts = (str(phase.predicted_steps), str(phase.measured_steps))
            figures = (*counts, *_cells(phase.step), verdict_text(phase.step))
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
    """Return which steps explain what is outside the stated interval, in sentences."""
    counts = _counts_sentences(comparison)
    outside = [figure for figure in comparison.figures if figure.is_within is False]
    if not outside:
        return ["Every time is within what the profiles state.", *counts]
    places = [
        (abs(phase.lost_s), stage, phase)
        for stage in comparison.stages
        for phase in stage.phases
        if phase.step.is_within is False and phase.predicted_steps
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
    step = phase.step
    return (
        f"Stage {stage.number} ({stage.device}): {phase.phase} visits take "
        f"{seconds_text(step.measured)}, predicted {seconds_text(step.predicted)} "
        f"({error_text(step)}, {verdict_text(step)})."
    )


def _counts_sentences(comparison: Comparison) -> list[str]:
    """Return where stage 0, through which all steps pass, had more or fewer than predicted."""
    differing = [
        f"{counted(phase.measured_steps, f'{phase.phase} visit')} (predicted "
        f"{phase.predicted_steps})"
        for phase in comparison.stages[0].phases
        if phase.measured_steps != phase.predicted_steps
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


def write_comparison_timeline(
    path: Path, comparison: Comparison, most_slices: int = MOST_SLICES
) -> Timeline:
    """Write a timeline with the stages of a prediction above those of its measurement.

    Args:
        path: of the file.
        comparison: what to draw.
        most_slices: steps after which it ends, at the same instant in both.

    Raises:
        InputError: it cannot be written.
    """
    executions = (comparison.prediction.steps, comparison.loaded.execution.steps)
    steps = (
        [(step.ended_s, process, step) for step in sorted(each, key=lambda step: step.ended_s)]
        for process, each in enumerate(executions)
    )
    stages = enumerate(comparison.saved.plan.stages)
    tracks = [f"stage {number}: {stage.device}" for number, stage in stages]
    with timeline_file(path, tracks, most_slices, PROCESSES) as timeline:
        for _, process, step in merge(*steps, key=lambda entry: entry[:2]):
            _draw(timeline, process, step)
    return timeline


def _draw(timeline: Timeline, process: int, step: StageStep) -> None:
    arguments = {
        "batch": step.step,
        "decodes": step.decodes,
        "prompt_tokens": step.prompt_tokens,
    }
    phase = phase_of(step.decodes, step.prompt_tokens)
    timeline.slice(step.stage, phase, (step.began_s, step.ended_s), arguments, process)
