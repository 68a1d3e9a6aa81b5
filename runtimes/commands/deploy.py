"""The commands that carry a plan out and look at how it went: ``llmpq deploy`` and ``compare``."""

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmpq_sim.commands.interruption import keeping
from llmpq_sim.commands.option_groups import grouped
from llmpq_sim.commands.options import JsonFlag, PlanFile, Profiles, Seed
from llmpq_sim.core.errors import InputError
from runtimes.commands.installed import check_torch

if TYPE_CHECKING:
    from llmpq_sim.io.workloads import TraceOptions
    from llmpq_sim.report.execution_comparison import Comparison
    from runtimes.base import RuntimeOptions
    from runtimes.deployment.deploy import Outcome

TimelineFile = Annotated[
    Path | None, typer.Option(help="Draw both executions for Perfetto into this file.")
]


@dataclass(frozen=True)
class ServedRequests:
    """What is served."""

    model_dir: Annotated[
        Path | None, typer.Option(help="Folder of the model, as Hugging Face lays it out.")
    ] = None
    requests: Annotated[
        str | None,
        typer.Option(help="A file in OpenAI's batch form; or how many of --trace to serve."),
    ] = None
    trace: Annotated[
        str | None, typer.Option(help="Synthetic prompts, as long as those of this trace.")
    ] = None
    rate: Annotated[float | None, typer.Option(help="Requests per second of --trace.")] = None
    seed: Seed = 0

    @property
    def file(self) -> Path | None:
        """The file of requests, or None where they come from a trace or the plan."""
        self._check_together()
        return None if self.trace is not None or self.requests is None else Path(self.requests)

    def of_trace(self) -> "TraceOptions | None":
        """Return how a trace is asked for, or None where none is."""
        from llmpq_sim.io.workloads import TraceOptions

        self._check_together()
        if self.trace is None:
            return None
        return TraceOptions(
            trace=self.trace, requests=self._count, rate_per_s=self.rate, seed=self.seed
        )

    @property
    def _count(self) -> int | None:
        is_number = self.requests is not None and self.requests.isdigit()
        return int(self.requests or 0) if is_number else None

    def _check_together(self) -> None:
        """Raise InputError where options do not go together."""
        if self.trace is None:
            if self._count is not None:
                raise InputError("--requests: a number goes with --trace; otherwise give a file")
            if self.rate is not None:
                raise InputError("--rate: give --trace as well")
        elif self.requests is not None and not self._count:
            raise InputError(
                f"--requests: with --trace expected a number above 0, got {self.requests!r}"
            )


@dataclass(frozen=True)
class Batching:
    """How requests are batched."""

    policy: Annotated[
        Literal["static", "continuous"] | None,
        typer.Option(help="How requests are batched; default: as the plan was made for."),
    ] = None
    token_budget: Annotated[
        int | None, typer.Option(help="Most tokens of one batch, with continuous batching.", min=1)
    ] = None
    sequence_limit: Annotated[
        int | None, typer.Option(help="Most requests at once, with continuous batching.", min=1)
    ] = None
    admission: Annotated[
        Literal["evict", "no-evict"] | None,
        typer.Option(help="Whether requests may be evicted, with continuous batching."),
    ] = None
    chunk_tokens: Annotated[
        int | None,
        typer.Option(help="Most prompt tokens of one request in a batch, likewise.", min=1),
    ] = None
    batches_in_flight: Annotated[
        int | None, typer.Option(help="Most batches under way at once, likewise.", min=1)
    ] = None
    concurrency: Annotated[
        int | None,
        typer.Option(help="So many always in flight: each that ends lets the next in.", min=1),
    ] = None


@dataclass(frozen=True)
class StageOptions:
    """Where and how stages compute."""

    dtype: Annotated[
        Literal["bf16", "fp16", "fp32"] | None,
        typer.Option(help="Of all that is not quantized; default: as the plan's layers."),
    ] = None
    devices: Annotated[
        str | None, typer.Option(help="Device of each stage, as cpu,cuda:0; default: by its kind.")
    ] = None
    weight_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps quantized weights for the next start.")
    ] = None
    nodes: Annotated[int, typer.Option(help="Machines that take part.", min=1)] = 1
    node_rank: Annotated[int, typer.Option(help="Which of them this is.", min=0)] = 0
    master: Annotated[
        str | None, typer.Option(help="HOST:PORT at which machines meet; the first listens.")
    ] = None
    enforces_memory: Annotated[
        bool, typer.Option("--enforce-memory", help="Give no stage more than its device has.")
    ] = False
    uses_cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs", help="Let GPUs replay decode steps (experimental).")
    ] = False
    batch_invariant: Annotated[
        bool, typer.Option("--batch-invariant", help="Same tokens in whatever batch (slower).")
    ] = False
    hang_timeout_s: Annotated[
        float, typer.Option(help="Seconds of silence after which a stage counts as hung.", min=1)
    ] = 5.0
    step_timeout_s: Annotated[
        float, typer.Option(help="Seconds that one step of a stage may take.", min=1)
    ] = 120.0

    def options(self) -> "RuntimeOptions":
        """Return where and how the runtime runs."""
        from runtimes.base import RuntimeOptions

        devices = tuple(self.devices.split(",")) if self.devices else None
        return RuntimeOptions(**{**vars(self), "devices": devices})


