"""Option groups that several commands share."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from llmpq_sim.api.replaying import ServingOptions
    from llmpq_sim.io.workloads import TraceOptions

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Profiles = Annotated[
    list[Path] | None,
    typer.Option("--profile", help="Latency profile of your own (llmpq fit); repeatable."),
]
PlanFile = Annotated[Path, typer.Argument(help="A plan that llmpq search wrote.")]
Seed = Annotated[int, typer.Option(help="Of all draws.", min=0)]


@dataclass(frozen=True)
class BatchOptions:
    """A batch of requests."""

    batch: Annotated[int | None, typer.Option(help="Requests in the batch; default: 32.")] = None
    prompt_tokens: Annotated[
        int | None, typer.Option(help="Tokens of each (padded) prompt; default: 512.")
    ] = None
    output_tokens: Annotated[
        int | None, typer.Option(help="Tokens to generate per request; default: 128.")
    ] = None
    output_lengths: Annotated[
        Path | None, typer.Option(help="Tokens per request, one number a line, instead.")
    ] = None

    @property
    def outputs(self) -> int | Path | None:
        """The tokens to generate: a file of lengths, a number, or None where neither is given."""
        return self.output_lengths or self.output_tokens


@dataclass(frozen=True)
class OtherBatchOptions(BatchOptions):
    """Another batch than the plan's own."""

    batch: Annotated[int | None, typer.Option(help="Another number of requests.")] = None
    prompt_tokens: Annotated[int | None, typer.Option(help="Another prompt length.")] = None
    output_tokens: Annotated[int | None, typer.Option(help="Another output length.")] = None
    policy: Annotated[
        str,
        typer.Option(help="How micro-batches follow each other: static, or one that is installed."),
    ] = "static"


@dataclass(frozen=True)
class TraceSource:
    """Requests over time."""

    trace: Annotated[
        str | None, typer.Option(help="Requests over time: a file, or a bundled name (azure-conv).")
    ] = None
    lengths: Annotated[
        str | None, typer.Option(help="Made-up prompt and output lengths, such as D(512,128).")
    ] = None

    @property
    def is_given(self) -> bool:
        """Whether requests over time are asked for at all."""
        return self.trace is not None or self.lengths is not None


@dataclass(frozen=True)
class TraceShape:
    """How requests over time are read."""

    requests: Annotated[
        int | None, typer.Option(help="So many requests, the first of a trace file.", min=1)
    ] = None
    rate_per_s: Annotated[
        float | None, typer.Option("--rate", help="Requests per second to scale the trace to.")
    ] = None
    rate_how: Annotated[
        Literal["compress", "superpose"],
        typer.Option(
            "--rate-scaling", help="Divide all times by a factor, or lay copies over each other."
        ),
    ] = "compress"
    concurrency: Annotated[
        int | None,
        typer.Option(help="So many always in flight: each that ends lets the next in.", min=1),
    ] = None
    arrivals: Annotated[
        str | None, typer.Option(help="Made-up arrivals: poisson, gamma or burst, with parameters.")
    ] = None
    trace_format: Annotated[
        str | None, typer.Option(help="Format of the trace file, if not told from its content.")
    ] = None
    columns: Annotated[
        str | None,
        typer.Option(
            help="Columns or nested keys of a CSV or JSONL file: "
            "time=created,prompt=usage.prompt_tokens,output=usage.completion_tokens."
        ),
    ] = None
    time_unit: Annotated[
        Literal["s", "ms", "us", "ns"] | None,
        typer.Option(help="Unit of the trace's times, if not the format's own."),
    ] = None
    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer.json that counts the tokens of texts.")
    ] = None
    chars_per_token: Annotated[
        float | None, typer.Option(help="Count the tokens of texts by characters instead.")
    ] = None
    overlong: Annotated[
        Literal["error", "drop", "truncate"],
        typer.Option(help="What to do with requests longer than the model's context."),
    ] = "error"


def trace_options(source: TraceSource, shape: TraceShape, seed: int) -> "TraceOptions":
    """Return how a workload is asked for."""
    from llmpq_sim.io.workloads import TraceOptions

    return TraceOptions(**vars(source), **vars(shape), seed=seed)


@dataclass(frozen=True)
class SchedulerOptions:
    """How requests over time are batched."""

    token_budget: Annotated[
        int | None, typer.Option(help="Most tokens of one batch; default: 2048.", min=1)
    ] = None
    sequence_limit: Annotated[
        int | None, typer.Option(help="Most requests admitted at once; default: 256.", min=1)
    ] = None
    chunked_prefill: Annotated[
        bool | None,
        typer.Option(
            "--chunked-prefill/--no-chunked-prefill",
            help="Cut prompts to fit the token budget; default: on.",
        ),
    ] = None
    prefix_caching: Annotated[
        bool | None,
        typer.Option(
            "--prefix-caching/--no-prefix-caching",
            help="Share KV blocks of equal prefixes; default: on where the trace has hashes.",
        ),
    ] = None
    admission: Annotated[
        Literal["evict", "no-evict"] | None,
        typer.Option(
            help="Admit requests at once and evict when KV runs out, or only those whose whole "
            "output fits; default: evict."
        ),
    ] = None
    chunk_tokens: Annotated[
        int | None,
        typer.Option(help="Most prompt tokens of one request in a batch; default: all.", min=1),
    ] = None
    batches_in_flight: Annotated[
        int | None,
        typer.Option(help="Most batches under way at once; default: one a stage.", min=1),
    ] = None


Workers = Annotated[
    int | None, typer.Option(help="Processes that simulate; default: one per core.", min=1)
]
ExecutorName = Annotated[
    Literal["processes", "dask"],
    typer.Option(help="What simulates: this machine's cores, or a Dask cluster (--scheduler)."),
]
SchedulerAddress = Annotated[
    str | None, typer.Option(help="With --executor dask: its scheduler, HOST:PORT.")
]


@dataclass(frozen=True)
class SpreadOptions:
    """Who simulates several rates or closed loops at once."""

    workers: Workers = None
    executor: ExecutorName = "processes"
    scheduler: SchedulerAddress = None

    @contextmanager
    def at_once(self) -> Iterator[int]:
        """Give how many are simulated at once, while they are simulated where it is said."""
        from llmpq_sim.search.genetic.executors import simulating_on

        with simulating_on(self.executor, self.scheduler, self.workers) as workers:
            yield workers


@dataclass(frozen=True)
class SloOptions:
    """What a good request meets."""

    ttft_ms: Annotated[
        float | None, typer.Option("--slo-ttft-ms", help="Longest good time to the first token.")
    ] = None
    tpot_ms: Annotated[
        float | None, typer.Option("--slo-tpot-ms", help="Longest good time per further token.")
    ] = None
    latency_ms: Annotated[
        float | None, typer.Option("--slo-e2e-ms", help="Longest good time to the last token.")
    ] = None


def serving_options(
    slo: SloOptions,
    scheduler: SchedulerOptions | None = None,
    attainment: float | None = None,
) -> "ServingOptions":
    """Return what is asked of a simulated service."""
    from llmpq_sim.api.replaying import ServingOptions

    limits = vars(scheduler or SchedulerOptions())
    return ServingOptions(**limits, **vars(slo), attainment=attainment)
