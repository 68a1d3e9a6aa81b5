"""Workloads from a trace file, a bundled preset, or laws given as options."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zlib import crc32

import numpy as np

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.limits import (
    LEAST_CHARS_PER_TOKEN,
    LEAST_RATE_PER_S,
    MOST_CHARS_PER_TOKEN,
    MOST_RATE_PER_S,
    MOST_TRACE_REQUESTS,
    check_count,
    check_number,
)
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.io.presets import load_preset, preset_names
from llmpq_sim.io.traces.collecting import TimeUnit
from llmpq_sim.io.traces.loading import Overlong, load_trace
from llmpq_sim.workloads.arrivals import arrivals_from_text
from llmpq_sim.workloads.generate import arriving, preset_from_options, synthesize
from llmpq_sim.workloads.shaping import closed_loop, drop_overlong, scale_rate, truncate_overlong

DEFAULT_REQUESTS = 1000
"""Requests drawn from a preset or from laws, unless told."""


@dataclass(frozen=True)
class TraceOptions:
    """How a workload is asked for; None where an option was not given.

    Attributes:
        trace: a file, or the name of a bundled preset.
        lengths, arrivals: laws instead, as ``D(512,128)`` and ``poisson``; arrivals also give
            times to a trace that has none.
        requests: how many, the first ones of a trace.
        rate_per_s: requests per second to scale to.
        rate_how: whether times are compressed or copies superposed.
        concurrency: requests always in flight, each let in by one that ends, instead of arrivals.
        trace_format, columns, time_unit: what is not to be told from the content.
        tokenizer, chars_per_token: how texts are counted.
        overlong: what to do with requests longer than the model's context.
        seed: of all draws.
    """

    trace: str | None = None
    lengths: str | None = None
    arrivals: str | None = None
    requests: int | None = None
    rate_per_s: float | None = None
    rate_how: Literal["compress", "superpose"] = "compress"
    concurrency: int | None = None
    trace_format: str | None = None
    columns: str | None = None
    time_unit: TimeUnit | None = None
    tokenizer: Path | None = None
    chars_per_token: float | None = None
    overlong: Overlong = "error"
    seed: int = 0


def load_workload(
    options: TraceOptions, longest_context_tokens: int, devices: int = 1
) -> TraceWorkload:
    """Return the workload that options ask for.

    Args:
        options: where requests come from, and how they are changed.
        longest_context_tokens: most tokens of a prompt and its output that the model takes.
        devices: of the cluster that serves it.

    Raises:
        InputError: the options contradict each other, or name nothing that can be read.
    """
    check_trace_options(options)
    rng = np.random.default_rng([options.seed, crc32(b"workload")])
    if options.lengths is not None:
        if options.trace is not None:
            raise InputError("--lengths: expected either a trace or lengths, got both")
        preset = preset_from_options(options.lengths, options.arrivals)
        drawn = synthesize(preset, _requests(options), None, rng)
        workload = _shortened(drawn, options.overlong, longest_context_tokens)
    elif options.trace is None:
        raise InputError("--trace: expected a file or the name of a workload, got neither")
    elif _is_preset(options.trace):
        if options.columns is not None:
            raise InputError(f"--columns: {options.trace} is a bundled workload, not a file")
        preset = load_preset(options.trace)
        drawn = synthesize(preset, _requests(options), None, rng)
        workload = _arriving(_shortened(drawn, "drop", longest_context_tokens), options, rng)
    else:
        read = _read(options, longest_context_tokens, devices, rng)
        workload = _arriving(read, options, rng)
    if options.concurrency is not None:
        return _closed(workload, options.concurrency)
    if options.rate_per_s is None:
        return workload
    return scale_rate(workload, options.rate_per_s, options.rate_how, rng)


def check_trace_options(options: TraceOptions) -> None:
    """Raise InputError for a number of an option that no workload can have."""
    if options.requests is not None:
        check_count("--requests", options.requests, MOST_TRACE_REQUESTS, "requests")
    if options.rate_per_s is not None:
        check_number("--rate", options.rate_per_s, LEAST_RATE_PER_S, MOST_RATE_PER_S, "requests/s")
    if options.concurrency is not None:
        check_count("--concurrency", options.concurrency, MOST_TRACE_REQUESTS, "requests in flight")
        for name, given in (("--rate", options.rate_per_s), ("--arrivals", options.arrivals)):
            if given is not None:
                raise InputError(
                    f"--concurrency: requests of a closed loop arrive as others end, so {name} "
                    "says nothing; give one of the two"
                )
    if options.chars_per_token is not None:
        check_number(
            "--chars-per-token",
            options.chars_per_token,
            LEAST_CHARS_PER_TOKEN,
            MOST_CHARS_PER_TOKEN,
        )


def _closed(workload: TraceWorkload, concurrency: int) -> TraceWorkload:
    if concurrency > workload.requests:
        raise InputError(
            f"--concurrency: expected at most as many in flight as there are requests, "
            f"{workload.requests}, got {concurrency}; --requests asks for more"
        )
    return closed_loop(workload, concurrency)


def _requests(options: TraceOptions) -> int:
    return DEFAULT_REQUESTS if options.requests is None else options.requests


def workload_sha256(workload: TraceWorkload) -> str:
    """Return the hash of a workload's requests, by which results name it."""
    digest = hashlib.sha256()
    for array in (workload.arrival_s, workload.prompt_tokens, workload.output_tokens):
        digest.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
    digest.update(repr(workload.prefix_blocks).encode())
    return digest.hexdigest()


def _is_preset(trace: str) -> bool:
    return trace in preset_names() or Path(trace).suffix in (".yaml", ".yml")


def _read(
    options: TraceOptions, longest_context_tokens: int, devices: int, rng: np.random.Generator
) -> TraceWorkload:
    uses_times = options.concurrency is None and options.arrivals is None
    path = Path(options.trace or "")
    if not os.path.lexists(path) and path.suffix == "" and path.name == str(path):
        load_preset(str(path))  # says which names there are
    return load_trace(
        path,
        trace_format=options.trace_format,
        columns=options.columns,
        time_unit=options.time_unit,
        tokenizer=options.tokenizer,
        chars_per_token=options.chars_per_token,
        limit=options.requests,
        longest_context_tokens=longest_context_tokens,
        overlong=options.overlong,
        devices=devices if uses_times else None,
        rng=rng,
    )


def _arriving(
    workload: TraceWorkload, options: TraceOptions, rng: np.random.Generator
) -> TraceWorkload:
    if options.arrivals is None:
        return workload
    return arriving(workload, arrivals_from_text(options.arrivals), rng)


def _shortened(workload: TraceWorkload, overlong: Overlong, longest: int) -> TraceWorkload:
    """Apply what a reader does to overlong requests to drawn ones; an error counts them."""
    if overlong == "truncate":
        return truncate_overlong(workload, longest)
    if overlong == "drop":
        return drop_overlong(workload, longest)
    too_long = int((workload.context_tokens > longest).sum())
    if too_long:
        raise InputError(
            f"--lengths: {too_long} of {workload.requests} requests have more than the model's "
            f"{longest} tokens; use --overlong drop or truncate"
        )
    return workload
