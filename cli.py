"""What `llmpq` does on the command line: parse, call, print.

Every command imports what it needs when it runs, so that ``llmpq --help`` starts at once.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from llmpq_sim.search.planner import SearchOutcome, SearchSettings
    from llmpq_sim.search.problem import PlanningTask
    from llmpq_sim.task_files import QualityTarget

app = typer.Typer(
    name="llmpq",
    help="Plan how to serve a large language model on a mixed set of devices.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Profiles = Annotated[
    list[Path] | None,
    typer.Option("--profile", help="Latency profile of your own (llmpq fit); repeatable."),
]
PlanFile = Annotated[Path, typer.Argument(help="A plan that llmpq search wrote.")]


def main() -> None:
    """Run the command line; an expected failure is one line on stderr and exit code 1."""
    try:
        app()
    except KeyboardInterrupt:
        print("interrupted: no plan was found yet", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    except Exception as error:
        from llmpq_sim.errors import LlmpqError

        if not isinstance(error, LlmpqError):
            raise
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)


@app.command()
def search(
    model: Annotated[str, typer.Option(help="Bundled model, or a folder with config.json.")],
    cluster: Annotated[str, typer.Option(help="Bundled cluster, or a .yaml file.")],
    batch: Annotated[int, typer.Option(help="Requests in the batch.")] = 32,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of each (padded) prompt.")] = 512,
    output_tokens: Annotated[int, typer.Option(help="Tokens to generate per request.")] = 128,
    output_lengths: Annotated[
        Path | None, typer.Option(help="Tokens per request, one number a line, instead.")
    ] = None,
    quality_at_least: Annotated[
        str, typer.Option(help="No worse than this format everywhere; or the largest loss.")
    ] = "int4",
    sensitivity: Annotated[
        Path | None, typer.Option(help="Weight of each layer's loss (llmpq/sensitivity).")
    ] = None,
    formats: Annotated[
        str | None, typer.Option(help="Allowed formats, as int4,int8,fp16; default: all four.")
    ] = None,
    kernels: Annotated[
        str | None, typer.Option(help="Kernel set for every device; default: each one's first.")
    ] = None,
    profile: Profiles = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Seek the front of throughput and quality loss.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same plan.", min=0)] = 0,
    generations: Annotated[int, typer.Option(help="Of the genetic search, at most.", min=0)] = 40,
    budget_s: Annotated[
        float | None, typer.Option(help="Seconds after which no further step starts.", min=0)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that simulate; default: one per core.", min=1)
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the plan is written.")] = Path("plan.json"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint beside --out.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Find the best plan for a model on a cluster, with a proven bound on what is possible."""
    from llmpq_sim.files import check_writable
    from llmpq_sim.model_files import load_model
    from llmpq_sim.search.planner import SearchSettings
    from llmpq_sim.task_files import (
        batch_workload,
        load_output_lengths,
        load_sensitivity,
        quality_target,
    )

    check_writable(out)
    spec = load_model(model)
    outputs = load_output_lengths(output_lengths) if output_lengths else output_tokens
    workload = batch_workload(spec, batch, prompt_tokens, outputs)
    weights = load_sensitivity(sensitivity, spec) if sensitivity else None
    target = quality_target(quality_at_least, weights)
    task, notes = _task(spec, cluster, workload, (formats, kernels, profile or []), target)
    settings = SearchSettings(
        seed, generations, budget_s, workers or os.cpu_count() or 1, wants_front=pareto
    )
    _search_and_show(task, target, settings, (out, resume, as_json), notes)


def _task(
    spec: Any,
    cluster_name: str,
    workload: Any,
    choices: tuple[str | None, str | None, list[Path]],
    target: "QualityTarget",
) -> tuple["PlanningTask", list[str]]:
    """Return the task and what the user should know about its profiles."""
    from llmpq_sim.cluster_files import load_cluster
    from llmpq_sim.profile_files import cluster_profiles, load_profiles
    from llmpq_sim.scenario import Scenario
    from llmpq_sim.task_files import chosen_formats, formats_without_times, planning_task

    formats, kernels, own = choices
    cluster = load_cluster(cluster_name)
    profiles = cluster_profiles(cluster, kernels, load_profiles(own))
    allowed = chosen_formats(formats, spec, cluster)
    notes = formats_without_times(cluster, profiles, allowed)
    return planning_task(Scenario(spec, cluster, workload), profiles, allowed, target), notes


