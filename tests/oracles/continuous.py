"""Continuous batching, told in the plainest way: what both forms of the product must equal.

A SimPy process is each stage, each link and each arrival. Each sequence is followed by itself, and
whatever can be computed from the state of all sequences is: it shares neither the scheduler nor
the block pool of the product.
"""

import numpy as np
from simpy import Environment, Store
from simpy.events import ProcessGenerator

from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.simulator.continuous.gaps import Gaps
from llmpq_sim.simulator.continuous.kv_blocks import prefix_kv_blocks, prefix_names
from llmpq_sim.simulator.continuous.mixed_costs import BatchLoad, Pipeline
from llmpq_sim.simulator.continuous.service_times import ServiceTimes, can_be_served
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from llmpq_sim.simulator.phases import PassedStep, phases_of
from llmpq_sim.simulator.static.step_graph import OnStep
from tests.oracles.blocks import Blocks, Request

_Chunk = tuple[Request, int, int]


class _Batch:
    def __init__(self, number: int, decodes: list[Request], chunks: list[_Chunk]) -> None:
        self.number = number
        self.began_s = 0.0
        self.decodes = decodes
        self.chunks = chunks
        finished = [one for one, prefix, chunk in chunks if prefix + chunk == one.known_tokens]
        self.sampled = decodes + finished
        self.load = BatchLoad(
            rows=len(decodes),
            context_sum=sum(one.known_tokens for one in decodes),
            chunks=tuple((prefix, chunk) for _, prefix, chunk in chunks),
            samples=len(self.sampled),
        )


