"""Step graphs of a batch: prefill micro-batches, then decode groups in rounds."""

from collections.abc import Callable, Sequence

from llmpq_sim.simulator.static.step_graph import StepGraph

Durations = Callable[[int, int], float]
"""Seconds by stage or hop, then step."""


def ring_graph(
    *,
    stages: int,
    rows: int,
    prefill: int,
    decode: int,
    rounds: Sequence[int],
    service_s: Durations,
    transfer_s: Durations = lambda hop, step: 0.0,
) -> StepGraph:
    """Return the step graph of a batch of rows: ``rounds`` holds the decode rounds of each group.

    Visits are numbered prefill first, then by round and group.
    """
    starts, successors = ring_successors(rows, prefill, decode, rounds)
    steps = range(len(successors))
    return StepGraph(
        service_s=tuple(tuple(service_s(stage, n) for n in steps) for stage in range(stages)),
        transfer_s=tuple(tuple(transfer_s(hop, n) for n in steps) for hop in range(stages)),
        successors=successors,
        starts=starts,
    )


def ring_successors(
    rows: int, prefill: int, decode: int, rounds: Sequence[int]
) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """Return how many steps start, and which steps each step lets in."""
    starts = -(-rows // prefill)
    turns = [
        (turn, group)
        for turn in range(max(rounds))
        for group in range(len(rounds))
        if turn < rounds[group]
    ]
    number_of = {turn: starts + number for number, turn in enumerate(turns)}
    successors: list[list[int]] = [[] for _ in range(starts + len(turns))]
    for (turn, group), step in number_of.items():
        last_row = min((group + 1) * decode, rows) - 1
        before = number_of[turn - 1, group] if turn else last_row // prefill
        successors[before].append(step)
    return starts, tuple(tuple(followers) for followers in successors)
