"""Capacity of a plan: KV tokens that fit, sequences of a length, and the longest contexts.

Two rules say what fits, and both are those by which plans are judged. A *batch* keeps each row's
KV cache at its longest beside the temporaries of its micro-batches, as `memory.plan_memory` counts
them; longer prompts have larger temporaries. A *service* hands out blocks of what its stages leave
beside the largest batch; a request is served where its context fits all blocks.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Protocol

from llmpq_sim.core.caches import KvRoom, bounded_blocks_of, stage_caches
from llmpq_sim.core.memory import StageMemory, plan_memory
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.scenario import BatchWorkload, Scenario

LEAST_CONTEXT_TOKENS = 2
"""A prompt and an output of one token each: no request is shorter."""

COUNTS_SHOWN = tuple(2**power for power in range(9))
"""Sequences whose longest common context is told unless another number is asked for."""


@dataclass(frozen=True)
class StageRoom:
    """What a stage leaves for the KV cache of its layers.

    Attributes:
        device: of the stage.
        kv_bytes: beside all else it holds; none where not even that fits.
        kv_tokens: whole tokens of all its layers in these bytes, in whole blocks of a service.
    """

    device: str
    kv_bytes: int
    kv_tokens: int


class Room(Protocol):
    """What a plan has room for, by the rule of a batch or of a service."""

    @property
    def stages(self) -> tuple[StageRoom, ...]:
        """The room of each stage, in order."""

    def sequences(self, context_tokens: int) -> int:
        """Return the most sequences of so many tokens, prompt and output, that fit at once."""

    def longest_context_tokens(self, sequences: int) -> int:
        """Return the longest context of which so many fit at once; 0 where none does."""


@dataclass(frozen=True)
class BlockRoom:
    """The room of a service, whose requests hold blocks on every stage.

    Attributes:
        stages: the room of each, in whole blocks.
        block_tokens: tokens of one block.
        longest_tokens: the longest context that the scheduler admits.
        room: the blocks of the stages, and those of a sequence.
    """

    stages: tuple[StageRoom, ...]
    block_tokens: int
    longest_tokens: int
    room: KvRoom

    def sequences(self, context_tokens: int) -> int:
        """Return the most sequences of so many tokens, prompt and output, that fit at once."""
        if context_tokens > self.longest_tokens:
            return 0
        return self.room.capacity // self._blocks(ceil(context_tokens / self.block_tokens))

    def longest_context_tokens(self, sequences: int) -> int:
        """Return the longest context of which so many fit at once; 0 where none does."""
        own = self.room.capacity // sequences
        most = ceil(self.longest_tokens / self.block_tokens)
        blocks = _most(lambda blocks: self._blocks(blocks) <= own, 1, most)
        tokens = min(blocks * self.block_tokens, self.longest_tokens)
        return tokens if tokens >= LEAST_CONTEXT_TOKENS else 0

    def _blocks(self, context_blocks: int) -> int:
        """Return the blocks of a sequence whose tokens take so many."""
        return context_blocks + bounded_blocks_of(self.room.bounded_blocks, context_blocks)


@dataclass(frozen=True)
class BatchRoom:
    """The room of a plan for a batch, all groups of which are in flight.

    Contexts of other lengths have the outputs of the scenario's batch and other prompts.
    """

    plan: Plan
    scenario: Scenario

    @property
    def stages(self) -> tuple[StageRoom, ...]:
        """The room of each stage beside the temporaries of the batch that was planned for."""
        memory = plan_memory(self.plan, self.scenario)
        caches = stage_caches(self.plan, self.scenario.model)
        return tuple(
            StageRoom(
                stage.device, max(_room_bytes(need), 0), cached.room_tokens(_room_bytes(need))
            )
            for stage, need, cached in zip(self.plan.stages, memory, caches, strict=True)
        )

    def sequences(self, context_tokens: int) -> int:
        """Return the most sequences of so many tokens, prompt and output, that fit at once.

        From as many on as the larger micro-batch has rows, temporaries stay as they are.
        """
        model, batching = self.scenario.model, self.plan.micro_batching
        if context_tokens > model.max_positions:
            return 0
        rows = max(batching.prefill, batching.decode)
        if not self._fits(rows, context_tokens):
            return _most(lambda count: self._fits(count, context_tokens), 1, rows)
        memory = self._memory(rows, context_tokens)
        return min(
            _room_bytes(need) // max(cached.sequence_bytes(context_tokens), 1)
            for need, cached in zip(memory, stage_caches(self.plan, model), strict=True)
        )

    def longest_context_tokens(self, sequences: int) -> int:
        """Return the longest context of which so many fit at once; 0 where none does.

        Where a prompt takes one more chunk all its chunks are smaller: what is needed grows among
        prompts of as many chunks, and from the shortest of these to that of one chunk more.
        """
        most, output = (
            self.scenario.model.max_positions,
            self.scenario.workload.longest_output_tokens,
        )
        chunk = self.plan.micro_batching.chunk_tokens or most
        shortest = (LEAST_CONTEXT_TOKENS, *range(output + chunk + 1, most + 1, chunk))
        chunks = _most(lambda count: self._fits(sequences, shortest[count - 1]), 1, len(shortest))
        if not chunks:
            return 0
        longest = (*shortest[1:], most + 1)[chunks - 1] - 1
        return _most(lambda tokens: self._fits(sequences, tokens), shortest[chunks - 1], longest)

    def _fits(self, sequences: int, context_tokens: int) -> bool:
        return all(need.fits for need in self._memory(sequences, context_tokens))

    def _memory(self, sequences: int, context_tokens: int) -> list[StageMemory]:
        cuts = self.plan.micro_batching.within(sequences)
        cuts = replace(cuts, groups_in_flight=ceil(sequences / cuts.decode))
        output = min(self.scenario.workload.longest_output_tokens, context_tokens - 1)
        workload = BatchWorkload(context_tokens - output, (output,) * sequences)
        scenario = replace(self.scenario, workload=workload)
        return plan_memory(replace(self.plan, micro_batching=cuts), scenario)


def _room_bytes(need: StageMemory) -> int:
    return need.limit_bytes - (need.total_bytes - need.kv_bytes)


def _most(fits: Callable[[int], bool], least: int, most: int) -> int:
    """Return the largest number that fits, where none fits beyond one that does not; 0 if none."""
    short = bisect_left(range(least, most + 1), x=True, key=lambda number: not fits(number))
    return least + short - 1 if short else 0


@dataclass(frozen=True)
class Capacity:
    """What fits a plan at once, for a workload.

    Attributes:
        stages: the room of each stage.
        context_tokens, sequences: a length, and the most sequences of it that fit; the longest of
            the workload unless asked of another.
        mean_context_tokens, mean_sequences: the same of the workload's mean, rounded up.
        longest_contexts: (sequences, longest context of which so many fit), from one on.
        users: requests that can be in flight without waiting: as many of ``context_tokens`` as
            fit, and no more than the scheduler admits.
    """

    stages: tuple[StageRoom, ...]
    context_tokens: int
    sequences: int
    mean_context_tokens: int
    mean_sequences: int
    longest_contexts: tuple[tuple[int, int], ...]
    users: int

    @property
    def kv_tokens(self) -> int:
        """Tokens of KV cache that fit the tightest stage."""
        return min(stage.kv_tokens for stage in self.stages)

    @property
    def longest_context_tokens(self) -> int:
        """The longest context of a sequence that has all to itself; 0 where none fits."""
        return self.longest_contexts[0][1]


def capacity_of(
    room: Room,
    context_tokens: int,
    mean_context_tokens: int,
    *,
    most_admitted: int | None = None,
    sequences: int | None = None,
) -> Capacity:
    """Return what fits a room.

    Args:
        room: of a batch or of a service.
        context_tokens: the length to count sequences of.
        mean_context_tokens: of the workload, rounded up.
        most_admitted: sequences that a scheduler admits at once; None for no limit of its own.
        sequences: how many are to share the longest context, beside one alone; ``COUNTS_SHOWN``
            unless told, those of which any fits.
    """
    fit = room.sequences(context_tokens)
    counts = (1, sequences) if sequences else COUNTS_SHOWN
    contexts = [(count, room.longest_context_tokens(count)) for count in dict.fromkeys(counts)]
    return Capacity(
        stages=room.stages,
        context_tokens=context_tokens,
        sequences=fit,
        mean_context_tokens=mean_context_tokens,
        mean_sequences=room.sequences(mean_context_tokens),
        longest_contexts=tuple(
            pair for pair in contexts if sequences or pair[0] == 1 or pair[1] > 0
        ),
        users=fit if most_admitted is None else min(fit, most_admitted),
    )


def batch_capacity(
    plan: Plan,
    scenario: Scenario,
    context_tokens: int | None = None,
    sequences: int | None = None,
) -> Capacity:
    """Return what fits a plan for a batch.

    Args:
        plan: stages on devices of the scenario's cluster, and micro-batches.
        scenario: the model, the cluster and the batch.
        context_tokens: the length to count sequences of; the batch's own unless told.
        sequences: see `capacity_of`.
    """
    workload = scenario.workload
    mean = workload.prompt_tokens + ceil(workload.total_output_tokens / workload.requests)
    return capacity_of(
        BatchRoom(plan, scenario),
        context_tokens or workload.context_tokens,
        mean,
        sequences=sequences,
    )
