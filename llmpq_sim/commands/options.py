"""Options that search and simulate share."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from llmpq_sim.core.errors import InputError

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Profiles = Annotated[
    list[Path] | None,
    typer.Option("--profile", help="Latency profile of your own (llmpq fit); repeatable."),
]
PlanFile = Annotated[Path, typer.Argument(help="A plan that llmpq search wrote.")]
Trace = Annotated[
    str | None, typer.Option(help="Requests over time: a file, or a bundled name (azure-conv).")
]
Requests = Annotated[
    int | None, typer.Option(help="So many requests, the first of a trace file.", min=1)
]
Rate = Annotated[float | None, typer.Option(help="Requests per second to scale the trace to.")]
RateScaling = Annotated[
    Literal["compress", "superpose"],
    typer.Option(help="Divide all times by a factor, or lay copies over each other."),
]
Lengths = Annotated[
    str | None, typer.Option(help="Made-up prompt and output lengths, such as D(512,128).")
]
Arrivals = Annotated[
    str | None, typer.Option(help="Made-up arrivals: poisson, gamma or burst, with parameters.")
]
TraceFormat = Annotated[
    str | None, typer.Option(help="Format of the trace file, if not told from its content.")
]
TimeUnit = Annotated[
    Literal["s", "ms", "us", "ns"] | None,
    typer.Option(help="Unit of the trace's times, if not the format's own."),
]
Tokenizer = Annotated[
    Path | None, typer.Option(help="A tokenizer.json that counts the tokens of texts.")
]
CharsPerToken = Annotated[
    float | None, typer.Option(help="Count the tokens of texts by characters instead.")
]
Overlong = Annotated[
    Literal["error", "drop", "truncate"],
    typer.Option(help="What to do with requests longer than the model's context."),
]
TokenBudget = Annotated[
    int | None, typer.Option(help="Most tokens of one batch; default: 2048.", min=1)
]
SequenceLimit = Annotated[
    int | None, typer.Option(help="Most requests admitted at once; default: 256.", min=1)
]
ChunkedPrefill = Annotated[
    bool | None,
    typer.Option(
        "--chunked-prefill/--no-chunked-prefill",
        help="Cut prompts to fit the token budget; default: on.",
    ),
]
PrefixCaching = Annotated[
    bool | None,
    typer.Option(
        "--prefix-caching/--no-prefix-caching",
        help="Share KV blocks of equal prefixes; default: on where the trace has hashes.",
    ),
]
SloTtft = Annotated[
    float | None, typer.Option("--slo-ttft-ms", help="Longest good time to the first token.")
]
SloTpot = Annotated[
    float | None, typer.Option("--slo-tpot-ms", help="Longest good time per further token.")
]
SloLatency = Annotated[
    float | None, typer.Option("--slo-e2e-ms", help="Longest good time to the last token.")
]
FindMaxRate = Annotated[
    bool, typer.Option("--max-rate", help="Find the highest rate at which the SLO is attained.")
]
Attainment = Annotated[
    float | None,
    typer.Option(help="Share of requests that must meet the SLO at --max-rate; default: 0.9."),
]
Timeline = Annotated[
    Path | None, typer.Option(help="Write stage visits for ui.perfetto.dev to this .json file.")
]
Plot = Annotated[Path | None, typer.Option(help="Draw latencies to this .png or .svg file.")]

SearchObjective = Annotated[
    Literal["goodput", "mean-latency", "p99-latency", "cost"] | None,
    typer.Option(help="With --trace; default: goodput where there is an SLO, or mean-latency."),
]
Sensitivity = Annotated[
    Path | None, typer.Option(help="Weight of each layer's loss (llmpq/sensitivity).")
]
Formats = Annotated[
    str | None, typer.Option(help="Allowed formats, as int4,int8,fp16; default: all four.")
]
Kernels = Annotated[
    str | None, typer.Option(help="Kernel set for every device; default: each one's first.")
]
BudgetSeconds = Annotated[
    float | None, typer.Option(help="Seconds after which no further step starts.", min=0)
]
Executor = Annotated[
    Literal["processes", "dask"],
    typer.Option(help="What simulates: this machine's cores, or a Dask cluster (--scheduler)."),
]
Scheduler = Annotated[
    str | None, typer.Option(help="With --executor dask: its scheduler, HOST:PORT.")
]
Workers = Annotated[
    int | None, typer.Option(help="Processes that simulate; default: one per core.", min=1)
]
Batch = Annotated[int | None, typer.Option(help="Requests in the batch; default: 32.")]
PromptTokens = Annotated[
    int | None, typer.Option(help="Tokens of each (padded) prompt; default: 512.")
]
OutputTokens = Annotated[
    int | None, typer.Option(help="Tokens to generate per request; default: 128.")
]
OutputLengths = Annotated[
    Path | None, typer.Option(help="Tokens per request, one number a line, instead.")
]
Pareto = Annotated[
    bool, typer.Option("--pareto", help="Seek the front of throughput and quality loss.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint beside --out.")]
QualityAtLeast = Annotated[
    str | None,
    typer.Option(help="No worse than this format everywhere, or the largest loss; default: int4."),
]
Quality = Annotated[
    Path | None, typer.Option(help="Measured loss of each layer and format (llmpq quality).")
]
MaxKl = Annotated[
    float | None, typer.Option(help="With --quality: most nats of KL divergence per token.")
]
MaxPerplexityIncrease = Annotated[
    float | None, typer.Option(help="With --quality: most points over the 16-bit perplexity.")
]


OF_BATCHES = ("batch", "prompt_tokens", "output_tokens", "output_lengths")
"""Options that describe a batch, where a trace would bring requests over time."""


OF_TRACES = (
    "requests", "rate", "rate_scaling", "arrivals", "trace_format", "time_unit", "tokenizer",
    "chars_per_token", "overlong", "objective", "slo_ttft_ms", "slo_tpot_ms", "slo_e2e_ms",
)  # fmt: skip
"""Options that describe requests over time and what is wanted of serving them."""


def check_search(values: Mapping[str, object], serves_trace: bool) -> None:
    """Raise InputError if a search is given options that do not go together."""
    given = given_names(values, ())
    if not serves_trace:
        check_none(given, OF_TRACES, "give --trace or --lengths as well")
        return
    check_none(given, OF_BATCHES, "a trace brings its own requests")
    check_none(given, ("resume",), "a search for a trace keeps no checkpoint; leave it out")
    check_none(given, ("pareto",), "a search for a trace has one objective; leave it out")


def given_names(values: Mapping[str, object], others: Collection[str]) -> list[str]:
    """Return the names of the options that were given, of those that only some inputs take.

    Args:
        values: of all parameters of a command.
        others: parameters that any input takes.
    """
    unset = ("compress", "error")
    return [
        name
        for name, value in values.items()
        if name not in others and value is not None and value is not False and value not in unset
    ]


def check_only(given: Iterable[str], names: Collection[str], hint: str) -> None:
    """Raise InputError if an option was given that is none of some."""
    check_none([name for name in given if name not in names], None, hint)


def check_none(given: Iterable[str], names: Collection[str] | None, hint: str) -> None:
    """Raise InputError if one of some options was given; of any where none are named."""
    for name in given:
        if names is None or name in names:
            raise InputError(f"--{name.replace('_', '-')}: {hint}")
