"""The commands that look at a plan: ``llmpq simulate`` and ``llmpq verify``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmpq_sim.commands.capacity import (
    CapacityOptions,
    SweepOptions,
    print_capacity,
    print_sweep,
)
from llmpq_sim.commands.option_groups import check_not_given, grouped
from llmpq_sim.commands.options import (
    JsonFlag,
    OtherBatchOptions,
    PlanFile,
    Profiles,
    SchedulerOptions,
    Seed,
    SloOptions,
    SpreadOptions,
    TraceShape,
    TraceSource,
    serving_options,
    trace_options,
)
from llmpq_sim.core.errors import InputError

if TYPE_CHECKING:
    from llmpq_sim.api import ServingOptions, TraceOptions
    from llmpq_sim.io.plans import SavedPlan


@dataclass(frozen=True)
class RateSearch:
    """How many requests a plan can take."""

    max_rate: Annotated[
        bool, typer.Option("--max-rate", help="Find the highest rate at which the SLO is attained.")
    ] = False
    attainment: Annotated[
        float | None,
        typer.Option(help="Share of requests that must meet the SLO at --max-rate; default: 0.9."),
    ] = None

    @property
    def share(self) -> float | None:
        """The share of good requests to seek the highest rate for, None not to seek it."""
        from llmpq_sim.simulator.continuous.max_rate import ATTAINMENT

        return ATTAINMENT if self.max_rate and self.attainment is None else self.attainment


@dataclass(frozen=True)
class LatencyPlot:
    """Artifacts of requests over time."""

    plot: Annotated[Path | None, typer.Option(help="Draw latencies to this .png or .svg file.")] = (
        None
    )


@dataclass(frozen=True)
class SimulationOutput:
    """Input and output."""

    timeline: Annotated[
        Path | None,
        typer.Option(help="Write stage visits for ui.perfetto.dev to this .json file."),
    ] = None
    profile: Profiles = None
    as_json: JsonFlag = False


@grouped
def simulate(
    *,
    context: typer.Context,
    plan: PlanFile,
    batch: OtherBatchOptions,
    source: TraceSource,
    shape: TraceShape,
    scheduler: SchedulerOptions,
    slo: SloOptions,
    rates: RateSearch,
    sweep: SweepOptions,
    spread: SpreadOptions,
    fits: CapacityOptions,
    picture: LatencyPlot,
    output: SimulationOutput,
    seed: Seed = 0,
) -> None:
    """Predict what a plan does with its own batch, with another, or with requests over time."""
    _check_together(context, source, sweep, fits)
    if not rates.max_rate and sweep.sweep_concurrency is None:
        check_not_given(context, (SpreadOptions,), "give --max-rate or --sweep-concurrency as well")
    if not (source.is_given or fits.capacity):
        _simulate_batch(plan, batch, output)
        return
    serving = serving_options(slo, scheduler, rates.share)
    if fits.capacity:
        asked = trace_options(source, shape, seed) if source.is_given else None
        saved = _loaded(plan, output)
        print_capacity(saved, batch, asked, serving, fits, as_json=output.as_json)
    elif sweep.sweep_concurrency is not None:
        asked = trace_options(source, shape, seed)
        print_sweep(_loaded(plan, output), sweep, asked, serving, spread, as_json=output.as_json)
    else:
        asked = trace_options(source, shape, seed)
        with spread.at_once() as workers:
            _replay(plan, asked, serving, picture, output, workers)


def _check_together(
    context: typer.Context, source: TraceSource, sweep: SweepOptions, fits: CapacityOptions
) -> None:
    """Raise InputError if options do not go together."""
    if fits.capacity:
        timed = (SloOptions, RateSearch, SweepOptions, LatencyPlot)
        check_not_given(context, timed, "is of a simulation; leave it or --capacity out")
    else:
        check_not_given(context, (CapacityOptions,), "give --capacity as well")
    if source.is_given:
        check_not_given(context, (OtherBatchOptions,), "a trace brings its own requests")
    elif not fits.capacity:
        of_traces = (
            TraceShape,
            SchedulerOptions,
            SloOptions,
            RateSearch,
            SweepOptions,
            LatencyPlot,
        )
        check_not_given(context, of_traces, "give --trace or --lengths as well")
    if sweep.sweep_concurrency is not None:
        unused = (RateSearch, LatencyPlot)
        check_not_given(context, unused, "is of one simulation; leave --sweep-concurrency out")


def _loaded(plan: Path, output: SimulationOutput) -> "SavedPlan":
    """Return the plan of a command that draws no timeline."""
    from llmpq_sim.api import load

    if output.timeline is not None:
        raise InputError("--timeline: draws one simulation; leave it out")
    return load(plan, profiles=output.profile or ())


def _replay(
    plan: Path,
    trace: "TraceOptions",
    serving: "ServingOptions",
    picture: LatencyPlot,
    output: SimulationOutput,
    workers: int,
) -> None:
    from llmpq_sim.api import load
    from llmpq_sim.report.artifacts import Artifacts, replay_drawn
    from llmpq_sim.report.console import answer_console, print_json
    from llmpq_sim.report.json_reports import replay_content
    from llmpq_sim.report.service import show_replay

    found, written = replay_drawn(
        load(plan, profiles=output.profile or ()),
        trace,
        serving,
        Artifacts(output.timeline, picture.plot),
        watched=sys.stderr.isatty(),
        workers=workers,
    )
    if output.as_json:
        print_json(replay_content(found))
        return
    show_replay(answer_console(), found, written)


def _simulate_batch(plan: Path, batch: OtherBatchOptions, output: SimulationOutput) -> None:
    from llmpq_sim.api import simulate as simulated
    from llmpq_sim.report.console import answer_console, print_json
    from llmpq_sim.search.shortage import why_infeasible

    found = simulated(
        plan,
        batch=batch.batch,
        prompt_tokens=batch.prompt_tokens,
        output_tokens=batch.outputs,
        policy=batch.policy,
        profiles=output.profile or (),
    )
    written = []
    if output.timeline is not None and found.score.result is not None:
        from llmpq_sim.report.artifacts import write_batch_timeline
        from llmpq_sim.report.timeline import timeline_text

        drawn = write_batch_timeline(output.timeline, found.plan, found.task.costs, found.policy)
        written = [timeline_text(drawn, str(output.timeline))]
    if found.policy != "static":
        written.append(f"Micro-batches follow each other as the policy {found.policy} has it.")
    infeasible_reason = why_infeasible(found.score, found.task)
    if output.as_json:
        from llmpq_sim.report.json_reports import predicted_content

        error = (
            {"error": {"message": infeasible_reason, "kind": "InfeasibleError"}}
            if infeasible_reason
            else {}
        )
        print_json(predicted_content(found.score, found.task) | {"policy": found.policy} | error)
    else:
        from llmpq_sim.report.search import show_simulation

        show_simulation(answer_console(), found.score, found.task, written)
    if infeasible_reason:
        print(f"error: {plan}: {infeasible_reason}", file=sys.stderr)  # noqa: T201
        raise typer.Exit(1)


@grouped
def verify(plan: PlanFile, profile: Profiles = None, as_json: JsonFlag = False) -> None:
    """Recompute a plan's certificate by arithmetic alone, without a solver."""
    from llmpq_sim.api import verify as verified
    from llmpq_sim.report.console import answer_console, print_json

    verification = verified(plan, profiles=profile or ())
    if as_json:
        from llmpq_sim.report.json_reports import verification_content

        print_json(verification_content(verification))
        return
    from llmpq_sim.report.search import show_verification

    show_verification(answer_console(), verification)