class _ContinuousService:
    """The stages, links and requests, and what they have done so far."""

    def __init__(
        self,
        pipeline: Pipeline,
        workload: TraceWorkload,
        settings: ContinuousSettings,
        on_step: OnStep | None,
    ) -> None:
        self.environment = Environment()
        self.pipeline, self.workload, self.settings = pipeline, workload, settings
        self.on_step = on_step
        per_prefix = prefix_kv_blocks(workload, settings)
        self.blocks = Blocks(pipeline.block_capacity, per_prefix, settings)
        self.waiting: list[Request] = []
        self.served: list[Request] = []
        self.in_flight: list[_Batch] = []
        self.stage_lines = [Store(self.environment) for _ in pipeline.stages]
        self.link_lines = [Store(self.environment) for _ in pipeline.stages]
        self.first_stage_is_idle = True
        self.woken = self.environment.event()
        self.batches = self.preemptions = self.peak_blocks = self.reused_tokens = 0
        self.busy_s = [0.0] * len(pipeline.stages)
        self.passed: list[PassedStep] = []
        self.environment.process(self._scheduler())
        for number in range(len(pipeline.stages)):
            self.environment.process(self._stage(number))
            self.environment.process(self._link(number))
        bounded = pipeline.bounded_blocks
        fits = can_be_served(workload, settings, pipeline.block_capacity, bounded)
        self.arrival_s = np.full(workload.requests, np.nan)
        self.to_come: list[int] = np.flatnonzero(fits).tolist()
        if workload.concurrency is None:
            self.arrival_s[:] = workload.arrival_s
            for request in self.to_come:
                self.environment.process(self._arrival(request))
        else:
            for _ in range(workload.concurrency):
                self._enter_next()

    def _arrival(self, number: int) -> ProcessGenerator:
        yield self.environment.timeout(float(self.workload.arrival_s[number]))
        self._enter(number)

    def _enter_next(self) -> None:
        if self.to_come:
            number = self.to_come.pop(0)
            self.arrival_s[number] = self.environment.now
            self._enter(number)

    def _enter(self, number: int) -> None:
        workload, bounded = self.workload, self.pipeline.bounded_blocks
        request = Request(
            number,
            int(workload.prompt_tokens[number]),
            int(workload.output_tokens[number]),
            tuple(prefix_names(workload, self.settings, number)),
        )
        if bounded:
            context_blocks = self.settings.blocks(request.prompt_tokens + request.output_tokens)
            request.bounded_blocks = [*bounded, bounded[-1]][min(context_blocks, len(bounded))]
        self.waiting.append(request)
        self._wake()

    def _stage(self, number: int) -> ProcessGenerator:
        while True:
            batch = yield self.stage_lines[number].get()
            began_s, service_s = self.environment.now, self.pipeline.service_s(number, batch.load)
            yield self.environment.timeout(service_s)
            self.busy_s[number] += service_s
            batch.began_s = began_s if number == 0 else batch.began_s
            if self.on_step is not None:
                self.on_step(number, batch.number, began_s, self.environment.now)
            if number == 0:
                self.first_stage_is_idle = True
                if not self.settings.schedules_ahead:
                    self._wake()
            if number == len(self.stage_lines) - 1:
                for request in batch.sampled:
                    request.token_s.append(self.environment.now)
                rows, tokens = batch.load.rows, batch.load.tokens
                ended_s = self.environment.now
                self.passed.append(PassedStep(batch.began_s, ended_s, rows, tokens - rows))
            yield self.link_lines[number].put(batch)

    def _link(self, number: int) -> ProcessGenerator:
        while True:
            batch = yield self.link_lines[number].get()
            yield self.environment.timeout(self.pipeline.transfer_s(number, batch.load))
            if number < len(self.stage_lines) - 1:
                yield self.stage_lines[number + 1].put(batch)
            else:
                self._take_back(batch)
                self._wake()

    def _wake(self) -> None:
        if not self.woken.triggered:
            self.woken.succeed()

    def _scheduler(self) -> ProcessGenerator:
        """Look whenever woken, once all that happens at the same instant has happened."""
        while True:
            yield self.woken
            while self.environment.peek() == self.environment.now:
                yield self.environment.timeout(0.0)
            self.woken = self.environment.event()
            self._schedule()

    def _schedule(self) -> None:
        most = self.settings.batches_in_flight or len(self.stage_lines)
        while len(self.in_flight) < most:
            if not self.first_stage_is_idle and not self.settings.schedules_ahead:
                return
            decodes, chunks = self._form()
            if not decodes and not chunks:
                return
            batch = _Batch(self.batches, decodes, chunks)
            self.batches += 1
            self.peak_blocks = max(self.peak_blocks, self.blocks.used())
            self.in_flight.append(batch)
            self.first_stage_is_idle = False
            self.stage_lines[0].put(batch)

    def _form(self) -> tuple[list[Request], list[_Chunk]]:
        preemptions, budget = self.preemptions, self.settings.token_budget
        if not self.settings.chunked_prefill:
            chunks = self._admit(budget)
            return ([], chunks) if chunks else (self._decodes(), [])
        decodes = self._decodes()
        chunks = self._continue_prompts(budget - len(decodes))
        if self.preemptions == preemptions:
            left = budget - len(decodes) - sum(chunk for _, _, chunk in chunks)
            chunks += self._admit(left)
        return decodes, chunks

    def _decodes(self) -> list[Request]:
        decodes = []
        for request in list(self.blocks.running):
            is_idle = request in self.blocks.running and not request.in_flight
            if is_idle and request.decodes and self._obtain(request, request.known_tokens):
                request.in_flight = True
                decodes.append(request)
        return decodes

    def _continue_prompts(self, budget: int) -> list[_Chunk]:
        chunks = []
        for request in list(self.blocks.running):
            is_idle = request in self.blocks.running and not request.in_flight
            chunk = self._cut(request.known_tokens - request.computed_tokens, budget)
            if not is_idle or request.decodes or not chunk:
                continue
            if self._obtain(request, request.computed_tokens + chunk):
                chunks.append(self._scheduled(request, chunk))
                budget -= chunk
        return chunks

    def _admit(self, budget: int) -> list[_Chunk]:
        chunks = []
        while self.waiting and budget and len(self.blocks.running) < self.settings.sequence_limit:
            request = self.waiting[0]
            prefix = self.blocks.longest_cached_prefix(request)
            reused = len(prefix) * self.blocks.prefix_tokens
            wanted = request.known_tokens - reused
            if wanted > budget and not self.settings.chunked_prefill:
                break
            chunk = self._cut(wanted, budget)
            self.blocks.running.append(request)
            request.prefix = prefix
            needed = self.blocks.needed(request, reused + chunk)
            if self.settings.admission == "no-evict":
                has_room = self.blocks.ever_needed() <= self.blocks.available()
            else:
                has_room = needed <= self.blocks.available()
            if not has_room:
                self.blocks.running.remove(request)
                request.prefix = []
                break
            self.waiting.pop(0)
            self.blocks.take(request, needed)
            request.computed_tokens = reused
            self.reused_tokens += reused
            chunks.append(self._scheduled(request, chunk))
            budget -= chunk
        return chunks

    def _cut(self, tokens: int, budget: int) -> int:
        return min(tokens, budget, self.settings.chunk_tokens or tokens)

    def _scheduled(self, request: Request, chunk: int) -> _Chunk:
        prefix = request.computed_tokens
        self.blocks.share(request, prefix + chunk)
        request.computed_tokens += chunk
        request.in_flight = True
        return request, prefix, chunk

    def _obtain(self, request: Request, tokens: int) -> bool:
        needed = self.blocks.needed(request, tokens)
        while needed > self.blocks.available():
            place = self.blocks.running.index(request)
            later = self.blocks.running[place + 1 :]
            idle = [other for other in later if not other.in_flight]
            if not idle:
                if not later:
                    self._preempt(request)
                return False
            self._preempt(idle[-1])
        self.blocks.take(request, needed)
        return True

    def _preempt(self, request: Request) -> None:
        if self.settings.prefix_caching:
            self.blocks.share_rest(request)
        self.blocks.release(request)
        request.computed_tokens, request.decodes = 0, False
        self.waiting.insert(0, request)
        self.preemptions += 1

    def _take_back(self, batch: _Batch) -> None:
        self.in_flight.remove(batch)
        for request in [*batch.decodes, *(request for request, _, _ in batch.chunks)]:
            request.in_flight = False
            request.computed_tokens += request.decodes
            request.decodes = request in batch.sampled
            if len(request.token_s) == request.output_tokens:
                self.blocks.release(request)
                self.served.append(request)
                if self.workload.concurrency is not None:
                    self._enter_next()


def serve_plainly(
    pipeline: Pipeline,
    workload: TraceWorkload,
    settings: ContinuousSettings,
    on_step: OnStep | None = None,
) -> ServiceTimes:
    """Return when each request of a trace is served by a compiled pipeline."""
    service = _ContinuousService(pipeline, workload, settings, on_step)
    service.environment.run()
    first_s, last_s = np.full((2, workload.requests), np.nan)
    gaps = Gaps()
    for request in service.served:
        first_s[request.number] = request.token_s[0]
        last_s[request.number] = request.token_s[-1]
        gaps.values_s.extend(np.diff(request.token_s).tolist())
        gaps.counts.extend([1] * (len(request.token_s) - 1))
    return ServiceTimes(
        service.arrival_s,
        first_s,
        last_s,
        gaps,
        service.batches,
        tuple(service.busy_s),
        service.preemptions,
        service.peak_blocks,
        service.reused_tokens,
        phases_of(service.passed),
    )
