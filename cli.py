"""What `llmpq` does on the command line: parse, call, print.

Every command imports what it needs when it runs, so that ``llmpq --help`` starts at once.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmpq_sim.commands import options
from llmpq_sim.commands.guard import guarded
from llmpq_sim.commands.reproduce import reproduce
from runtimes.commands import run as commands

if TYPE_CHECKING:
    from rich.console import Console

    from llmpq_sim.api.replay import ServingOptions
    from llmpq_sim.io.tasks import QualityTarget
    from llmpq_sim.io.workloads import TraceOptions
    from llmpq_sim.search.bound.problem import PlanningTask
    from llmpq_sim.search.online.task import OnlineTask
    from llmpq_sim.search.planner import SearchOutcome, SearchSettings

app = typer.Typer(
    name="llmpq",
    help="Plan how to serve a large language model on a mixed set of devices.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; whatever ends it is one line on stderr and an exit code."""
    sys.exit(guarded(app))


@app.command()
def search(
    model: Annotated[str, typer.Option(help="Bundled model, or a folder with config.json.")],
    cluster: Annotated[str, typer.Option(help="Bundled cluster, or a .yaml file.")],
    batch: options.Batch = None,
    prompt_tokens: options.PromptTokens = None,
    output_tokens: options.OutputTokens = None,
    output_lengths: options.OutputLengths = None,
    trace: options.Trace = None,
    requests: options.Requests = None,
    rate: options.Rate = None,
    rate_scaling: options.RateScaling = "compress",
    lengths: options.Lengths = None,
    arrivals: options.Arrivals = None,
    trace_format: options.TraceFormat = None,
    time_unit: options.TimeUnit = None,
    tokenizer: options.Tokenizer = None,
    chars_per_token: options.CharsPerToken = None,
    overlong: options.Overlong = "error",
    objective: options.SearchObjective = None,
    slo_ttft_ms: options.SloTtft = None,
    slo_tpot_ms: options.SloTpot = None,
    slo_e2e_ms: options.SloLatency = None,
    quality: options.Quality = None,
    max_kl: options.MaxKl = None,
    max_perplexity_increase: options.MaxPerplexityIncrease = None,
    quality_at_least: options.QualityAtLeast = None,
    sensitivity: options.Sensitivity = None,
    formats: options.Formats = None,
    kernels: options.Kernels = None,
    profile: options.Profiles = None,
    pareto: options.Pareto = False,
    seed: Annotated[int, typer.Option(help="Same seed, same plan.", min=0)] = 0,
    generations: Annotated[int, typer.Option(help="Of the genetic search, at most.", min=0)] = 40,
    budget_s: options.BudgetSeconds = None,
    workers: options.Workers = None,
    executor: options.Executor = "processes",
    scheduler: options.Scheduler = None,
    out: Annotated[Path, typer.Option(help="Where the plan is written.")] = Path("plan.json"),
    resume: options.Resume = False,
    as_json: options.JsonFlag = False,
) -> None:
    """Find the best plan for a model on a cluster: for a batch, or for requests over time."""
    serves_trace = trace is not None or lengths is not None
    options.check_search(locals(), serves_trace)
    from llmpq_sim.api.quality_target import QualityOptions, load_target
    from llmpq_sim.api.replay import ServingOptions
    from llmpq_sim.api.tasks import TaskOptions, batch_task, trace_task
    from llmpq_sim.io.files import check_writable
    from llmpq_sim.io.models import load_model
    from llmpq_sim.io.tasks import asked_batch
    from llmpq_sim.io.workloads import TraceOptions
    from llmpq_sim.search.genetic.executors import simulating_on
    from llmpq_sim.search.planner import SearchSettings

    check_writable(out)
    spec = load_model(model)
    limits = (quality_at_least, max_kl, max_perplexity_increase)
    target = load_target(QualityOptions(*limits, quality, sensitivity), spec)
    asked = TaskOptions(cluster, formats, kernels, tuple(profile or ()), target)
    with simulating_on(executor, scheduler, workers) as at_once:
        settings = SearchSettings(seed, generations, budget_s, at_once, wants_front=pareto)
        if serves_trace:
            wanted = TraceOptions(
                trace, lengths, arrivals, requests, rate, rate_scaling, trace_format, time_unit,
                tokenizer, chars_per_token, overlong, seed,
            )  # fmt: skip
            slo = ServingOptions(ttft_ms=slo_ttft_ms, tpot_ms=slo_tpot_ms, latency_ms=slo_e2e_ms)
            served, notes = trace_task(spec, wanted, slo, objective, asked)
            _search_online(served, target, settings, (out, as_json), notes)
            return
        workload = asked_batch(spec, batch, prompt_tokens, output_tokens, output_lengths)
        task, notes = batch_task(spec, workload, asked)
        _search_and_show(task, target, settings, (out, resume, as_json), notes)


