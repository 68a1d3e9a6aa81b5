"""Shaping of workloads: a part, another rate, a longest context."""

import math
from dataclasses import replace
from typing import Literal

import numpy as np

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.limits import LONGEST_TRACE_S, MOST_RATE_PER_S
from llmpq_sim.core.trace import FloatArray, IntArray, TraceWorkload

RateChange = Literal["compress", "superpose"]

MOST_COPIES = 1000
"""More copies than this are a Poisson process to any simulation."""

# ---- parts


def head(workload: TraceWorkload, requests: int) -> TraceWorkload:
    """Return the first requests, all of them where there are fewer.

    Raises:
        InputError: fewer than one is asked for.
    """
    if requests < 1:
        raise InputError(f"{workload.name}: expected at least 1 request to keep, got {requests}")
    return selected(workload, np.arange(min(requests, workload.requests)))


def window(workload: TraceWorkload, start_s: float, end_s: float) -> TraceWorkload:
    """Return the requests that arrive from ``start_s`` on and before ``end_s``.

    Instants then count from the first of them.

    Raises:
        InputError: there is none.
    """
    inside = (workload.arrival_s >= start_s) & (workload.arrival_s < end_s)
    if not inside.any():
        raise InputError(
            f"{workload.name}: no request arrives from {start_s:g} s on and before {end_s:g} s; "
            f"the last arrives at {workload.span_s:g} s"
        )
    return selected(workload, np.flatnonzero(inside))


def selected(workload: TraceWorkload, rows: IntArray) -> TraceWorkload:
    """Return the requests of these ascending indices, instants counted from the first of them."""
    return _picked(workload, rows, workload.arrival_s[rows])


def _picked(workload: TraceWorkload, rows: IntArray, arrival_s: FloatArray) -> TraceWorkload:
    blocks, session = workload.prefix_blocks, workload.session
    return replace(
        workload,
        arrival_s=arrival_s - arrival_s[0],
        prompt_tokens=workload.prompt_tokens[rows],
        output_tokens=workload.output_tokens[rows],
        prefix_blocks=None if blocks is None else tuple(blocks[row] for row in rows.tolist()),
        session=None if session is None else session[rows],
    )


# ---- rates


def scale_rate(
    workload: TraceWorkload, rate_per_s: float, how: RateChange, rng: np.random.Generator
) -> TraceWorkload:
    """Return as many requests at another rate: compressed, or superposed.

    Raises:
        InputError: see ``compress`` and ``superpose``.
    """
    if how == "compress":
        return compress(workload, rate_per_s)
    return superpose(workload, rate_per_s, rng)


def compress(workload: TraceWorkload, rate_per_s: float) -> TraceWorkload:
    """Return the workload at exactly this rate, every instant divided by one factor.

    All gaps scale alike, so bursts keep their shape.

    Raises:
        InputError: the rate is not positive, or the workload has none to scale.
    """
    factor = _factor(workload, rate_per_s)
    return replace(workload, arrival_s=workload.arrival_s / factor)


def superpose(
    workload: TraceWorkload, rate_per_s: float, rng: np.random.Generator
) -> TraceWorkload:
    """Return as many requests of a service with more independent users like these.

    Copies of the workload are laid over each other, each begun at a random instant and wrapped
    around; a rate that is no whole multiple is reached by leaving requests out at random. The
    earliest requests are kept, as many as there were. Bursts smooth towards a Poisson process.
    Copies share the first block of their prompts, the system prompt, and no other.

    Raises:
        InputError: the rate is lower than the workload's own or more than 1000 times as high, or
            the workload has none to scale.
    """
    factor = _factor(workload, rate_per_s)
    if not 1 <= factor <= MOST_COPIES:
        raise InputError(
            f"{workload.name}: superposing brings a rate to 1 to {MOST_COPIES} times "
            f"{workload.rate_per_s:.4g} requests/s, not to {rate_per_s:.4g}; compress instead"
        )
    requests, copies = workload.requests, math.ceil(factor)
    cycle_s = workload.span_s * (1 + 1 / requests)  # from the last to the first is a mean gap
    chosen = rng.permutation(copies * requests)[: round(factor * requests)]
    copy, row = np.divmod(chosen, requests)
    begin_s = rng.uniform(0, cycle_s, copies)
    instant_s = (workload.arrival_s[row] - begin_s[copy]) % cycle_s
    earliest = np.argsort(instant_s, kind="stable")[:requests]
    picked = _picked(workload, row[earliest], instant_s[earliest])
    return _set_apart(picked, copy[earliest])


