"""Synthetic workloads drawn from tables and processes."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np

from llmpq_sim.core import limits
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.records import Codec, Header, Place
from llmpq_sim.core.trace import FloatArray, TraceWorkload
from llmpq_sim.workloads.arrivals import (
    ArrivalProcess,
    GammaArrivals,
    Seconds,
    arrivals_from_text,
    read_arrivals,
)
from llmpq_sim.workloads.conversations import Conversations
from llmpq_sim.workloads.lengths import RequestLengths, lengths_from_text
from llmpq_sim.workloads.randomness import Streams
from llmpq_sim.workloads.shaping import compress, noted

MOST_REQUESTS = limits.MOST_TRACE_REQUESTS


@dataclass(frozen=True)
class RequestClass:
    """Requests of one kind.

    Attributes:
        name: of the kind.
        lengths: of prompts and outputs.
        arrivals: when they come, or None where all are present at the start.
    """

    name: str
    lengths: Annotated[RequestLengths, Place.INLINE]
    arrivals: Annotated[ArrivalProcess | None, Codec(read_arrivals)]


@dataclass(frozen=True)
class Preset:
    """What a workload is drawn from.

    Attributes:
        name: of the workload; those fitted to a trace end in ``-like``.
        source: where the figures are from.
        requests: how many it has unless others are asked for.
        classes: kinds of request, laid over each other.
        conversations: how requests continue each other, or None where they do not; the only class
            then has the lengths of first prompts, and gamma arrivals.
        resolution_s: what instants are rounded down to, as the trace's are, or None.
    """

    header: ClassVar = Header("llmpq/workload", 1)

    name: str
    source: str
    requests: int
    classes: tuple[RequestClass, ...]
    conversations: Conversations | None = None
    resolution_s: Seconds | None = None


def preset_from_options(lengths: str, arrivals: str | None) -> Preset:
    """Return a preset of one class from the notation of ``--lengths`` and ``--arrivals``.

    Its rate is 1 request per second, and is set when it is drawn from.

    Raises:
        InputError: one of them describes nothing.
    """
    process = None if arrivals is None else arrivals_from_text(arrivals)
    requests = RequestClass("all", lengths_from_text(lengths), process)
    name = lengths if arrivals is None else f"{lengths} {arrivals}"
    return Preset(name, "--lengths and --arrivals", 512, (requests,))


def synthesize(
    preset: Preset, requests: int, rate_per_s: float | None, rng: np.random.Generator
) -> TraceWorkload:
    """Return a workload drawn from a preset; the same generator state gives the same one.

    Args:
        preset: tables and processes.
        requests: how many requests.
        rate_per_s: rate the workload has exactly, all gaps scaled alike, or None for the preset's.
        rng: draws.

    Raises:
        InputError: a number is out of range, or a rate is asked of requests that do not arrive.
    """
    if not 1 <= requests <= MOST_REQUESTS:
        raise InputError(f"{preset.name}: expected 1 to {MOST_REQUESTS} requests, got {requests}")
    streams = Streams(rng)
    if preset.conversations is None:
        drawn = _merged(preset, [_of_class(kind, requests, streams) for kind in preset.classes])
    else:
        drawn = _conversing(preset, preset.conversations, requests, streams)
    if preset.resolution_s is not None:
        stamps_s = np.floor(drawn.arrival_s / preset.resolution_s) * preset.resolution_s
        drawn = replace(drawn, arrival_s=stamps_s)
    made = noted(drawn, f"synthetic, not a recording; source: {preset.source}")
    if rate_per_s is None or requests == 1:
        return made
    if any(kind.arrivals is None for kind in preset.classes):
        raise InputError(
            f"{preset.name}: all requests are present at the start, so it has no rate to set; "
            "give --arrivals"
        )
    return compress(made, rate_per_s)


def arriving(
    workload: TraceWorkload, process: ArrivalProcess, rng: np.random.Generator
) -> TraceWorkload:
    """Return the same requests in the same order, arriving by a process."""
    arrival_s = _from_zero(process.draw(workload.requests, rng))
    return noted(replace(workload, arrival_s=arrival_s), "arrival times are made up")


def _of_class(kind: RequestClass, requests: int, streams: Streams) -> TraceWorkload:
    """Return so many requests of one class, the most that a mixture may need of it."""
    arrival_s = np.zeros(requests)
    if kind.arrivals is not None:
        arrival_s = kind.arrivals.draw(requests, streams.named(f"{kind.name} arrivals"))
    prompt_tokens, output_tokens = kind.lengths.draw(
        requests, streams.named(f"{kind.name} lengths")
    )
    return TraceWorkload(kind.name, arrival_s, prompt_tokens, output_tokens)


def _merged(preset: Preset, parts: list[TraceWorkload]) -> TraceWorkload:
    """Return the earliest requests of all classes."""
    requests = parts[0].requests
    arrival_s = np.concatenate([part.arrival_s for part in parts])
    rows = np.argsort(arrival_s, kind="stable")[:requests]
    return TraceWorkload(
        preset.name,
        _from_zero(arrival_s[rows]),
        np.concatenate([part.prompt_tokens for part in parts])[rows],
        np.concatenate([part.output_tokens for part in parts])[rows],
    )


def _conversing(
    preset: Preset, conversations: Conversations, requests: int, streams: Streams
) -> TraceWorkload:
    kind = preset.classes[0]
    if not isinstance(kind.arrivals, GammaArrivals):
        raise InputError(f"{preset.name}: expected gamma arrivals of conversations")
    turns = conversations.draw(
        requests, kind.arrivals.rate_per_s, kind.lengths, streams.named("conversations")
    )
    instants_s = kind.arrivals.instants(turns.operational, streams.named("modulation"))
    return TraceWorkload(
        preset.name,
        _from_zero(instants_s),
        turns.prompt_tokens,
        turns.output_tokens,
        prefix_blocks=conversations.blocks(turns),
        block_tokens=conversations.block_tokens,
        session=np.unique(turns.session, return_inverse=True)[1].astype(np.int64),
    )


def _from_zero(instant_s: FloatArray) -> FloatArray:
    elapsed: FloatArray = instant_s - instant_s[0]
    return elapsed