def _search_online(
    task: "OnlineTask",
    target: "QualityTarget",
    settings: "SearchSettings",
    output: tuple[Path, bool],
    notes: list[str],
) -> None:
    """Search for a trace, save the plan, and print what was found."""
    from llmpq_sim.io.files import write_json
    from llmpq_sim.io.plans import online_to_content
    from llmpq_sim.report.native_output import native_output_on_stderr
    from llmpq_sim.report.online import online_content, show_online
    from llmpq_sim.report.progress import progress_bar
    from llmpq_sim.search.online.planner import search_online

    out, as_json = output
    with native_output_on_stderr(), progress_bar(sys.stderr.isatty()) as on_progress:
        outcome = search_online(task, settings, on_progress)
    content = online_to_content(outcome, target)
    write_json(out, content)
    if as_json:
        _print_json(online_content(outcome, content, str(out)))
        return
    show_online(_console(), outcome, str(out), notes)


def _search_and_show(
    task: "PlanningTask",
    target: "QualityTarget",
    settings: "SearchSettings",
    output: tuple[Path, bool, bool],
    notes: list[str],
) -> None:
    """Search, save the plan, and print what was found."""
    from llmpq_sim.io.checkpoints import load_checkpoint, search_sha256, write_checkpoint
    from llmpq_sim.io.files import write_json
    from llmpq_sim.io.plans import outcome_to_content
    from llmpq_sim.report.native_output import native_output_on_stderr
    from llmpq_sim.report.progress import progress_bar
    from llmpq_sim.search.planner import search as find

    out, resume, as_json = output
    checkpoint = out.with_name(out.name + ".checkpoint.json")
    search_hash = search_sha256(task, target, settings)
    resumed = load_checkpoint(checkpoint, task, search_hash) if resume else None
    with native_output_on_stderr(), progress_bar(sys.stderr.isatty()) as on_progress:
        outcome = find(
            task,
            settings,
            resumed=resumed,
            on_progress=on_progress,
            on_state=lambda state: write_checkpoint(checkpoint, state, search_hash),
        )
    content = outcome_to_content(outcome, target)
    write_json(out, content)
    if outcome.ended == "done":
        checkpoint.unlink(missing_ok=True)
    _show_outcome(outcome, content, out, as_json, notes)


def _show_outcome(
    outcome: "SearchOutcome", content: dict[str, Any], out: Path, as_json: bool, notes: list[str]
) -> None:
    from llmpq_sim.report.json_reports import search_content
    from llmpq_sim.report.search import show_front, show_search
    from llmpq_sim.simulator.continuous.extrapolation import extrapolations

    notes = [*notes, *extrapolations(outcome.best.plan, outcome.task.costs)]
    if as_json:
        _print_json({**search_content(outcome, content, str(out)), "notes": notes})
        return
    console = _console()
    show_search(console, outcome, str(out), notes)
    if outcome.settings.wants_front:
        show_front(console, outcome)


