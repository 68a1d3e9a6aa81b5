"""Grid of micro-batchings: finite, so that a bound can cover it."""

from collections.abc import Sequence
from math import ceil

from llmpq_sim.core.plan import MicroBatching

MOST_SIZES = 16
"""Micro-batch sizes considered per phase, at most."""

LONG_PROMPT_TOKENS = 2048
"""Prompts from so many tokens on may be cut; shorter ones are where memory asks for it."""

CHUNK_TOKENS = (512, 1024, 2048, 4096, 8192)
"""Chunks considered: from what keeps the arithmetic units of a device busy to what needs little
memory. Engines take 512 (llama.cpp's ubatch) to 8192 (vLLM's default on large devices)."""


def micro_batch_sizes(requests: int, devices: int) -> list[int]:
    """Return micro-batch sizes: equal parts for up to two rounds of devices, and powers of 2.

    Of too many, the largest are kept.
    """
    parts = {ceil(requests / part) for part in range(1, 2 * devices + 1)}
    powers = {2**power for power in range(requests.bit_length()) if 2**power <= requests}
    return sorted(parts | powers)[-MOST_SIZES:]


def chunk_sizes(prompt_tokens: int) -> tuple[int, ...]:
    """Return the chunks considered for a prompt of so many tokens that is to be cut."""
    return tuple(tokens for tokens in CHUNK_TOKENS if tokens < prompt_tokens)


def micro_batching_grid(
    requests: int, devices: int, chunks: Sequence[int] = ()
) -> list[MicroBatching]:
    """Return every micro-batching of the grid.

    Groups in flight are all, or a half, a quarter, ... of them, which needs less KV cache at a
    time; a prefill micro-batch larger than a wave would be cut, so it is left out. Those of the
    paper, which the baselines have, are always there: the bound covers every plan considered. A
    prompt is cut only alone: a chunk of several prompts is no better than a longer one of one.
    """
    sizes = micro_batch_sizes(requests, devices)
    grid = []
    for decode in sizes:
        for groups in _halves(ceil(requests / decode)):
            rows = MicroBatching(1, decode, groups).wave_rows(requests)
            grid += [MicroBatching(size, decode, groups) for size in sizes if size <= rows]
            grid += [MicroBatching(1, decode, groups, tokens) for tokens in chunks]
    return list(dict.fromkeys([*grid, *paper_micro_batchings(requests, devices)]))


def paper_micro_batchings(requests: int, devices: int) -> list[MicroBatching]:
    """Return the micro-batchings LLM-PQ tries: decode ``ceil(B / N)``, prefill its divisors.

    Source: LLM-PQ, arXiv:2403.01136, sec. 5, and its reference implementation.
    """
    decode = ceil(requests / devices)
    groups = ceil(requests / decode)
    return [
        MicroBatching(size, decode, groups) for size in range(1, decode + 1) if decode % size == 0
    ]


def _halves(groups: int) -> list[int]:
    halves = [groups]
    while halves[-1] > 1:
        halves.append(ceil(halves[-1] / 2))
    return halves
