"""Batches formed of cohorts: many sequences at a time.

What is ready to decode goes first, all of it, as one cohort; then prompts in order of admission,
then of arrival (or, where prompts are not cut, prompts before decodes). Only where blocks are
short does each decoding sequence count by itself.
"""

from array import array
from bisect import insort
from collections import deque
from math import nan

from llmpq_sim.simulator.continuous.cohort import Cohort, Work
from llmpq_sim.simulator.continuous.gaps import Gaps
from llmpq_sim.simulator.continuous.kv_blocks import BlockPool
from llmpq_sim.simulator.continuous.sequence import Sequence
from llmpq_sim.simulator.continuous.settings import ContinuousSettings


class Batcher:
    """Forms batches and takes them back.

    Attributes:
        waiting: sequences to be admitted, in order.
        prefilling: admitted ones whose prompt is computed in part, in order of admission.
        ready: cohorts that have returned and decode on.
        stalled: sequences that would decode but await a block.
        running: every admitted sequence, in order of admission.
        promised_blocks: of the whole prompts and outputs of those running, where nobody is evicted.
        preemptions: how often a sequence lost its blocks.
        reused_tokens: prompt tokens not computed because their blocks were there.
        first_s, last_s: when each request's first and last tokens were sampled.
    """

    def __init__(
        self, settings: ContinuousSettings, pool: BlockPool, gaps: Gaps, requests: int
    ) -> None:
        self.settings = settings
        self.pool = pool
        self.gaps = gaps
        self.waiting: deque[Sequence] = deque()
        self.prefilling: list[Sequence] = []
        self.ready: list[Cohort] = []
        self.stalled: list[Sequence] = []
        self.running: dict[int, Sequence] = {}
        self.preemptions = self.reused_tokens = self.promised_blocks = self._admissions = 0
        self._is_promised = settings.admission == "no-evict"
        self._most_chunk_tokens = settings.most_chunk_tokens
        self.first_s = array("d", [nan]) * requests
        self.last_s = array("d", [nan]) * requests

    def form(self) -> Cohort | None:
        """Return the next batch, or None where nothing can be scheduled."""
        if self.settings.chunked_prefill:
            return self._form_mixed()
        work = self._admit(self.settings.token_budget) if self.waiting else []
        return self._with_work(None, work) if work else self._decodes()

    def can_only_decode(self, most_rows: int) -> bool:
        """Return whether nothing but decodes of cohorts under way can be scheduled.

        It then stays so until a request arrives, one is finished, or blocks are short: blocks in
        use only become more.

        Args:
            most_rows: decodes of the largest cohort under way.
        """
        if self.prefilling or self.ready or self.stalled:
            return False
        if not self.waiting or len(self.running) >= self.settings.sequence_limit:
            return True
        return self._first_chunk(self.settings.token_budget - most_rows) is None

    def take_back(self, batch: Cohort) -> None:
        """Count the tokens of a batch that has returned, and let its sequences go on."""
        sampled_s = batch.sampled_s
        while batch.last_round == batch.round:
            self._finish(batch.pop_finished(), sampled_s)
        for work in batch.work:
            self._take_back_prompt(work, batch)
        batch.work = []
        if batch.rows:
            self.ready.append(batch)

    def _form_mixed(self) -> Cohort | None:
        preemptions = self.preemptions
        batch = self._decodes()
        if not self.prefilling and not self.waiting:
            return batch
        budget = self.settings.token_budget - (batch.rows if batch else 0)
        work = self._continue_prompts(budget) if self.prefilling else []
        if self.waiting and self.preemptions == preemptions:
            work += self._admit(budget - sum(chunk for _, _, chunk in work))
        return self._with_work(batch, work) if work else batch

    def _with_work(self, batch: Cohort | None, work: list[Work]) -> Cohort:
        batch = batch or Cohort(self.settings.block_tokens)
        batch.work = work
        return batch

    def _decodes(self) -> Cohort | None:
        """Return all that is ready as one batch, each sequence with the block it needs."""
        if self.stalled:
            return self._decodes_one_by_one()
        if not self.ready:
            return None
        slots = self.settings.block_tokens
        needed = 0
        for cohort in self.ready:
            needed += cohort.needs[(cohort.round + 1) % slots]
        if needed > self.pool.available:
            return self._decodes_one_by_one()
        self.pool.take(needed)
        batch = self._merge_ready()
        batch.begin_round()
        return batch

    def _merge_ready(self) -> Cohort:
        cohorts, self.ready = self.ready, []
        batch = cohorts[0] if len(cohorts) == 1 else max(cohorts, key=lambda one: one.rows)
        batch.groups = [(cohort.sampled_s, cohort.rows) for cohort in cohorts]
        for cohort in cohorts:
            if cohort is not batch:
                batch.absorb(cohort)
        return batch

    def _decodes_one_by_one(self) -> Cohort | None:
        """Return those ready that can have the block they need, the first admitted first."""
        members = [*self.stalled, *(one for cohort in self.ready for one in cohort.leave())]
        members.sort(key=lambda sequence: sequence.admission)
        self.ready, self.stalled = [], []
        batch = Cohort(self.settings.block_tokens)
        for sequence in members:
            if sequence.admission < 0:
                continue
            if sequence.computed_tokens % self.settings.block_tokens or self._obtain(1, sequence):
                sequence.in_flight = True
                batch.join(sequence)
                batch.groups.append((sequence.token_s, 1))
        self.stalled = [one for one in members if one.admission >= 0 and not one.in_flight]
        batch.begin_round()
        return batch if batch.rows else None

    def _continue_prompts(self, budget: int) -> list[Work]:
        work: list[Work] = []
        for sequence in list(self.prefilling):
            if sequence.admission < 0:
                continue
            computed = sequence.computed_tokens
            chunk = min(sequence.known_tokens - computed, budget, self._most_chunk_tokens)
            blocks = self._blocks(sequence, computed + chunk) - sequence.blocks
            if chunk and self._obtain(blocks, sequence):
                self.prefilling.remove(sequence)
                work.append(self._scheduled(sequence, chunk))
                budget -= chunk
        return work

    def _admit(self, budget: int) -> list[Work]:
        """Admit waiting sequences in order until one finds no room."""
        work: list[Work] = []
        while self.waiting and budget and len(self.running) < self.settings.sequence_limit:
            found = self._first_chunk(budget)
            if found is None:
                break
            shared, blocks, chunk = found
            sequence = self.waiting.popleft()
            self._start(sequence, shared, blocks)
            work.append(self._scheduled(sequence, chunk))
            budget -= chunk
        return work

    def _first_chunk(self, budget: int) -> tuple[int, int, int] | None:
        """Return what the first waiting sequence would get, or None if it finds no room.

        That is the prefix blocks it shares, the blocks it takes, and the tokens of its chunk.
        """
        sequence, pool = self.waiting[0], self.pool
        shared = pool.longest_cached_prefix(sequence) if sequence.names else 0
        reused = shared * pool.prefix_tokens
        chunk = sequence.known_tokens - reused
        most = self._most_chunk_tokens if budget > self._most_chunk_tokens else budget
        if chunk > most:
            if not self.settings.chunked_prefill:
                return None
            chunk = most
        blocks = self._blocks(sequence, reused + chunk) - shared * pool.prefix_kv_blocks
        needed = blocks
        if self._is_promised:
            whole = self._blocks(sequence, sequence.context_tokens)
            whole -= shared * pool.prefix_kv_blocks
            needed = whole + self.promised_blocks - pool.held
        if needed > (pool.available_beside(sequence, shared) if shared else pool.available):
            return None
        return shared, blocks, chunk

    def _blocks(self, sequence: Sequence, tokens: int) -> int:
        """Return the blocks of so many tokens of a sequence, and of its windows and states."""
        return self.settings.blocks(tokens) + sequence.bounded_blocks

    def _start(self, sequence: Sequence, shared: int, blocks: int) -> None:
        self.pool.share(sequence, shared)
        self.pool.take(blocks)
        sequence.blocks += blocks
        sequence.computed_tokens = shared * self.pool.prefix_tokens
        self.reused_tokens += sequence.computed_tokens
        if self._is_promised:
            self.promised_blocks += self._blocks(sequence, sequence.context_tokens)
        sequence.admission = self._admissions
        self.running[self._admissions] = sequence
        self._admissions += 1

    def _scheduled(self, sequence: Sequence, chunk: int) -> Work:
        prefix = sequence.computed_tokens
        sequence.computed_tokens += chunk
        sequence.in_flight = True
        if sequence.names:
            self.pool.publish(sequence, prefix)
        return sequence, prefix, chunk

    def _obtain(self, blocks: int, sequence: Sequence) -> bool:
        """Take blocks for a running sequence, from those admitted after it where none are free.

        The most recently admitted goes first, but none under way. Where none can go, the
        sequence waits for one to return; if it is itself the last one admitted, it gives way.
        """
        while self.pool.available < blocks:
            victim = self._idle_after(sequence)
            if victim is None:
                if next(reversed(self.running)) == sequence.admission:
                    self._preempt(sequence)
                return False
            self._preempt(victim)
        self.pool.take(blocks)
        sequence.blocks += blocks
        return True

    def _idle_after(self, sequence: Sequence) -> Sequence | None:
        for other in reversed(self.running.values()):
            if other is sequence:
                return None
            if not other.in_flight:
                return other
        return None

    def _preempt(self, sequence: Sequence) -> None:
        for idle in (self.prefilling, self.stalled):
            if sequence in idle:
                idle.remove(sequence)
        del self.running[sequence.admission]
        if self.settings.prefix_caching:
            self.pool.name_own(sequence, sequence.request)
        sequence.admission = -1
        sequence.computed_tokens = 0
        self.pool.release(sequence)
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def _take_back_prompt(self, work: Work, batch: Cohort) -> None:
        sequence, sampled_s = work[0], batch.sampled_s
        if sequence.computed_tokens < sequence.known_tokens:
            sequence.in_flight = False
            insort(self.prefilling, sequence, key=lambda one: one.admission)
            return
        if sequence.token_s < 0:
            self.first_s[sequence.request] = sampled_s
        else:
            self.gaps.values_s.append(sampled_s - sequence.token_s)
            self.gaps.counts.append(1)
        sequence.token_s = sampled_s
        sequence.known_tokens += 1
        sequence.remaining -= 1
        if sequence.remaining:
            batch.join(sequence)
        else:
            self._finish(sequence, sampled_s)

    def _finish(self, sequence: Sequence, sampled_s: float) -> None:
        self.last_s[sequence.request] = sampled_s
        self.pool.release(sequence)
        if self._is_promised:
            self.promised_blocks -= self._blocks(sequence, sequence.context_tokens)
        del self.running[sequence.admission]