@app.command()
def simulate(
    plan: options.PlanFile,
    batch: Annotated[int | None, typer.Option(help="Another number of requests.")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(help="Another prompt length.")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Another output length.")] = None,
    output_lengths: options.OutputLengths = None,
    trace: options.Trace = None,
    requests: options.Requests = None,
    rate: options.Rate = None,
    rate_scaling: options.RateScaling = "compress",
    lengths: options.Lengths = None,
    arrivals: options.Arrivals = None,
    trace_format: options.TraceFormat = None,
    time_unit: options.TimeUnit = None,
    tokenizer: options.Tokenizer = None,
    chars_per_token: options.CharsPerToken = None,
    overlong: options.Overlong = "error",
    token_budget: options.TokenBudget = None,
    sequence_limit: options.SequenceLimit = None,
    chunked_prefill: options.ChunkedPrefill = None,
    prefix_caching: options.PrefixCaching = None,
    slo_ttft_ms: options.SloTtft = None,
    slo_tpot_ms: options.SloTpot = None,
    slo_e2e_ms: options.SloLatency = None,
    max_rate: options.FindMaxRate = False,
    attainment: options.Attainment = None,
    timeline: options.Timeline = None,
    plot: options.Plot = None,
    seed: Annotated[int, typer.Option(help="Of all draws.", min=0)] = 0,
    profile: options.Profiles = None,
    as_json: options.JsonFlag = False,
) -> None:
    """Predict what a plan does with its own batch, with another, or with requests over time."""
    given = options.given_names(locals(), ("plan", "seed", "timeline", "profile", "as_json"))
    if trace is None and lengths is None:
        options.check_only(given, options.OF_BATCHES, "give --trace or --lengths as well")
        wanted = (batch, prompt_tokens, output_tokens, output_lengths)
        _simulate_batch(plan, profile or [], wanted, timeline, as_json)
        return
    options.check_none(given, options.OF_BATCHES, "a trace brings its own requests")
    from llmpq_sim.api.replay import ServingOptions
    from llmpq_sim.io.workloads import TraceOptions
    from llmpq_sim.simulator.continuous.max_rate import ATTAINMENT

    asked = TraceOptions(
        trace, lengths, arrivals, requests, rate, rate_scaling, trace_format, time_unit,
        tokenizer, chars_per_token, overlong, seed,
    )  # fmt: skip
    limits = (token_budget, sequence_limit, chunked_prefill, prefix_caching)
    share = ATTAINMENT if max_rate and attainment is None else attainment
    wishes = ServingOptions(*limits, slo_ttft_ms, slo_tpot_ms, slo_e2e_ms, share)
    _simulate_trace(plan, profile or [], asked, wishes, (timeline, plot, as_json))


def _simulate_batch(
    plan: Path,
    profile: list[Path],
    wanted: tuple[int | None, int | None, int | None, Path | None],
    timeline: Path | None,
    as_json: bool,
) -> None:
    from llmpq_sim.io.plans import load_plan, with_workload
    from llmpq_sim.io.profiles import load_profiles
    from llmpq_sim.io.tasks import load_output_lengths
    from llmpq_sim.report.artifacts import write_batch_timeline
    from llmpq_sim.report.json_reports import predicted_content
    from llmpq_sim.report.search import show_simulation
    from llmpq_sim.report.timeline import timeline_text
    from llmpq_sim.search.scoring import score_plan

    saved = load_plan(plan, load_profiles(profile))
    batch, prompt_tokens, output_tokens, output_lengths = wanted
    lengths = load_output_lengths(output_lengths) if output_lengths else output_tokens
    task, given = with_workload(saved, batch, prompt_tokens, lengths)
    score = score_plan(given, task)
    written = []
    if timeline is not None and score.result is not None:
        drawn = write_batch_timeline(timeline, given, task.costs)
        written = [timeline_text(drawn, str(timeline))]
    if as_json:
        _print_json(predicted_content(score, task))
        return
    show_simulation(_console(), score, task, written)


def _simulate_trace(
    plan: Path,
    profile: list[Path],
    asked: "TraceOptions",
    wishes: "ServingOptions",
    output: tuple[Path | None, Path | None, bool],
) -> None:
    from llmpq_sim.io.plans import load_plan
    from llmpq_sim.io.profiles import load_profiles
    from llmpq_sim.report.artifacts import Pictures, replay_drawn
    from llmpq_sim.report.service import show_replay
    from llmpq_sim.report.service_content import replay_content

    timeline, plot, as_json = output
    saved = load_plan(plan, load_profiles(profile))
    watched = sys.stderr.isatty()
    found, written = replay_drawn(saved, asked, wishes, Pictures(timeline, plot), watched)
    if as_json:
        _print_json(replay_content(found))
        return
    show_replay(_console(), found, written)


@app.command()
def verify(
    plan: options.PlanFile, profile: options.Profiles = None, as_json: options.JsonFlag = False
) -> None:
    """Recompute a plan's certificate by arithmetic alone, without a solver."""
    from llmpq_sim.api.verify import verify_plan
    from llmpq_sim.io.plans import load_plan
    from llmpq_sim.io.profiles import load_profiles
    from llmpq_sim.report.json_reports import verification_content
    from llmpq_sim.report.search import show_verification

    verification = verify_plan(load_plan(plan, load_profiles(profile or [])))
    if as_json:
        _print_json(verification_content(verification))
        return
    show_verification(_console(), verification)


@app.command()
def fit(
    measurements: Annotated[Path, typer.Argument(help="Tidy rows, CSV or parquet.")],
    device: Annotated[str, typer.Option(help="Bundled device that was measured.")],
    out: Annotated[Path, typer.Option(help="Where the profile is written.")],
    kernels: Annotated[
        str | None, typer.Option(help="Name of the kernel set; default: from the rows.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same profile.", min=0)] = 0,
    as_json: options.JsonFlag = False,
) -> None:
    """Fit a latency profile to profiled kernels, and report its error on unseen shapes."""
    from llmpq_sim.io.files import check_writable, write_json
    from llmpq_sim.io.profiles import fit_measurements
    from llmpq_sim.latency.profile import profile_to_content
    from llmpq_sim.report.json_reports import fit_content
    from llmpq_sim.report.progress import steps_shown
    from llmpq_sim.report.search import show_fit

    check_writable(out)
    with steps_shown(sys.stderr.isatty()) as on_progress:
        report = fit_measurements(measurements, device, kernels, seed, on_progress)
    write_json(out, profile_to_content(report.profile))
    if as_json:
        _print_json(fit_content(report, str(out)))
        return
    show_fit(_console(), report, str(out))


@app.command("list")
def list_bundled(
    kind: Annotated[str, typer.Argument(help="models, devices, clusters or formats.")],
    as_json: options.JsonFlag = False,
) -> None:
    """Show what ships: models, devices, clusters or weight formats."""
    from llmpq_sim.report.listings import bundled_listing
    from llmpq_sim.report.search import show_listing

    listing = bundled_listing(kind)
    if as_json:
        _print_json(listing.content())
        return
    show_listing(_console(), listing)


def _console() -> "Console":
    from llmpq_sim.report.output import answer_console as console

    return console()


def _print_json(content: dict[str, Any]) -> None:
    from llmpq_sim.report.output import print_json as show

    show(content)


for _command in (*commands.ALL, reproduce):
    app.command()(_command)


if __name__ == "__main__":
    main()
