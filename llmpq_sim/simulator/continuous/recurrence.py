"""Recurrence that computes what the SimPy model of continuous batching simulates, bit for bit.

Stages and links serve in order of arrival and batches never overtake each other, so a batch's way
through the pipeline is known when it is formed: its instants follow from those of the batch
before it, without events. Between arrivals, last tokens and shortages of blocks the scheduler has
nothing to decide, and rounds are a loop over floats.
"""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from math import inf

import numpy as np

from llmpq_sim.core.caches import bounded_blocks_of
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.result import SimulationResult
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.simulator.continuous.batching import Batcher
from llmpq_sim.simulator.continuous.cohort import Cohort
from llmpq_sim.simulator.continuous.compilation import ServingCosts, compile_pipeline
from llmpq_sim.simulator.continuous.gaps import Gaps
from llmpq_sim.simulator.continuous.kv_blocks import BlockPool, prefix_kv_blocks, prefix_names
from llmpq_sim.simulator.continuous.mixed_costs import Pipeline
from llmpq_sim.simulator.continuous.sequence import Sequence
from llmpq_sim.simulator.continuous.service_times import (
    ServiceTimes,
    can_be_served,
    service_result,
    unknown_arrivals,
)
from llmpq_sim.simulator.continuous.settings import ContinuousSettings, ServiceObjectives
from llmpq_sim.simulator.continuous.transit import Transit

ARRIVALS_AT_ONCE = 4096


def simulate_continuous(
    plan: Plan,
    costs: ServingCosts,
    workload: TraceWorkload,
    settings: ContinuousSettings,
    objectives: ServiceObjectives | None = None,
) -> SimulationResult:
    """Return what happens when the plan serves a trace, as a search asks it of many plans.

    Args:
        plan: stages on devices of the cluster that hold all layers; its micro-batches are not
            used.
        costs: block times of the model on the cluster.
        workload: which requests arrive when.
        settings: limits and choices of the scheduler.
        objectives: what a request must meet to count for the goodput.

    Raises:
        InputError: prefixes are to be cached whose blocks are no multiple of KV blocks.
    """
    pipeline = compile_pipeline(plan, costs, settings)
    times = compute_service(pipeline, workload, settings)
    return service_result(times, workload, pipeline, objectives)


def compute_service(
    pipeline: Pipeline, workload: TraceWorkload, settings: ContinuousSettings
) -> ServiceTimes:
    """Return when each request of a trace is served by a compiled pipeline."""
    return _Service(pipeline, workload, settings).run()


