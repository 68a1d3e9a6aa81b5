"""Batch schedule: steps of prefill, and rows of each decode group."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import NamedTuple

from llmpq_sim.core.plan import MicroBatching, equal_parts
from llmpq_sim.core.scenario import BatchWorkload


class PrefillStep(NamedTuple):
    """A chunk of the prompts of one prefill micro-batch.

    Attributes:
        rows: prompts.
        before_tokens: of each prompt that chunks before it have computed.
        tokens: of each prompt that this one computes.
        is_last: whether the prompts end with it: only then tokens are sampled.
    """

    rows: int
    before_tokens: int
    tokens: int
    is_last: bool

    @property
    def step_tokens(self) -> int:
        """Tokens of all rows."""
        return self.rows * self.tokens


@dataclass(frozen=True)
class BatchSchedule:
    """The micro-batches of one wave.

    Attributes:
        prefill_steps: chunks of each prefill micro-batch, one micro-batch after another; a prompt
            that is not cut is one chunk.
        group_rows: rows of each decode group, in order.
        decode_rows: for each group, in order, the rows still generating in rounds 1, 2, ...;
            a group that is done after its first token has no round.
    """

    prefill_steps: tuple[PrefillStep, ...]
    group_rows: tuple[int, ...]
    decode_rows: tuple[tuple[int, ...], ...]

    @cached_property
    def prefill_rows(self) -> tuple[int, ...]:
        """Rows of each prefill step, in order."""
        return tuple(step.rows for step in self.prefill_steps)

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
        starts = len(self.prefill_steps)
        return {place: starts + number for number, place in enumerate(self.decode_order)}

    @property
    def steps(self) -> int:
        """Steps that pass each stage: chunks of prefill, and decode micro-batches."""
        return len(self.prefill_steps) + len(self.decode_order)

    def releases(self) -> list[list[int]]:
        """Return, per prefill step, the groups whose last prompt ends with it."""
        released: list[list[int]] = [[] for _ in self.prefill_steps]
        prefilled = list(accumulate(step.rows * step.is_last for step in self.prefill_steps))
        for group, last_row in enumerate(accumulate(self.group_rows)):
            released[bisect_left(prefilled, last_row)].append(group)
        return released


def batch_schedules(workload: BatchWorkload, micro_batching: MicroBatching) -> list[BatchSchedule]:
    """Return the schedule of each wave of a batch, in the order they run."""
    schedules, start = [], 0
    for groups in micro_batching.waves(workload.requests):
        wanted = workload.output_tokens[start : start + sum(groups)]
        steps = prefill_steps(sum(groups), micro_batching, workload.prompt_tokens)
        schedules.append(_schedule(wanted, groups, steps))
        start += sum(groups)
    return schedules


def counted_batch_schedules(
    workload: BatchWorkload, micro_batching: MicroBatching
) -> list[tuple[BatchSchedule, int]]:
    """Return each different schedule of a wave with how often it runs."""
    return list(Counter(batch_schedules(workload, micro_batching)).items())


@lru_cache(maxsize=512)
def prefill_steps(
    wave_rows: int, micro_batching: MicroBatching, prompt_tokens: int
) -> tuple[PrefillStep, ...]:
    """Return the prefill steps of a wave of so many rows, in order."""
    chunks = micro_batching.chunks(prompt_tokens)
    ends = list(accumulate(chunks))
    return tuple(
        PrefillStep(rows, end - tokens, tokens, end == prompt_tokens)
        for rows in equal_parts(wave_rows, micro_batching.prefill)
        for tokens, end in zip(chunks, ends, strict=True)
    )


@lru_cache(maxsize=512)
def _schedule(
    output_tokens: tuple[int, ...], groups: tuple[int, ...], steps: tuple[PrefillStep, ...]
) -> BatchSchedule:
    """Return the schedule of a wave; a search asks for the same ones in every generation."""
    ends = list(accumulate(groups))
    return BatchSchedule(
        prefill_steps=steps,
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
