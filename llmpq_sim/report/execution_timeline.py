"""Timeline of a prediction and its measurement together."""

from heapq import merge
from pathlib import Path

from llmpq_sim.core.execution import StageVisit
from llmpq_sim.report.execution_comparison import Comparison
from llmpq_sim.report.timeline import MOST_SLICES, Timeline, phase_of, timeline_file

PROCESSES = ("predicted", "measured")


def write_comparison_timeline(
    path: Path, comparison: Comparison, most_slices: int = MOST_SLICES
) -> Timeline:
    """Write a timeline with the stages of a prediction above those of its measurement.

    Args:
        path: of the file.
        comparison: what to draw.
        most_slices: visits after which it ends, at the same instant in both.

    Raises:
        InputError: it cannot be written.
    """
    executions = (comparison.prediction.visits, comparison.loaded.execution.visits)
    visits = (
        [(visit.ended_s, process, visit) for visit in sorted(each, key=lambda visit: visit.ended_s)]
        for process, each in enumerate(executions)
    )
    stages = enumerate(comparison.saved.plan.stages)
    tracks = [f"stage {number}: {stage.device}" for number, stage in stages]
    with timeline_file(path, tracks, most_slices, PROCESSES) as timeline:
        for _, process, visit in merge(*visits, key=lambda entry: entry[:2]):
            _draw(timeline, process, visit)
    return timeline


def _draw(timeline: Timeline, process: int, visit: StageVisit) -> None:
    arguments = {
        "batch": visit.visit,
        "decodes": visit.decodes,
        "prompt_tokens": visit.prompt_tokens,
    }
    phase = phase_of(visit.decodes, visit.prompt_tokens)
    timeline.slice(visit.stage, phase, (visit.began_s, visit.ended_s), arguments, process)
