"""Synthetic prompts for requests of which only the lengths are known."""

from collections.abc import Iterator
from zlib import crc32

import numpy as np

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.core.trace import IntArray, TraceWorkload
from runtimes.base import TokenRequest
from runtimes.deployment.generation_config import TextModel

OWN, SHARED = crc32(b"prompts"), crc32(b"prefix blocks")


def batch_requests(
    workload: BatchWorkload, model: TextModel, seed: int
) -> tuple[TokenRequest, ...]:
    """Return requests with the lengths of a plan's own batch, all present at the start.

    Args:
        workload: the batch.
        model: whose tokens the prompts are made of; special ones are left out.
        seed: of the draws; request i is the same however many there are.

    Raises:
        InputError: the model has no tokens but special ones.
    """
    tokens = _ordinary_tokens(model)
    return tuple(
        TokenRequest(_name(i), _own(tokens, workload.prompt_tokens, i, seed), output_tokens)
        for i, output_tokens in enumerate(workload.output_tokens)
    )


def trace_requests(trace: TraceWorkload, model: TextModel, seed: int) -> tuple[TokenRequest, ...]:
    """Return requests with a trace's arrivals and lengths, which no token ends earlier.

    Prompts that share prefix blocks in the trace begin with the same tokens; all other tokens are
    drawn for each request alone.

    Args:
        trace: the requests.
        model: whose tokens the prompts are made of; special ones are left out.
        seed: of the draws; request i is the same however many there are.

    Raises:
        InputError: the model has no tokens but special ones.
    """
    tokens = _ordinary_tokens(model)
    columns = zip(
        trace.prompt_tokens.tolist(),
        trace.output_tokens.tolist(),
        trace.arrival_s.tolist(),
        strict=True,
    )
    return tuple(
        TokenRequest(
            name=_name(i),
            prompt=_trace_prompt(trace, i, prompt_tokens, tokens, seed),
            output_tokens=output_tokens,
            arrival_s=arrival_s,
        )
        for i, (prompt_tokens, output_tokens, arrival_s) in enumerate(columns)
    )


def _name(number: int) -> str:
    return f"request-{number}"


def _ordinary_tokens(model: TextModel) -> IntArray:
    special = [token for token in model.special_tokens if token < model.vocabulary_tokens]
    tokens = np.delete(np.arange(model.vocabulary_tokens, dtype=np.int64), special)
    if len(tokens) == 0:
        raise InputError(
            f"{model.name}: expected tokens to make prompts of, got {model.vocabulary_tokens} "
            "special ones"
        )
    return tokens


def _trace_prompt(
    trace: TraceWorkload, number: int, prompt_tokens: int, tokens: IntArray, seed: int
) -> tuple[int, ...]:
    shared = list(_shared(trace, number, tokens, seed))[:prompt_tokens]
    return (*shared, *_own(tokens, prompt_tokens - len(shared), number, seed))


def _shared(trace: TraceWorkload, number: int, tokens: IntArray, seed: int) -> Iterator[int]:
    """Yield the tokens of a request's prefix blocks; what a block holds follows from its name."""
    if trace.prefix_blocks is None or trace.block_tokens is None:
        return
    for block in trace.prefix_blocks[number]:
        name = [SHARED, int(block < 0), abs(block)]
        yield from _drawn(tokens, trace.block_tokens, [seed, *name])


def _own(tokens: IntArray, count: int, number: int, seed: int) -> tuple[int, ...]:
    return _drawn(tokens, count, [seed, OWN, number])


def _drawn(tokens: IntArray, count: int, seeds: list[int]) -> tuple[int, ...]:
    rng = np.random.default_rng(seeds)
    return tuple(tokens[rng.integers(len(tokens), size=count)].tolist())
