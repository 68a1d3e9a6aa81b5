"""SimPy model of continuous batching: requests that arrive, a scheduler, batches, stages and links.

Each request is a process that arrives, waits to be served, and ends with its last token; in a
closed loop each user is one, who brings the next request once the one before has ended. The
scheduler is a process that forms batches as long as fewer are under way than may be.
Each batch is a process that passes stages and links, resources that serve one batch at a time in
order of arrival. `recurrence` computes the same instants without events.
"""

from collections.abc import Iterator

import numpy as np
from simpy import Environment, Resource
from simpy.events import ProcessGenerator

from llmpq_sim.core.caches import bounded_blocks_of
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.simulator.continuous.gaps import Gaps
from llmpq_sim.simulator.continuous.kv_blocks import BlockPool, prefix_kv_blocks, prefix_names
from llmpq_sim.simulator.continuous.mixed_costs import Pipeline
from llmpq_sim.simulator.continuous.scheduler import Batch, Request, Scheduler
from llmpq_sim.simulator.continuous.service_times import (
    ServiceTimes,
    can_be_served,
    unknown_arrivals,
)
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from llmpq_sim.simulator.continuous.watch import Watch
from llmpq_sim.simulator.phases import PassedStep, phases_of


def simulate_service(
    pipeline: Pipeline,
    workload: TraceWorkload,
    settings: ContinuousSettings,
    watch: Watch | None = None,
) -> ServiceTimes:
    """Return when each request of a trace is served by a compiled pipeline.

    Args:
        pipeline: a plan compiled with these settings.
        workload: which requests arrive when.
        settings: limits and choices of the scheduler.
        watch: who is told of batches and steps, and when that is enough: the simulation ends then,
            and the instants not reached are not numbers.
    """
    return _Service(pipeline, workload, settings, watch or Watch()).run()


