"""Conversations: requests that continue others, and the prompt blocks that they share."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.records import Codec, Natural
from llmpq_sim.core.trace import FloatArray, IntArray
from llmpq_sim.workloads.arrivals import LognormalDelay
from llmpq_sim.workloads.lengths import Law, RequestLengths
from llmpq_sim.workloads.randomness import Streams

MOST_GOING_ON = 0.95
"""At this share, conversations go on for 19 more turns on average."""

WARM_UP_S = 3600.0
"""Conversations begin this long before the first request that is kept, so that from there on as
many requests continue one as ever. The longest gap between turns is about half as long."""


@dataclass(frozen=True)
class Turns:
    """Requests of conversations, in the order of their arrival.

    Attributes:
        operational: requests expected before each: instants of a process of rate 1.
        prompt_tokens, output_tokens: lengths.
        session: number of the conversation.
    """

    operational: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    session: IntArray


def _shares(fields: Fields, key: str) -> tuple[float, ...]:
    shares = fields.numbers(key)
    if not shares or not all(0 <= share <= MOST_GOING_ON for share in shares):
        raise InputError(f"{fields.where}.{key}: expected shares from 0 to {MOST_GOING_ON}")
    return shares


@dataclass(frozen=True)
class Conversations:
    """Conversations whose prompts repeat all that was said before, and add to it.

    Attributes:
        block_tokens: tokens of a block whose contents are compared.
        shared_blocks: blocks that all prompts begin with, the system prompt.
        another_turn: share of conversations that go on after turn 1, 2, ...; the last holds on.
        gap: from a turn to the next.
        growth: tokens a prompt adds to the last prompt and its output.
        most_prompt_tokens: a conversation ends before a longer prompt.
    """

    block_tokens: int
    shared_blocks: Natural
    another_turn: Annotated[tuple[float, ...], Codec(_shares)]
    gap: LognormalDelay
    growth: Law
    most_prompt_tokens: int

    def draw(
        self, requests: int, rate_per_s: float, lengths: RequestLengths, rng: np.random.Generator
    ) -> Turns:
        """Return so many requests of conversations that begin independently of each other.

        Args:
            requests: how many.
            rate_per_s: their rate, to which the gaps relate.
            lengths: of first prompts, and of outputs.
            rng: draws.
        """
        begun = round(1.2 * (WARM_UP_S * rate_per_s + requests) / self.mean_turns()) + 100
        streams = Streams(rng)
        while True:
            turns, complete_s = self._begun(begun, rate_per_s, lengths, streams)
            kept = np.flatnonzero(turns.operational >= WARM_UP_S)[:requests]
            if len(kept) == requests and turns.operational[kept[-1]] <= complete_s:
                break
            begun *= 2
        operational = turns.operational[kept] - turns.operational[kept[0]]
        if requests > 1:
            operational *= requests / operational[-1]
        return Turns(
            operational, turns.prompt_tokens[kept], turns.output_tokens[kept], turns.session[kept]
        )

    def _begun(
        self, conversations: int, rate_per_s: float, lengths: RequestLengths, streams: Streams
    ) -> tuple[Turns, float]:
        """Return all turns of so many conversations, in seconds, and until when none is missing."""
        rng = streams.named("turns")
        starts = streams.named("starts").exponential(self.mean_turns() / rate_per_s, conversations)
        instant_s = np.cumsum(starts)
        complete_s = float(instant_s[-1])
        session = np.arange(conversations)
        prompt_tokens, output_tokens = lengths.draw(conversations, streams.named("first"))
        rounds = []
        for turn in range(conversations + 1):
            rounds.append((instant_s, prompt_tokens, output_tokens, session))
            another = self.another_turn[min(turn, len(self.another_turn) - 1)]
            longer = prompt_tokens + output_tokens + self.growth.draw(len(session), rng)
            goes_on = (rng.random(len(session)) < another) & (longer <= self.most_prompt_tokens)
            if not goes_on.any():
                break
            session, prompt_tokens = session[goes_on], longer[goes_on]
            instant_s = instant_s[goes_on] + self.gap.draw(len(session), rng)
            output_tokens = lengths.draw_outputs(prompt_tokens, rng)
        columns = [np.concatenate(column) for column in zip(*rounds, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        return Turns(*(column[order] for column in columns)), complete_s

    def mean_turns(self) -> float:
        """Return how many turns a conversation has on average."""
        mean, reaches = 1.0, 1.0
        for another in self.another_turn[:-1]:
            reaches *= another
            mean += reaches
        last = self.another_turn[-1]
        return mean + reaches * last / (1 - last)

    def blocks(self, turns: Turns) -> tuple[tuple[int, ...], ...]:
        """Return the identities of each prompt's blocks.

        A prompt shares the full blocks of the one before it in its conversation; a last block that
        is not full is its own.
        """
        shared, fresh = tuple(range(self.shared_blocks)), self.shared_blocks
        before: dict[int, tuple[int, ...]] = {}
        rows = []
        for session, tokens in zip(
            turns.session.tolist(), turns.prompt_tokens.tolist(), strict=True
        ):
            count = -(-tokens // self.block_tokens)
            begin = before.get(session, shared)[:count]
            own = count - len(begin)
            row = begin + tuple(range(fresh, fresh + own))
            fresh += own
            before[session] = max(row[: tokens // self.block_tokens], shared, key=len)
            rows.append(row)
        return tuple(rows)