@dataclass(frozen=True)
class DeployOutput:
    """What is written."""

    out: Annotated[
        Path | None, typer.Option(help="Answers, a line each, written as they are finished.")
    ] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the answers in --out and serve the rest.")
    ] = False
    result: Annotated[Path, typer.Option(help="What was measured, for llmpq compare.")] = Path(
        "result.json"
    )
    compares: Annotated[
        bool, typer.Option("--compare", help="Show prediction and measurement side by side.")
    ] = False
    timeline: TimelineFile = None
    as_json: JsonFlag = False

    def kept(self) -> str:
        """Return what an interruption leaves."""
        if self.out is None:
            return "no answer is kept without --out"
        return f"what was answered is in {self.out}, --resume does the rest"


@grouped
def deploy(
    plan: PlanFile,
    served: ServedRequests,
    batching: Batching,
    stages: StageOptions,
    output: DeployOutput,
    runtime: Annotated[str, typer.Option(help="Who computes: torch or simulated.")] = "torch",
    profile: Profiles = None,
) -> None:
    """Carry out a plan: load the model's layers onto their devices and serve requests."""
    if runtime == "torch":
        check_torch("llmpq deploy computes")
    from llmpq_sim.api import load
    from llmpq_sim.io.files import check_writable
    from llmpq_sim.io.locks import locked
    from runtimes.deployment.deploy import Deployment, write_result
    from runtimes.deployment.deploy import deploy as carry_out
    from runtimes.deployment.report import deploy_progress

    for path in (output.result, output.timeline):
        if path is not None:
            check_writable(path)
    deployment = Deployment(
        saved=load(plan, profiles=profile or ()),
        runtime=runtime,
        model_dir=served.model_dir,
        requests_file=served.file,
        trace=served.of_trace(),
        out=output.out,
        resume=output.resume,
        seed=served.seed,
        options=stages.options(),
        **vars(batching),
    )
    # Of several machines the first writes the result.
    result = nullcontext() if stages.node_rank else locked(output.result, "--result")
    with result:
        with keeping(output.kept), deploy_progress(sys.stderr.isatty()) as on_progress:
            outcome = carry_out(deployment, on_progress)
        if outcome.measured is not None:
            write_result(output.result, outcome.measured)
    _show(outcome, output)


def _show(outcome: "Outcome", output: DeployOutput) -> None:
    """Print what came of a deployment, and set it beside its prediction where it is wanted."""
    from llmpq_sim.report.console import answer_console, print_json
    from llmpq_sim.report.execution import show_comparison
    from llmpq_sim.report.execution_comparison import compare as compared
    from runtimes.deployment.report import outcome_content, show_outcome

    console = answer_console()
    if output.as_json:
        print_json(outcome_content(outcome, str(output.result), output.compares))
    else:
        show_outcome(console, outcome, str(output.result), str(output.out or ""))
    if outcome.measured is None or (output.timeline is None and not output.compares):
        return
    comparison = compared(outcome.saved, outcome.measured)
    written = _timeline(output.timeline, comparison)
    if output.compares and not output.as_json:
        console.print()
        show_comparison(console, comparison, written)


def _timeline(timeline: Path | None, comparison: "Comparison") -> list[str]:
    """Draw a comparison's timeline where it is wanted; return what to say of it."""
    from llmpq_sim.report.execution import write_comparison_timeline
    from llmpq_sim.report.timeline import timeline_text

    if timeline is None:
        return []
    return [timeline_text(write_comparison_timeline(timeline, comparison), str(timeline))]


@grouped
def compare(
    result: Annotated[Path, typer.Argument(help="What llmpq deploy measured.")],
    plan: Annotated[Path, typer.Option(help="The plan that was carried out.")] = Path("plan.json"),
    timeline: TimelineFile = None,
    profile: Profiles = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what was predicted of an execution beside what was measured."""
    from llmpq_sim.api import load
    from llmpq_sim.io.executions import load_execution
    from llmpq_sim.io.files import check_writable
    from llmpq_sim.report.console import answer_console, print_json
    from llmpq_sim.report.execution import show_comparison
    from llmpq_sim.report.execution_comparison import compare as compared
    from llmpq_sim.report.json_reports import comparison_content

    if timeline is not None:
        check_writable(timeline)
    comparison = compared(load(plan, profiles=profile or ()), load_execution(result))
    written = _timeline(timeline, comparison)
    if as_json:
        print_json(comparison_content(comparison))
        return
    show_comparison(answer_console(), comparison, written)
