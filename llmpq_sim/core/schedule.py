"""Batch schedule: rows of each prefill micro-batch and decode group."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

from llmpq_sim.core.plan import MicroBatching, equal_parts
from llmpq_sim.core.scenario import BatchWorkload


@dataclass(frozen=True)
class BatchSchedule:
    """The micro-batches of one wave.

    Attributes:
        prefill_rows: rows of each prefill micro-batch, in order.
        group_rows: rows of each decode group, in order.
        decode_rows: for each group, in order, the rows still generating in rounds 1, 2, ...;
            a group that is done after its first token has no round.
    """

    prefill_rows: tuple[int, ...]
    group_rows: tuple[int, ...]
    decode_rows: tuple[tuple[int, ...], ...]

    @property
    def rounds(self) -> int:
        """Decode rounds of the group that generates longest."""
        return max(len(rows) for rows in self.decode_rows)

    @cached_property
    def decode_order(self) -> tuple[tuple[int, int], ...]:
        """Group and turn (round less one) of each decode step: by round, then by group."""
        return tuple(
            (group, turn)
            for turn in range(self.rounds)
            for group, rows in enumerate(self.decode_rows)
            if turn < len(rows)
        )

    @cached_property
    def step_of(self) -> dict[tuple[int, int], int]:
        """Number of the step of a group and turn; prefill steps are numbered first."""
        starts = len(self.prefill_rows)
        return {place: starts + number for number, place in enumerate(self.decode_order)}

    @property
    def steps(self) -> int:
        """Micro-batches that pass each stage."""
        return len(self.prefill_rows) + len(self.decode_order)

    def releases(self) -> list[list[int]]:
        """Return, per prefill micro-batch, the groups whose last prompt it holds."""
        released: list[list[int]] = [[] for _ in self.prefill_rows]
        prefilled = list(accumulate(self.prefill_rows))
        for group, last_row in enumerate(accumulate(self.group_rows)):
            released[bisect_left(prefilled, last_row)].append(group)
        return released


def batch_schedules(workload: BatchWorkload, micro_batching: MicroBatching) -> list[BatchSchedule]:
    """Return the schedule of each wave of a batch, in the order they run."""
    schedules, start = [], 0
    for groups in micro_batching.waves(workload.requests):
        wanted = workload.output_tokens[start : start + sum(groups)]
        schedules.append(_schedule(wanted, groups, micro_batching.prefill))
        start += sum(groups)
    return schedules


def counted_batch_schedules(
    workload: BatchWorkload, micro_batching: MicroBatching
) -> list[tuple[BatchSchedule, int]]:
    """Return each different schedule of a wave with how often it runs."""
    return list(Counter(batch_schedules(workload, micro_batching)).items())


@lru_cache(maxsize=512)
def _schedule(
    output_tokens: tuple[int, ...], groups: tuple[int, ...], prefill: int
) -> BatchSchedule:
    """Return the schedule of a wave; a search asks for the same ones in every generation."""
    ends = list(accumulate(groups))
    return BatchSchedule(
        prefill_rows=equal_parts(len(output_tokens), prefill),
        group_rows=groups,
        decode_rows=tuple(
            _rows_by_round(output_tokens[end - rows : end])
            for end, rows in zip(ends, groups, strict=True)
        ),
    )


def _rows_by_round(output_tokens: tuple[int, ...]) -> tuple[int, ...]:
    """Rows that still generate: in round t those that want more than t tokens."""
    if min(output_tokens) == max(output_tokens):
        return (len(output_tokens),) * (output_tokens[0] - 1)
    counts = Counter(output_tokens)
    generating, rounds = len(output_tokens), []
    for tokens in range(1, max(output_tokens)):
        generating -= counts[tokens]
        rounds.append(generating)
    return tuple(rounds)
