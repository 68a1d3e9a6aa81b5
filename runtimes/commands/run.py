"""Which commands put plans to work on this machine, and what do they print?

Like those of ``cli.py`` they parse, call and print, and import what they need when they run.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from runtimes.commands.quality import quality

if TYPE_CHECKING:
    from llmpq_sim.io.workloads import TraceOptions
    from llmpq_sim.report.execution_comparison import Comparison
    from runtimes.deployment.deploy import Deployment, Outcome

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Profiles = Annotated[
    list[Path] | None,
    typer.Option("--profile", help="Latency profile of your own (llmpq fit); repeatable."),
]
Seed = Annotated[int, typer.Option(help="Of all draws.", min=0)]
TimelineFile = Annotated[
    Path | None, typer.Option(help="Draw both executions for Perfetto into this file.")
]


def deploy(
    plan: Annotated[Path, typer.Argument(help="A plan that llmpq search wrote.")],
    model_dir: Annotated[
        Path | None, typer.Option(help="Folder of the model, as Hugging Face lays it out.")
    ] = None,
    requests: Annotated[
        str | None,
        typer.Option(help="A file in OpenAI's batch form; or how many of --trace to serve."),
    ] = None,
    trace: Annotated[
        str | None, typer.Option(help="Synthetic prompts, as long as those of this trace.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests per second of --trace.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Answers, a line each, written as they are finished.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the answers in --out and serve the rest.")
    ] = False,
    result: Annotated[Path, typer.Option(help="What was measured, for llmpq compare.")] = Path(
        "result.json"
    ),
    compare: Annotated[
        bool, typer.Option("--compare", help="Show prediction and measurement side by side.")
    ] = False,
    timeline: TimelineFile = None,
    runtime: Annotated[str, typer.Option(help="Who computes: torch or simulated.")] = "torch",
    policy: Annotated[
        Literal["static", "continuous"] | None,
        typer.Option(help="How requests are batched; default: as the plan was made for."),
    ] = None,
    token_budget: Annotated[
        int | None, typer.Option(help="Most tokens of one batch, with continuous batching.", min=1)
    ] = None,
    sequence_limit: Annotated[
        int | None, typer.Option(help="Most requests at once, with continuous batching.", min=1)
    ] = None,
    dtype: Annotated[
        Literal["bf16", "fp16", "fp32"] | None,
        typer.Option(help="Of all that is not quantized; default: as the plan's layers."),
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help="Device of each stage, as cpu,cuda:0; default: by its kind.")
    ] = None,
    weight_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps quantized weights for the next start.")
    ] = None,
    nodes: Annotated[int, typer.Option(help="Machines that take part.", min=1)] = 1,
    node_rank: Annotated[int, typer.Option(help="Which of them this is.", min=0)] = 0,
    master: Annotated[
        str | None, typer.Option(help="HOST:PORT at which machines meet; the first listens.")
    ] = None,
    enforce_memory: Annotated[
        bool, typer.Option("--enforce-memory", help="Give no stage more than its device has.")
    ] = False,
    cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs", help="Let GPUs replay decode steps (experimental).")
    ] = False,
    batch_invariant: Annotated[
        bool,
        typer.Option("--batch-invariant", help="Same tokens in whatever batch (slower)."),
    ] = False,
    hang_timeout_s: Annotated[
        float, typer.Option(help="Seconds of silence after which a stage counts as hung.", min=1)
    ] = 5.0,
    step_timeout_s: Annotated[
        float, typer.Option(help="Seconds that one step of a stage may take.", min=1)
    ] = 120.0,
    seed: Seed = 0,
    profile: Profiles = None,
    as_json: JsonFlag = False,
) -> None:
    """Carry out a plan: load the model's layers onto their devices and serve requests."""
    from llmpq_sim.io.files import check_writable
    from llmpq_sim.io.plans import load_plan
    from llmpq_sim.io.profiles import load_profiles
    from runtimes.base import RuntimeOptions
    from runtimes.deployment.deploy import Deployment

    for path in (result, timeline):
        if path is not None:
            check_writable(path)
    options = RuntimeOptions(
        dtype=dtype,
        devices=tuple(devices.split(",")) if devices else None,
        weight_cache=weight_cache,
        nodes=nodes,
        node_rank=node_rank,
        master=master,
        hang_timeout_s=hang_timeout_s,
        step_timeout_s=step_timeout_s,
        enforces_memory=enforce_memory,
        records_steps=cuda_graphs,
        batch_invariant=batch_invariant,
    )
    saved = load_plan(plan, load_profiles(profile or []))
    requests_file, wanted_trace = _requested(requests, trace, rate, seed)
    deployment = Deployment(
        saved, runtime, model_dir, requests_file, wanted_trace, policy,
        token_budget, sequence_limit, out, resume, seed, options,
    )  # fmt: skip
    _carry_out(deployment, result, (compare, timeline), as_json)