class _Service:
    """The scheduler's loop over instants."""

    def __init__(
        self, pipeline: Pipeline, workload: TraceWorkload, settings: ContinuousSettings
    ) -> None:
        self.settings = settings
        self.gaps = Gaps()
        per_prefix = prefix_kv_blocks(workload, settings)
        self.pool = BlockPool(pipeline.block_capacity, per_prefix, settings.block_tokens)
        self.batcher = Batcher(settings, self.pool, self.gaps, workload.requests)
        self.transit = Transit(pipeline)
        self.output_tokens = workload.output_tokens
        self.in_flight: deque[Cohort] = deque()
        self.most_in_flight = settings.most_in_flight(len(pipeline.stages))
        self.fewest_available = pipeline.block_capacity
        self.arrivals = _arrivals(workload, settings, pipeline)
        self.arrival_s = unknown_arrivals(workload)
        self.is_closed = workload.concurrency is not None
        self.next_s = inf
        if workload.concurrency is None:
            self.next_s, self.next_sequence = next(self.arrivals)
        else:
            self._let_in(workload.concurrency, 0.0)

    def run(self) -> ServiceTimes:
        """Serve all requests."""
        in_flight, batcher, stage_free_s = self.in_flight, self.batcher, self.transit.stage_free_s
        ahead = self.settings.schedules_ahead
        now = 0.0
        while now < inf:
            if self.next_s <= now:
                self._receive(now)
            while in_flight and in_flight[0].return_s <= now:
                self._take_back(in_flight.popleft())
            if len(in_flight) == self.most_in_flight:
                now = in_flight[0].return_s
            elif stage_free_s[0] > now and not ahead:
                now = stage_free_s[0]
            elif (batch := batcher.form()) is not None:
                self._launch(batch, now)
            else:
                now = self._next_instant()
        return self._times()

    def _receive(self, now: float) -> None:
        while self.next_s <= now:
            self.batcher.waiting.append(self.next_sequence)
            self.next_s, self.next_sequence = next(self.arrivals)

    def _take_back(self, batch: Cohort) -> None:
        """Take a batch back; in a closed loop as many enter, when it returned, as it has ended."""
        running = len(self.batcher.running)
        self.batcher.take_back(batch)
        if self.is_closed:
            self._let_in(running - len(self.batcher.running), batch.return_s)

    def _let_in(self, most: int, at_s: float) -> None:
        """Let the next requests into a closed loop, in order, as many as are left of so many."""
        for arrival_s, sequence in islice(self.arrivals, most):
            if arrival_s < inf:
                self.arrival_s[sequence.request] = at_s
                self.batcher.waiting.append(sequence)

    def _next_instant(self) -> float:
        """Return when something returns or arrives next; infinity where nothing is left."""
        if self.in_flight and self.in_flight[0].return_s < self.next_s:
            return self.in_flight[0].return_s
        return self.next_s

    def _launch(self, batch: Cohort, now: float) -> None:
        sampled_s, return_s = self.transit.enter(batch, now)
        gaps = self.gaps
        for token_s, rows in batch.groups:
            gaps.values_s.append(sampled_s - token_s)
            gaps.counts.append(rows)
        batch.groups = []
        if len(gaps.counts) > gaps.fold_pairs:
            gaps.fold()
        batch.sampled_s, batch.return_s = sampled_s, return_s
        self.in_flight.append(batch)
        self.fewest_available = min(self.fewest_available, self.pool.available)
        most_rows = max([cohort.rows for cohort in self.in_flight])
        if self.batcher.can_only_decode(most_rows):
            self._coast()

    def _coast(self) -> None:
        """Go round with the cohorts under way as long as each can only decode on as it is.

        Says the same as forming and launching batch by batch, with less to look at.
        """
        in_flight, pool, gaps, transit = self.in_flight, self.pool, self.gaps, self.transit
        slots, ahead = self.settings.block_tokens, self.settings.schedules_ahead
        free_s, next_s, waiting = transit.stage_free_s, self.next_s, self.batcher.waiting
        while True:
            batch = in_flight[0]
            at_s = batch.return_s
            if free_s[0] > at_s and not ahead:
                at_s = free_s[0]
            if batch.work or batch.last_round == batch.round or next_s <= at_s:
                break
            if len(in_flight) > 1 and in_flight[1].return_s <= at_s:
                break
            rows = batch.rows
            needed = batch.needs[(batch.round + 1) % slots]
            if needed:
                if needed > pool.free and (waiting or needed > pool.available):
                    break  # evicting a prefix could make room for who waits
                pool.take(needed)
            batch.round += 1
            batch.context_sum += rows
            sampled_s, batch.return_s = transit.decode(rows, batch.context_sum, at_s)
            gaps.values_s.append(sampled_s - batch.sampled_s)
            gaps.counts.append(rows)
            batch.sampled_s = sampled_s
            in_flight.rotate(-1)
        self.fewest_available = min(self.fewest_available, pool.available)

    def _served_tokens(self) -> int:
        """Return the output tokens of all requests that were served."""
        served = ~np.isnan(np.frombuffer(self.batcher.first_s))
        return int(self.output_tokens[served].sum())

    def _times(self) -> ServiceTimes:
        return ServiceTimes(
            arrival_s=self.arrival_s,
            first_s=np.frombuffer(self.batcher.first_s),
            last_s=np.frombuffer(self.batcher.last_s),
            gaps=self.gaps,
            batches=self.transit.batches,
            busy_s=tuple(self.transit.busy_s),
            preemptions=self.batcher.preemptions,
            peak_blocks=self.pool.capacity - self.fewest_available,
            reused_tokens=self.batcher.reused_tokens,
            phases=self.transit.phases(self._served_tokens()),
        )


def _arrivals(
    workload: TraceWorkload, settings: ContinuousSettings, pipeline: Pipeline
) -> Iterator[tuple[float, Sequence]]:
    """Yield the requests that can be served, and at last one that never arrives."""
    bounded = pipeline.bounded_blocks
    served = can_be_served(workload, settings, pipeline.block_capacity, bounded)
    requests = np.flatnonzero(served)
    columns = (workload.arrival_s, workload.prompt_tokens, workload.output_tokens)
    for first in range(0, len(requests), ARRIVALS_AT_ONCE):
        part = requests[first : first + ARRIVALS_AT_ONCE]
        values = (column[part].tolist() for column in columns)
        for request, arrival_s, prompt, output in zip(part.tolist(), *values, strict=True):
            names = prefix_names(workload, settings, request)
            taken = bounded_blocks_of(bounded, settings.blocks(prompt + output))
            yield arrival_s, Sequence(request, prompt, output, names, taken)
    yield inf, Sequence(-1, 1, 1, ())
