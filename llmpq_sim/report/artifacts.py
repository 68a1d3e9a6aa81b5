"""Artifacts of a simulation: a timeline and a figure."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from llmpq_sim.api.replay import Replay, ServingOptions, replay
from llmpq_sim.core.plan import Plan
from llmpq_sim.io.files import check_writable
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.io.workloads import TraceOptions
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.report.figure import check_figure, write_figure
from llmpq_sim.report.formatting import percent_text, rate_text
from llmpq_sim.report.progress import steps_shown
from llmpq_sim.report.timeline import MOST_SLICES, Timeline, timeline_file, timeline_text
from llmpq_sim.simulator.continuous.watch import Watch
from llmpq_sim.simulator.static.checked import CheckedSteps
from llmpq_sim.simulator.static.simulate import simulate_static
from llmpq_sim.simulator.static.step_graph import StepGraph, StepTimes


@dataclass(frozen=True)
class Pictures:
    """Files to write beside the answer; None for one that is not wanted."""

    timeline: Path | None = None
    plot: Path | None = None

    def check(self) -> None:
        """Check that both could be written, before work is done for them.

        Raises:
            InputError: a folder is missing, the ending is no picture's, or Matplotlib is missing.
        """
        if self.timeline is not None:
            check_writable(self.timeline)
        if self.plot is not None:
            check_figure(self.plot)


def replay_drawn(
    saved: SavedPlan,
    trace: TraceOptions,
    options: ServingOptions,
    pictures: Pictures,
    watched: bool,
) -> tuple[Replay, list[str]]:
    """Return a plan's service of a trace, and what was written.

    Args:
        saved: the plan.
        trace: which requests arrive when.
        options: how they are batched, and what is asked of the service.
        pictures: what to write.
        watched: whether someone can watch the search for the highest rate.

    Raises:
        InputError: see ``replay`` and ``Pictures.check``.
        InfeasibleError: a stage has no room for any KV cache.
    """
    pictures.check()
    with ExitStack() as stack:
        timeline = None
        if pictures.timeline is not None:
            tracks = _tracks(saved.plan)
            timeline = stack.enter_context(timeline_file(pictures.timeline, tracks))
        show = stack.enter_context(steps_shown(watched))
        found = replay(
            saved,
            trace,
            options,
            Watch(timeline.step, timeline.batch, MOST_SLICES + 1) if timeline else None,
            lambda trial: show(
                f"{rate_text(trial.rate_per_s)} requests/s: "
                f"{percent_text(trial.slo_attainment, 1)} meet the SLO"
            ),
        )
    written = [timeline_text(timeline, str(pictures.timeline))] if timeline else []
    if pictures.plot is not None:
        write_figure(pictures.plot, found.service)
        written.append(f"Wrote {pictures.plot}.")
    return found, written


def write_batch_timeline(path: Path, plan: Plan, costs: LayerCosts) -> Timeline:
    """Write the timeline of a plan's own batch.

    Raises:
        InputError: it cannot be written.
    """
    with timeline_file(path, _tracks(plan)) as timeline:
        first, simulate = 0, CheckedSteps(MOST_SLICES + 1)

        def run(graph: StepGraph, start_s: float) -> StepTimes:
            nonlocal first
            begin, starts = first, graph.starts

            def on_step(stage: int, step: int, began_s: float, ended_s: float) -> None:
                phase = "prefill" if step < starts else "decode"
                timeline.slice(stage, phase, (began_s, ended_s), {"visit": begin + step})

            first += graph.steps
            return simulate(graph, start_s, on_step)

        simulate_static(plan, costs, run)
    return timeline


def _tracks(plan: Plan) -> list[str]:
    return [f"stage {number}: {stage.device}" for number, stage in enumerate(plan.stages)]