class _Service:
    """What serves the requests of a trace, and what has happened so far."""

    def __init__(
        self,
        pipeline: Pipeline,
        workload: TraceWorkload,
        settings: ContinuousSettings,
        watch: Watch,
    ) -> None:
        self.pipeline, self.workload = pipeline, workload
        self.settings, self.watch = settings, watch
        self.environment = Environment()
        self.stages = [Resource(self.environment) for _ in pipeline.stages]
        self.links = [Resource(self.environment) for _ in pipeline.stages]
        per_prefix = prefix_kv_blocks(workload, settings)
        self.pool = BlockPool(pipeline.block_capacity, per_prefix, settings.block_tokens)
        self.scheduler = Scheduler(settings, self.pool)
        self.woken = self.environment.event()
        self.enough = self.environment.event()
        self.under_way = 0
        self.most_under_way = settings.most_in_flight(len(pipeline.stages))
        self.first_stage_is_free = True
        self.steps_left = watch.most_steps
        self.peak_blocks = 0
        self.busy_s = [0.0] * len(pipeline.stages)
        self.passed: list[PassedStep] = []
        self.gaps = Gaps()
        self.first_s, self.last_s = np.full((2, workload.requests), np.nan)
        self.arrival_s = unknown_arrivals(workload)

    def run(self) -> ServiceTimes:
        """Serve all requests that can be served."""
        environment = self.environment
        environment.process(self._form_batches())
        served = [environment.process(source) for source in self._sources()]
        environment.run(until=environment.all_of(served) | self.enough)
        return ServiceTimes(
            self.arrival_s,
            self.first_s,
            self.last_s,
            self.gaps,
            self.scheduler.batches,
            tuple(self.busy_s),
            self.scheduler.preemptions,
            self.peak_blocks,
            self.scheduler.reused_tokens,
            phases_of(self.passed),
        )

    def _requests(self) -> list[Request]:
        """Return the requests that can be served."""
        bounded = self.pipeline.bounded_blocks
        fits = can_be_served(self.workload, self.settings, self.pool.capacity, bounded)
        return [self._made(number) for number in np.flatnonzero(fits).tolist()]

    def _made(self, number: int) -> Request:
        """Return a request of the workload."""
        context_blocks = self.settings.blocks(int(self.workload.context_tokens[number]))
        return Request(
            number,
            float(self.workload.arrival_s[number]),
            int(self.workload.prompt_tokens[number]),
            int(self.workload.output_tokens[number]),
            prefix_names(self.workload, self.settings, number),
            self.environment.event(),
            bounded_blocks=bounded_blocks_of(self.pipeline.bounded_blocks, context_blocks),
        )

    def _sources(self) -> list[ProcessGenerator]:
        """Return what brings requests: each comes by itself, or users take turns with them."""
        requests = self._requests()
        if self.workload.concurrency is None:
            return [self._request(each) for each in requests]
        users, turns = min(self.workload.concurrency, len(requests)), iter(requests)
        return [self._user(turns) for _ in range(users)]

    def _request(self, request: Request) -> ProcessGenerator:
        """Arrive at an instant of its own."""
        yield self.environment.timeout(request.arrival_s)
        yield from self._served(request)

    def _user(self, requests: Iterator[Request]) -> ProcessGenerator:
        """Bring the next request as soon as the one before has ended."""
        for request in requests:
            yield from self._served(request)

    def _served(self, request: Request) -> ProcessGenerator:
        """Wait to be served, and for the last token."""
        self.arrival_s[request.number] = self.environment.now
        self.scheduler.waiting.append(request)
        self._wake()
        yield request.done
        self.last_s[request.number] = request.token_s[-1]

    def _wake(self) -> None:
        if not self.woken.triggered:
            self.woken.succeed()

    def _form_batches(self) -> ProcessGenerator:
        """Whenever woken, form batches once all that happens at the same instant has happened."""
        environment = self.environment
        while True:
            yield self.woken
            while environment.peek() == environment.now:
                yield environment.timeout(0.0)
            self.woken = environment.event()
            while self._can_form() and (batch := self.scheduler.form()) is not None:
                self._note_batch(batch)
                environment.process(self._batch(batch))

    def _can_form(self) -> bool:
        has_room = self.under_way < self.most_under_way
        return has_room and (self.settings.schedules_ahead or self.first_stage_is_free)

    def _batch(self, batch: Batch) -> ProcessGenerator:
        """Pass every stage and the link behind it, and come back to the scheduler."""
        environment, entered_s = self.environment, 0.0
        for number, (stage, link) in enumerate(zip(self.stages, self.links, strict=True)):
            with stage.request() as turn:
                yield turn
                began_s, service_s = environment.now, self.pipeline.service_s(number, batch.load)
                yield environment.timeout(service_s)
            entered_s = began_s if number == 0 else entered_s
            self.busy_s[number] += service_s
            self._note_step(number, batch, began_s)
            if number == len(self.stages) - 1:
                self._note_passed(batch, entered_s)
            with link.request() as turn:
                yield turn
                yield environment.timeout(self.pipeline.transfer_s(number, batch.load))
        self.under_way -= 1
        self.scheduler.take_back(batch)
        self._wake()

    def _note_batch(self, batch: Batch) -> None:
        self.under_way += 1
        self.first_stage_is_free = False
        used = self.pool.capacity - self.pool.available
        self.peak_blocks = max(self.peak_blocks, used)
        if self.watch.on_batch is not None:
            load, waiting = batch.load, len(self.scheduler.waiting)
            prompt_tokens = load.tokens - load.rows
            self.watch.on_batch(self.environment.now, load.rows, prompt_tokens, used, waiting)

    def _note_step(self, number: int, batch: Batch, began_s: float) -> None:
        """Let what waits for the first stage go on, note tokens on the last, tell who watches."""
        if number == 0 and not self.settings.schedules_ahead:
            self.first_stage_is_free = True
            self._wake()
        if number == len(self.stages) - 1:
            for request in batch.sampled:
                self._note_token(request)
        if self.watch.on_step is not None:
            self.watch.on_step(number, batch.number, began_s, self.environment.now)
        self.steps_left -= 1
        if self.steps_left == 0:
            self.enough.succeed()

    def _note_passed(self, batch: Batch, entered_s: float) -> None:
        rows, tokens = batch.load.rows, batch.load.tokens
        self.passed.append(PassedStep(entered_s, self.environment.now, rows, tokens - rows))

    def _note_token(self, request: Request) -> None:
        now = self.environment.now
        if request.token_s:
            self.gaps.values_s.append(now - request.token_s[-1])
            self.gaps.counts.append(1)
        else:
            self.first_s[request.number] = now
        request.token_s.append(now)
