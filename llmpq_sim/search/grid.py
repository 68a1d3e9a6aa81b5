"""Grid of micro-batchings: finite, so that a bound can cover it."""

from math import ceil

from llmpq_sim.core.plan import MicroBatching

MOST_SIZES = 16
"""Micro-batch sizes considered per phase, at most."""


def micro_batch_sizes(requests: int, devices: int) -> list[int]:
    """Return micro-batch sizes: equal parts for up to two rounds of devices, and powers of 2.

    Of too many, the largest are kept.
    """
    parts = {ceil(requests / part) for part in range(1, 2 * devices + 1)}
    powers = {2**power for power in range(requests.bit_length()) if 2**power <= requests}
    return sorted(parts | powers)[-MOST_SIZES:]


def micro_batching_grid(requests: int, devices: int) -> list[MicroBatching]:
    """Return every micro-batching of the grid.

    Groups in flight are all, or a half, a quarter, ... of them, which needs less KV cache at a
    time; a prefill micro-batch larger than a wave would be cut, so it is left out. Those of the
    paper, which the baselines have, are always there: the bound covers every plan considered.
    """
    sizes = micro_batch_sizes(requests, devices)
    grid = []
    for decode in sizes:
        for groups in _halves(ceil(requests / decode)):
            rows = MicroBatching(1, decode, groups).wave_rows(requests)
            grid += [MicroBatching(size, decode, groups) for size in sizes if size <= rows]
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
