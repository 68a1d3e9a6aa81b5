"""The command that finds the best plan: ``llmpq search``."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmpq_sim.commands.interruption import keeping
from llmpq_sim.commands.option_groups import check_not_given, grouped
from llmpq_sim.commands.options import (
    BatchOptions,
    ExecutorName,
    JsonFlag,
    Profiles,
    SchedulerAddress,
    SloOptions,
    TraceShape,
    TraceSource,
    Workers,
    serving_options,
    trace_options,
)
from llmpq_sim.commands.split_options import SplitOptions
from llmpq_sim.core.errors import InputError
from llmpq_sim.io.termination import interruption_exit_code

if TYPE_CHECKING:
    from llmpq_sim.api import Planned, QualityOptions
    from llmpq_sim.io.models import ReadModel
    from llmpq_sim.search.frame import SearchProgress
    from llmpq_sim.search.online.task import OnlineTask
    from llmpq_sim.search.planner import SearchSettings


@dataclass(frozen=True)
class SearchInput:
    """What is planned on what."""

    model: Annotated[
        str, typer.Option(help="Bundled model or hub id, or a folder with config.json.")
    ]
    cluster: Annotated[str, typer.Option(help="Bundled cluster, or a .yaml file.")]
    formats: Annotated[
        str | None, typer.Option(help="Allowed formats, as int4,int8,fp16; default: all four.")
    ] = None
    kv_formats: Annotated[
        str | None,
        typer.Option(help="KV cache formats to choose from, as bf16,fp8,q8_0; default: 16 bits."),
    ] = None
    kernels: Annotated[
        str | None, typer.Option(help="Kernel set for every device; default: each one's first.")
    ] = None
    profile: Profiles = None
    without_vision: Annotated[
        bool,
        typer.Option(
            "--without-vision", help="Leave a vision tower out; the first stage holds it else."
        ),
    ] = False

    def read(self) -> "ReadModel":
        """Return the model.

        Raises:
            InputError: there is none, or its config.json says something that cannot be.
        """
        from llmpq_sim.io.models import read_model

        return read_model(self.model, without_vision=self.without_vision)


@dataclass(frozen=True)
class ObjectiveOptions(SloOptions):
    """What is sought of requests over time."""

    objective: Annotated[
        Literal["goodput", "throughput", "mean-latency", "p99-latency", "cost"] | None,
        typer.Option(
            help="With --trace; default: goodput where there is an SLO, throughput with "
            "--concurrency, or mean-latency."
        ),
    ] = None
    attainment: Annotated[
        float | None,
        typer.Option(
            help="Share of requests that must meet the SLO with --objective cost; default: 0.95."
        ),
    ] = None

    @property
    def slo(self) -> SloOptions:
        """What a good request meets, without what is sought."""
        return SloOptions(self.ttft_ms, self.tpot_ms, self.latency_ms)


@dataclass(frozen=True)
class QualityLimits:
    """How much quality the plan may lose."""

    measured: Annotated[
        Path | None,
        typer.Option("--quality", help="Measured loss of each layer and format (llmpq quality)."),
    ] = None
    max_kl_nats: Annotated[
        float | None,
        typer.Option("--max-kl", help="With --quality: most nats of KL divergence per token."),
    ] = None
    max_perplexity_increase: Annotated[
        float | None,
        typer.Option(help="With --quality: most points over the 16-bit perplexity."),
    ] = None
    at_least: Annotated[
        str | None,
        typer.Option(
            "--quality-at-least",
            help="No worse than this format everywhere, or the largest loss; default: int4.",
        ),
    ] = None
    sensitivity: Annotated[
        Path | None, typer.Option(help="Weight of each layer's loss (llmpq/sensitivity).")
    ] = None

    def options(self) -> "QualityOptions":
        """Return what options say of quality."""
        from llmpq_sim.api import QualityOptions

        return QualityOptions(**vars(self))


@dataclass(frozen=True)
class Effort:
    """How the plan is sought."""

    pareto: Annotated[
        bool, typer.Option("--pareto", help="Seek the front of throughput and quality loss.")
    ] = False
    seed: Annotated[int, typer.Option(help="Same seed, same plan.", min=0)] = 0
    generations: Annotated[int, typer.Option(help="Of the genetic search, at most.", min=0)] = 40
    budget_s: Annotated[
        float | None,
        typer.Option(help="Seconds after which the search ends with the best so far.", min=0),
    ] = None
    workers: Workers = None
    executor: ExecutorName = "processes"
    scheduler: SchedulerAddress = None

    @contextmanager
    def settings(self) -> "Iterator[SearchSettings]":
        """Give the settings of a search, while candidates are simulated where it is said."""
        from llmpq_sim.search.genetic.executors import simulating_on
        from llmpq_sim.search.planner import SearchSettings

        with simulating_on(self.executor, self.scheduler, self.workers) as at_once:
            yield SearchSettings(
                self.seed, self.generations, self.budget_s, at_once, wants_front=self.pareto
            )


@dataclass(frozen=True)
class PlanOutput:
    """What is written."""

    out: Annotated[Path, typer.Option(help="Where the plan is written.")] = Path("plan.json")
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint beside --out.")
    ] = False
    force: Annotated[bool, typer.Option("--force", help="Overwrite the plan that is there.")] = (
        False
    )
    as_json: JsonFlag = False
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show the generations of the genetic search too.")
    ] = False

    def check(self) -> None:
        """Check that the plan may be written, before it is sought.

        Raises:
            InputError: it cannot be, or another plan is there.
        """
        from llmpq_sim.io.files import check_writable

        check_writable(self.out)
        if self.out.exists() and not (self.force or self.resume):
            goes_on = ", --resume goes on with its search" if self.checkpoint.exists() else ""
            raise InputError(
                f"{self.out} exists already: --force overwrites it, --out writes another "
                f"file{goes_on}"
            )

    def kept(self) -> str:
        """Return what an interruption leaves before there is a plan to write."""
        if not self.checkpoint.exists():
            return "no plan was found yet"
        return f"the search so far is kept in {self.checkpoint}, --resume goes on"

    @property
    def checkpoint(self) -> Path:
        """The file with the state of the search, beside the plan."""
        return self.out.with_name(self.out.name + ".checkpoint.json")


@grouped
def search(
    *,
    context: typer.Context,
    asked: SearchInput,
    batch: BatchOptions,
    source: TraceSource,
    shape: TraceShape,
    objective: ObjectiveOptions,
    limits: QualityLimits,
    split: SplitOptions,
    effort: Effort,
    output: PlanOutput,
) -> None:
    """Find the best plan for a model on a cluster: for a batch, or for requests over time."""
    _check_together(context, source, effort, output)
    decided = split.split(resume=output.resume)
    from llmpq_sim.api import plan

    output.check()
    with _searching(effort, output) as (settings, on_progress):
        planned = plan(
            model=asked.read(),
            cluster=asked.cluster,
            batch=batch.batch,
            prompt_tokens=batch.prompt_tokens,
            output_tokens=batch.outputs,
            trace=trace_options(source, shape, effort.seed) if source.is_given else None,
            service=serving_options(objective.slo, None, objective.attainment),
            objective=objective.objective,
            quality=limits.options(),
            formats=asked.formats,
            kv_formats=asked.kv_formats,
            kernels=asked.kernels,
            profiles=asked.profile or (),
            settings=settings,
            split=decided,
            checkpoint=output.checkpoint if decided is None else None,
            resume=output.resume,
            on_progress=on_progress,
            on_trace=_warn,
        )
        planned.save(output.out)
    show_planned(planned, output.out, as_json=output.as_json, verbose=output.verbose)
    _end_if_interrupted(planned, output)


def _check_together(
    context: typer.Context, source: TraceSource, effort: Effort, output: PlanOutput
) -> None:
    """Raise InputError if options do not go together."""
    if not source.is_given:
        hint = "give --trace or --lengths as well"
        check_not_given(context, (TraceShape, ObjectiveOptions), hint)
        return
    check_not_given(context, (BatchOptions,), "a trace brings its own requests")
    if output.resume:
        raise InputError("--resume: a search for a trace keeps no checkpoint; leave it out")
    if effort.pareto:
        raise InputError("--pareto: a search for a trace has one objective; leave it out")


@contextmanager
def _searching(
    effort: Effort, output: PlanOutput
) -> "Iterator[tuple[SearchSettings, Callable[[SearchProgress], None]]]":
    """Give the settings of a search and what shows its progress, while the plan is locked."""
    from llmpq_sim.io.locks import locked
    from llmpq_sim.report.progress import native_output_on_stderr, progress_bar

    with (
        keeping(output.kept),
        locked(output.out),
        effort.settings() as settings,
        native_output_on_stderr(),
        progress_bar(sys.stderr.isatty()) as on_progress,
    ):
        yield settings, on_progress


def _warn(task: "OnlineTask") -> None:
    """Say at once, before the search, that more requests arrive than any plan serves."""
    from llmpq_sim.report.rate_limit import rate_limit_sentences

    for sentence in rate_limit_sentences(task.rate, task.workload):
        print(f"warning: {sentence}", file=sys.stderr)  # noqa: T201


def _end_if_interrupted(planned: "Planned", output: PlanOutput) -> None:
    """Say what is kept of a search that was interrupted, and end the command."""
    if planned.outcome.ended != "interrupted":
        return
    goes_on = ", --resume goes on" if output.checkpoint.exists() else ""
    print(f"interrupted; the best plan so far is in {output.out}{goes_on}", file=sys.stderr)  # noqa: T201
    raise typer.Exit(interruption_exit_code())


def show_planned(
    planned: "Planned", out: Path, *, as_json: bool = False, verbose: bool = False
) -> None:
    """Print what was found, and where its plan is, as text or as JSON."""
    from llmpq_sim.report.console import answer_console, print_json
    from llmpq_sim.report.json_reports import search_content
    from llmpq_sim.report.online import online_content, show_online
    from llmpq_sim.report.search import show_front, show_search
    from llmpq_sim.search.online.planner import OnlineOutcome
    from llmpq_sim.simulator.continuous.extrapolation import extrapolations

    outcome, notes, plan_file = planned.outcome, list(planned.notes), str(out)
    if isinstance(outcome, OnlineOutcome):
        if as_json:
            print_json(online_content(outcome, planned.content, plan_file))
        else:
            show_online(answer_console(), outcome, plan_file, notes, verbose=verbose)
        return
    notes += extrapolations(outcome.best.plan, outcome.task.costs)
    if as_json:
        print_json({**search_content(outcome, planned.content, plan_file), "notes": notes})
        return
    console = answer_console()
    show_search(console, outcome, plan_file, notes, verbose=verbose)
    if outcome.settings.wants_front:
        show_front(console, outcome)