def _requested(
    requests: str | None, trace: str | None, rate: float | None, seed: int
) -> "tuple[Path | None, TraceOptions | None]":
    """Return the file of requests and the trace that options ask for."""
    from llmpq_sim.core.errors import InputError
    from llmpq_sim.io.workloads import TraceOptions

    count = int(requests) if requests is not None and requests.isdigit() else None
    if trace is None:
        if count is not None:
            raise InputError("--requests: a number goes with --trace; otherwise give a file")
        if rate is not None:
            raise InputError("--rate: give --trace as well")
        return None if requests is None else Path(requests), None
    if requests is not None and not count:
        raise InputError(f"--requests: with --trace expected a number above 0, got {requests!r}")
    return None, TraceOptions(trace=trace, requests=count, rate_per_s=rate, seed=seed)


def _carry_out(
    deployment: "Deployment", result: Path, comparing: tuple[bool, Path | None], as_json: bool
) -> None:
    from llmpq_sim.report.output import answer_console, print_json
    from runtimes.deployment.deploy import deploy as carry_out
    from runtimes.deployment.deploy import write_result
    from runtimes.deployment.report import deploy_progress, outcome_content, show_outcome

    wants_comparison, timeline = comparing
    try:
        with deploy_progress(sys.stderr.isatty()) as on_progress:
            outcome = carry_out(deployment, on_progress)
    except KeyboardInterrupt:
        kept = f"; what was answered is in {deployment.out}, --resume does the rest"
        print(f"interrupted{kept if deployment.out else ''}", file=sys.stderr)  # noqa: T201
        raise typer.Exit(130) from None
    if outcome.measured is not None:
        write_result(result, outcome.measured)
    if as_json:
        print_json(outcome_content(outcome, str(result), wants_comparison))
    else:
        show_outcome(answer_console(), outcome, str(result), str(deployment.out or ""))
    if outcome.measured is not None and (timeline is not None or wants_comparison):
        _compared(outcome, timeline, show=wants_comparison and not as_json)


def _compared(outcome: "Outcome", timeline: Path | None, *, show: bool) -> None:
    from llmpq_sim.report.execution import show_comparison
    from llmpq_sim.report.execution_comparison import compare as compared
    from llmpq_sim.report.output import answer_console

    if outcome.measured is None:
        return
    comparison = compared(outcome.saved, outcome.measured)
    written = _timeline(timeline, comparison)
    if show:
        console = answer_console()
        console.print()
        show_comparison(console, comparison, written)


def _timeline(timeline: Path | None, comparison: "Comparison") -> list[str]:
    """Draw a comparison's timeline where it is wanted; return what to say of it."""
    from llmpq_sim.report.execution_timeline import write_comparison_timeline
    from llmpq_sim.report.timeline import timeline_text

    if timeline is None:
        return []
    return [timeline_text(write_comparison_timeline(timeline, comparison), str(timeline))]