def _factor(workload: TraceWorkload, rate_per_s: float) -> float:
    if workload.rate_per_s is None:
        found = "one request"
        if workload.requests > 1:
            found = "all requests at one instant; give --arrivals poisson"
        if workload.concurrency is not None:
            found = f"a closed loop of {workload.concurrency} in flight"
        raise InputError(f"{workload.name}: expected a rate that can be scaled, got {found}")
    own_per_s = workload.rate_per_s
    if not own_per_s <= MOST_RATE_PER_S:
        raise InputError(
            f"{workload.name}: expected a rate that can be scaled, at most {MOST_RATE_PER_S:g} "
            f"requests/s, got {own_per_s:g}: the arrivals span {workload.span_s:g} s"
        )
    if not 0 < rate_per_s <= MOST_RATE_PER_S:
        raise InputError(
            f"{workload.name}: expected a rate above 0 and at most {MOST_RATE_PER_S:g} requests/s, "
            f"got {rate_per_s:g}"
        )
    if workload.requests / rate_per_s > LONGEST_TRACE_S:
        raise InputError(
            f"{workload.name}: expected a rate at which {workload.requests} requests arrive within "
            f"{LONGEST_TRACE_S:g} s, got {rate_per_s:g} requests/s"
        )
    return rate_per_s / own_per_s


def _set_apart(workload: TraceWorkload, copy: IntArray) -> TraceWorkload:
    """Return the workload with conversations and blocks of its own in each copy."""
    blocks, session = workload.prefix_blocks, workload.session
    if session is not None:
        session = session + copy * (session.max() + 1)
    if blocks is not None:
        apart = 1 + max((block for row in blocks for block in row), default=0)
        blocks = tuple(
            row[:1] + tuple(block + number * apart for block in row[1:])
            for row, number in zip(blocks, copy.tolist(), strict=True)
        )
    return replace(workload, session=session, prefix_blocks=blocks)


# ---- longest contexts


def drop_overlong(workload: TraceWorkload, longest_context_tokens: int) -> TraceWorkload:
    """Return the requests whose prompt and output together fit, with a note on the others.

    Raises:
        InputError: none fits.
    """
    fits = workload.context_tokens <= longest_context_tokens
    dropped = workload.requests - int(fits.sum())
    if dropped == 0:
        return workload
    if dropped == workload.requests:
        raise InputError(
            f"{workload.name}: no request fits the longest context of {longest_context_tokens} "
            f"tokens; the shortest takes {workload.context_tokens.min()}"
        )
    kept = selected(workload, np.flatnonzero(fits))
    return noted(
        kept,
        f"dropped as longer than {longest_context_tokens} tokens: {dropped} of {workload.requests}",
    )


def truncate_overlong(workload: TraceWorkload, longest_context_tokens: int) -> TraceWorkload:
    """Return the workload with overlong prompts cut, and outputs that leave no room for any.

    Raises:
        InputError: the longest context cannot hold a prompt and an output of one token.
    """
    if longest_context_tokens < 2:
        raise InputError(
            f"{workload.name}: expected a longest context of at least 2 tokens, "
            f"got {longest_context_tokens}"
        )
    cut = int((workload.context_tokens > longest_context_tokens).sum())
    if cut == 0:
        return workload
    output_tokens = np.minimum(workload.output_tokens, longest_context_tokens - 1)
    prompt_tokens = np.minimum(workload.prompt_tokens, longest_context_tokens - output_tokens)
    blocks = workload.prefix_blocks
    if blocks is not None and workload.block_tokens is not None:
        counts = -(-prompt_tokens // workload.block_tokens)
        blocks = tuple(row[:count] for row, count in zip(blocks, counts.tolist(), strict=True))
    shorter = replace(
        workload, prompt_tokens=prompt_tokens, output_tokens=output_tokens, prefix_blocks=blocks
    )
    return noted(shorter, f"cut to {longest_context_tokens} tokens: {cut} of {workload.requests}")


# ---- closed loops


def closed_loop(workload: TraceWorkload, concurrency: int) -> TraceWorkload:
    """Return the same requests with so many of them always in flight, whenever they arrived.

    Raises:
        InputError: it is less than one, or more than there are requests.
    """
    if concurrency > workload.requests:
        raise InputError(
            f"{workload.name}: expected at most as many in flight as there are requests, "
            f"{workload.requests}, got {concurrency}"
        )
    return replace(
        workload, arrival_s=np.zeros(workload.requests, np.float64), concurrency=concurrency
    )


def noted(workload: TraceWorkload, *notes: str) -> TraceWorkload:
    """Return the workload with more notes."""
    return replace(workload, notes=(*workload.notes, *notes))
