"""Cohort of sequences that decode together, and their needs in each round.

Sequences that decode in one batch return together and decode on together. Their rounds, contexts
and needs of blocks are kept as sums, so that a round costs the same for one sequence as for all.
"""

from heapq import heapify, heappop, heappush

from llmpq_sim.simulator.continuous.sequence import Sequence

Work = tuple[Sequence, int, int]
"""A prompt chunk: sequence, tokens before it, tokens of it."""


class Cohort:
    """A batch under way, or one that has returned and whose sequences decode on together.

    Attributes:
        rows: sequences that decode.
        round: rounds it has begun; sequences that join later count from there.
        context_sum: tokens that its sequences attended to in this round.
        needs: sequences that need a block in rounds of each remainder by the block's tokens.
        members: (last round, admission, sequence), a heap.
        sampled_s, return_s: when this round's tokens are sampled and back at stage 0.
        groups: (instant of the last token, sequences) of those that decode in a new round.
        work: prompt chunks of this round.
    """

    __slots__ = (
        "context_sum",
        "groups",
        "last_round",
        "members",
        "needs",
        "return_s",
        "round",
        "rows",
        "sampled_s",
        "work",
    )

    def __init__(self, block_tokens: int) -> None:
        self.rows = self.round = self.context_sum = 0
        self.last_round = -1  # of the member to finish first
        self.needs = [0] * block_tokens
        self.members: list[tuple[int, int, Sequence]] = []
        self.sampled_s = self.return_s = 0.0
        self.groups: list[tuple[float, int]] = []
        self.work: list[Work] = []

    def join(self, sequence: Sequence) -> None:
        """Let a sequence decode from the next round on."""
        computed = sequence.computed_tokens
        sequence.base = computed - self.round
        heappush(self.members, (self.round + sequence.remaining, sequence.admission, sequence))
        self.last_round = self.members[0][0]
        self.needs[(1 - sequence.base) % len(self.needs)] += 1
        self.rows += 1
        self.context_sum += computed

    def pop_finished(self) -> Sequence:
        """Take out the sequence that this round was the last one of."""
        sequence = heappop(self.members)[2]
        sequence.computed_tokens = sequence.base + self.round
        tokens_blocks = -(-sequence.computed_tokens // len(self.needs))
        sequence.blocks = tokens_blocks + sequence.bounded_blocks
        self.last_round = self.members[0][0] if self.members else -1
        self.needs[(1 - sequence.base) % len(self.needs)] -= 1
        self.rows -= 1
        self.context_sum -= sequence.computed_tokens
        return sequence

    def leave(self) -> list[Sequence]:
        """Return the sequences, each with what the cohort kept of it, in no flight."""
        slots = len(self.needs)
        for last_round, _, sequence in self.members:
            sequence.computed_tokens = sequence.base + self.round
            sequence.known_tokens = sequence.computed_tokens + 1
            tokens_blocks = -(-sequence.computed_tokens // slots)
            sequence.blocks = tokens_blocks + sequence.bounded_blocks
            sequence.remaining = last_round - self.round
            sequence.token_s = self.sampled_s
            sequence.in_flight = False
        return [sequence for _, _, sequence in self.members]

    def begin_round(self) -> None:
        """Let every sequence decode a token."""
        self.round += 1
        self.context_sum += self.rows

    def absorb(self, other: "Cohort") -> None:
        """Take over the sequences of a smaller cohort."""
        shift, slots = self.round - other.round, len(self.needs)
        for last_round, admission, sequence in other.members:
            sequence.base -= shift
            self.needs[(1 - sequence.base) % slots] += 1
            self.members.append((last_round + shift, admission, sequence))
        heapify(self.members)
        self.last_round = self.members[0][0]
        self.rows += other.rows
        self.context_sum += other.context_sum