def compare(
    result: Annotated[Path, typer.Argument(help="What llmpq deploy measured.")],
    plan: Annotated[Path, typer.Option(help="The plan that was carried out.")] = Path("plan.json"),
    timeline: TimelineFile = None,
    profile: Profiles = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what was predicted of an execution beside what was measured."""
    from llmpq_sim.io.executions import load_execution
    from llmpq_sim.io.files import check_writable
    from llmpq_sim.io.plans import load_plan
    from llmpq_sim.io.profiles import load_profiles
    from llmpq_sim.report.execution import show_comparison
    from llmpq_sim.report.execution_comparison import compare as compared
    from llmpq_sim.report.execution_content import comparison_content
    from llmpq_sim.report.output import answer_console, print_json

    if timeline is not None:
        check_writable(timeline)
    saved = load_plan(plan, load_profiles(profile or []))
    comparison = compared(saved, load_execution(result))
    written = _timeline(timeline, comparison)
    if as_json:
        print_json(comparison_content(comparison))
        return
    show_comparison(answer_console(), comparison, written)


def profile(
    out: Annotated[Path, typer.Option(help="Rows of timings, a .csv file.")] = Path("rows.csv"),
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(help="Processor cores; default: all of them.", min=1)
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Bundled model or folder whose matrices are timed; repeatable."),
    ] = None,
    formats: Annotated[str | None, typer.Option(help="As int4,bf16; default: all.")] = None,
    dtype: Annotated[
        Literal["bf16", "fp16"] | None, typer.Option(help="Of what is not quantized.")
    ] = None,
    neighbours: Annotated[
        int | None,
        typer.Option(help="Stages that keep other cores busy; default: all there is room for."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A thinner grid: some minutes.")] = False,
    name: Annotated[str | None, typer.Option(help="What to call the device; default: cpu.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the rows in --out.")] = False,
    cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs", help="For a deployment with --cuda-graphs.")
    ] = False,
    seed: Seed = 0,
    as_json: JsonFlag = False,
) -> None:
    """Time this machine's kernels, layers and links, for llmpq fit."""
    from llmpq_sim.report.output import answer_console, print_json
    from runtimes.profiling.profiler import profile as time_kernels
    from runtimes.profiling.report import profile_content, profile_progress, show_profile
    from runtimes.profiling.settings import DEFAULT_MODELS, ProfileSettings

    settings = ProfileSettings(
        out=out,
        device=device,
        threads=threads,
        models=tuple(model) if model else DEFAULT_MODELS,
        formats=tuple(part.strip() for part in formats.split(",")) if formats else None,
        is_quick=quick,
        name=name or ("cpu" if device == "cpu" else None),
        resume=resume,
        dtype=dtype,
        seed=seed,
        neighbours=neighbours,
        records_steps=cuda_graphs,
    )
    with profile_progress(sys.stderr.isatty()) as on_progress:
        summary = time_kernels(settings, on_progress)
    if as_json:
        print_json(profile_content(summary))
        return
    show_profile(answer_console(), summary)


def cluster(
    profiles: Annotated[
        list[Path], typer.Argument(help="Profiles of your own devices, one for each kind.")
    ],
    from_profiles: Annotated[  # noqa: ARG001 - says what the arguments are
        bool, typer.Option("--from-profiles", help="The files are profiles; nothing else can be.")
    ] = True,
    out: Annotated[Path, typer.Option(help="The cluster file, YAML.")] = Path("cluster.yaml"),
    name: Annotated[str, typer.Option(help="Of the cluster.")] = "local",
    count: Annotated[int, typer.Option(help="Devices of each kind.", min=1)] = 1,
) -> None:
    """Write a cluster file of the devices that were profiled on this machine."""
    from llmpq_sim.io.files import check_writable, write_text
    from llmpq_sim.io.profiled_clusters import cluster_from_profiles
    from llmpq_sim.report.output import answer_console

    check_writable(out)
    write_text(out, cluster_from_profiles(profiles, name, count))
    answer_console().print(f"Wrote {out}.", markup=False)


def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Where its files go.")] = Path("demo"),
    model: Annotated[
        str, typer.Option(help="Bundled model or folder; its weights are made up.")
    ] = "llama-160m",
    batch: Annotated[int, typer.Option(help="Requests.", min=1)] = 8,
    prompt_tokens: Annotated[int, typer.Option(help="Of each prompt.", min=1)] = 64,
    output_tokens: Annotated[int, typer.Option(help="To generate per request.", min=2)] = 48,
    runs: Annotated[int, typer.Option(help="Of each plan, in turns.", min=1)] = 3,
    seed: Seed = 0,
    as_json: JsonFlag = False,
) -> None:
    """Profile this machine, plan for two unequal cores, carry the plan out, and compare."""
    from llmpq_sim.report.output import answer_console, print_json
    from runtimes.demo.demo import DemoSettings, demonstrate
    from runtimes.demo.report import (
        demonstration_content,
        show_demonstration,
        steps_told,
    )
    from runtimes.profiling.report import profile_progress

    settings = DemoSettings(folder, model, batch, prompt_tokens, output_tokens, runs, seed)
    with profile_progress(sys.stderr.isatty()) as on_profile:
        shown = demonstrate(settings, steps_told(sys.stderr), on_profile)
    if as_json:
        print_json(demonstration_content(shown))
        return
    show_demonstration(answer_console(), shown)


ALL = (quality, deploy, compare, profile, cluster, demo)
"""The commands, in the order in which help lists them."""