def _search_and_show(
    task: "PlanningTask",
    target: "QualityTarget",
    settings: "SearchSettings",
    output: tuple[Path, bool, bool],
    notes: list[str],
) -> None:
    """Search, save the plan, and print what was found."""
    from llmpq_sim.checkpoint_files import load_checkpoint, search_sha256, write_checkpoint
    from llmpq_sim.files import write_json
    from llmpq_sim.plan_files import outcome_to_content
    from llmpq_sim.report.progress import progress_bar
    from llmpq_sim.search.planner import search as find

    out, resume, as_json = output
    checkpoint = out.with_name(out.name + ".checkpoint.json")
    search_hash = search_sha256(task, target, settings)
    resumed = load_checkpoint(checkpoint, task, search_hash) if resume else None
    with progress_bar(sys.stderr.isatty()) as on_progress:
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
    from llmpq_sim.report.content import search_content
    from llmpq_sim.report.screen import show_front, show_search
    from llmpq_sim.simulator.extrapolation import extrapolations

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
    plan: PlanFile,
    batch: Annotated[int | None, typer.Option(help="Another number of requests.")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(help="Another prompt length.")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Another output length.")] = None,
    output_lengths: Annotated[
        Path | None, typer.Option(help="Tokens per request, one number a line, instead.")
    ] = None,
    profile: Profiles = None,
    as_json: JsonFlag = False,
) -> None:
    """Predict what a plan does with its own batch, or with another."""
    from llmpq_sim.plan_files import load_plan, with_workload
    from llmpq_sim.profile_files import load_profiles
    from llmpq_sim.report.content import predicted_content
    from llmpq_sim.report.screen import show_simulation
    from llmpq_sim.search.scoring import score_plan
    from llmpq_sim.task_files import load_output_lengths

    saved = load_plan(plan, load_profiles(profile or []))
    lengths = load_output_lengths(output_lengths) if output_lengths else output_tokens
    task, given = with_workload(saved, batch, prompt_tokens, lengths)
    score = score_plan(given, task)
    if as_json:
        _print_json(predicted_content(score, task))
        return
    show_simulation(_console(), score, task)


@app.command()
def verify(plan: PlanFile, profile: Profiles = None, as_json: JsonFlag = False) -> None:
    """Recompute a plan's certificate by arithmetic alone, without a solver."""
    from llmpq_sim.plan_files import load_plan
    from llmpq_sim.profile_files import load_profiles
    from llmpq_sim.report.content import verification_content
    from llmpq_sim.report.screen import show_verification
    from llmpq_sim.verification import verify_plan

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
    as_json: JsonFlag = False,
) -> None:
    """Fit a latency profile to profiled kernels, and report its error on unseen shapes."""
    from llmpq_sim.files import check_writable, write_json
    from llmpq_sim.latency.profile import profile_to_content
    from llmpq_sim.profile_files import fit_measurements
    from llmpq_sim.report.content import fit_content
    from llmpq_sim.report.progress import steps_shown
    from llmpq_sim.report.screen import show_fit

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
    as_json: JsonFlag = False,
) -> None:
    """Show what ships: models, devices, clusters or weight formats."""
    from llmpq_sim.report.listings import bundled_listing
    from llmpq_sim.report.screen import show_listing

    listing = bundled_listing(kind)
    if as_json:
        _print_json(listing.content())
        return
    show_listing(_console(), listing)


def _console() -> "Console":
    from rich.console import Console

    width = int(os.environ["COLUMNS"]) if os.environ.get("COLUMNS", "").isdigit() else None
    return Console(width=width or (None if sys.stdout.isatty() else 88), highlight=False)


def _print_json(content: dict[str, Any]) -> None:
    from llmpq_sim.files import json_text

    sys.stdout.write(json_text(content))


if __name__ == "__main__":
    main()
