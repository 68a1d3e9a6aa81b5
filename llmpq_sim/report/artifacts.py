"""Artifacts of a simulation: a timeline, and a figure of latencies drawn by Matplotlib."""

from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from llmpq_sim.api.replaying import Replay, ServingOptions, replay
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.schedule import batch_schedules
from llmpq_sim.io.files import check_writable, whole_file
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.io.workloads import TraceOptions
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.report.formatting import percent_text, rate_text
from llmpq_sim.report.progress import steps_shown
from llmpq_sim.report.timeline import MOST_SLICES, Timeline, timeline_file, timeline_text
from llmpq_sim.simulator.continuous.service import FloatArray, Service
from llmpq_sim.simulator.continuous.watch import Watch
from llmpq_sim.simulator.static.checked import CheckedSteps
from llmpq_sim.simulator.static.policies import batch_policy
from llmpq_sim.simulator.static.simulate import simulate_static
from llmpq_sim.simulator.static.step_graph import StepGraph, StepTimes

ENDINGS = (".png", ".svg")

SIZE_INCHES = (10.0, 6.5)

PARTS = 60
"""Parts of the span of arrivals over which percentiles are taken."""


@dataclass(frozen=True)
class Artifacts:
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
    artifacts: Artifacts,
    watched: bool,
    workers: int = 1,
) -> tuple[Replay, list[str]]:
    """Return a plan's service of a trace, and what was written.

    Args:
        saved: the plan.
        trace: which requests arrive when.
        options: how they are batched, and what is asked of the service.
        artifacts: what to write.
        watched: whether someone can watch the search for the highest rate.
        workers: how many of its rates are tried at once.

    Raises:
        InputError: see ``replay`` and ``Artifacts.check``.
        InfeasibleError: a stage has no room for any KV cache.
    """
    artifacts.check()
    with ExitStack() as stack:
        timeline = None
        if artifacts.timeline is not None:
            tracks = _tracks(saved.plan)
            timeline = stack.enter_context(timeline_file(artifacts.timeline, tracks))
        show = stack.enter_context(steps_shown(watched))
        found = replay(
            saved,
            trace=trace,
            options=options,
            watch=Watch(timeline.step, timeline.batch, MOST_SLICES + 1) if timeline else None,
            on_trial=lambda trial: show(
                f"{rate_text(trial.rate_per_s)} requests/s: "
                f"{percent_text(trial.slo_attainment, 1)} meet the SLO"
            ),
            workers=workers,
        )
    written = [timeline_text(timeline, str(artifacts.timeline))] if timeline else []
    if artifacts.plot is not None:
        write_figure(artifacts.plot, found.service)
        written.append(f"Wrote {artifacts.plot}.")
    return found, written


def write_batch_timeline(path: Path, plan: Plan, costs: LayerCosts, policy: str) -> Timeline:
    """Write the timeline of a plan's own batch under a policy.

    Raises:
        InputError: it cannot be written.
    """
    with timeline_file(path, _tracks(plan)) as timeline:
        first, simulate = 0, CheckedSteps(MOST_SLICES + 1)
        schedules = iter(batch_schedules(costs.scenario.workload, plan.micro_batching))

        def run(graph: StepGraph, start_s: float) -> StepTimes:
            nonlocal first
            begin, prefills = first, len(next(schedules).prefill_steps)

            def on_step(stage: int, step: int, began_s: float, ended_s: float) -> None:
                phase = "prefill" if step < prefills else "decode"
                timeline.slice(stage, phase, (began_s, ended_s), {"visit": begin + step})

            first += graph.steps
            return simulate(graph, start_s, on_step)

        simulate_static(plan, costs, run, batch_policy(policy))
    return timeline


def _tracks(plan: Plan) -> list[str]:
    return [f"stage {number}: {stage.device}" for number, stage in enumerate(plan.stages)]


def check_figure(path: Path) -> None:
    """Check that a figure could be written, before work is done for it.

    Raises:
        InputError: the ending is no picture's, Matplotlib is missing, or the folder is closed.
    """
    if path.suffix not in ENDINGS:
        raise InputError(f"--plot: expected a file that ends in .png or .svg, got {path}")
    if find_spec("matplotlib") is None:
        raise InputError("--plot needs Matplotlib: pip install matplotlib")
    check_writable(path)


def write_figure(path: Path, service: Service) -> None:
    """Write latencies over the time of arrival, and their distributions.

    The same service gives the same bytes with the same version of Matplotlib.

    Raises:
        InputError: it cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "llmpq", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        _draw(figure, service)
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        with whole_file(path) as stream:
            figure.savefig(stream, format=path.suffix[1:], dpi=150, metadata=metadata)


def _draw(figure: Any, service: Service) -> None:
    workload = service.workload
    figure.suptitle(f"{workload.name} on {service.costs.cluster.name}, {service.costs.model.name}")
    above, below = figure.subplots(2, 2)
    arrival_s = service.times.arrival_s[service.served]
    limits = service.objectives
    named = (
        ("time to first token", service.ttft_s, limits and limits.ttft_s),
        ("time to last token", service.latency_s, limits and limits.latency_s),
    )
    for axes, (name, value_s, limit_s) in zip(above, named, strict=True):
        _draw_over_time(axes, arrival_s, value_s)
        axes.set(xlabel="arrival (s)", ylabel=f"{name} (s)")
        if limit_s is not None:
            axes.axhline(limit_s, color="black", linestyle=":", linewidth=1, label="SLO")
        if axes.lines:
            axes.legend(frameon=False)
    for axes, (name, value_s, limit_s) in zip(below, named, strict=True):
        if len(value_s):
            share = np.arange(1, len(value_s) + 1) / len(value_s)
            axes.step(np.sort(value_s), share, where="post", color="tab:blue")
        axes.set(xlabel=f"{name} (s)", ylabel="share of requests", xscale="log", ylim=(0, 1))
        if limit_s is not None:
            axes.axvline(limit_s, color="black", linestyle=":", linewidth=1)


def _draw_over_time(axes: Any, arrival_s: FloatArray, value_s: FloatArray) -> None:
    if not len(arrival_s):
        return
    edges = np.linspace(0.0, float(arrival_s[-1]) or 1.0, PARTS + 1)
    part = np.minimum(np.searchsorted(edges, arrival_s, side="right") - 1, PARTS - 1)
    kept = np.unique(part)
    middles = (edges[kept] + edges[kept + 1]) / 2
    for percent, colour in ((50, "tab:blue"), (99, "tab:red")):
        lines = [float(np.percentile(value_s[part == number], percent)) for number in kept]
        axes.plot(middles, lines, color=colour, linewidth=1.2, label=f"p{percent}")
    axes.set_ylim(bottom=0)
