"""Pipeline of stages that serve steps together, from the first to the last.

The first stage schedules. It announces each step to every other stage, so that shapes are known
before data come, sends hidden states down the pipeline, and takes sampled tokens back from the last
stage, which closes the ring.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Protocol

import torch

from runtimes.base import Completion, TokenRequest
from runtimes.torch_pipeline.engine.records import RunRecord, StageRecord
from runtimes.torch_pipeline.engine.sampling import sample
from runtimes.torch_pipeline.engine.sequences import Schedule
from runtimes.torch_pipeline.engine.step import END, INLINE, Step, decoded, encoded, encoded_length
from runtimes.torch_pipeline.engine.transport import ANNOUNCEMENT, HIDDEN, TOKENS, Transport
from runtimes.torch_pipeline.processes.heartbeat import HeartbeatRecord

Returned = tuple[Step, list[int]]
Arrived = tuple[Step, torch.Tensor | None]

RECEIVED_AHEAD = 4
"""Steps that wait in memory at a stage; more wait at the sender."""


class Computes(Protocol):
    """What a stage is to the pipeline: see ``Stage``."""

    hidden_size: int
    dtype: torch.dtype
    device: torch.device

    def run(self, step: Step, entering: torch.Tensor) -> torch.Tensor:
        """Return what a step becomes at this stage."""


@dataclass
class Member:
    """A stage as a member of the pipeline.

    Attributes:
        stage: what it computes.
        number, stages: its place, and how many there are.
        requests: of the job.
        transport: to the other stages.
        heartbeat: where it says that it is alive.
        record: where it writes down its steps.
    """

    stage: Computes
    number: int
    stages: int
    requests: tuple[TokenRequest, ...]
    transport: Transport
    heartbeat: HeartbeatRecord
    record: StageRecord

    @property
    def is_last(self) -> bool:
        """Whether it samples."""
        return self.number == self.stages - 1

    def compute(self, step: Step, entering: torch.Tensor) -> torch.Tensor:
        """Return hidden states, or on the last stage tokens, and write down how long it took."""
        self.heartbeat.step_since_s = monotonic()
        began_s = perf_counter()
        out = self.stage.run(step, entering)
        if self.is_last:
            out = sample(out, step, self.requests).cpu()
        elif self.stage.device.type == "cuda":
            torch.cuda.synchronize(self.stage.device)
        ended_s = perf_counter()
        self.record.began_s.append(began_s)
        self.record.ended_s.append(ended_s)
        self.heartbeat.busy_s += ended_s - began_s
        self.heartbeat.steps += 1
        self.heartbeat.step_since_s = 0.0
        return out


def follow(member: Member) -> None:
    """Serve steps at a stage that is not the first, until one says that it is the last."""
    inbox = _Inbox(member)
    while True:
        step, hidden = inbox.next()
        if hidden is None:
            return
        out = member.compute(step, hidden)
        if member.is_last:
            member.transport.send(_at_least_one(out), 0, TOKENS)
        else:
            member.transport.send(out, member.number + 1, HIDDEN)


class _Inbox:
    """Steps on their way to a stage.

    Where messages pass through the CPU's memory a thread receives ahead: gloo sends nothing before
    the receiver asks, and a sender that computes on the same core would answer milliseconds later.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._arrived: queue.Queue[Arrived | Exception] = queue.Queue(maxsize=RECEIVED_AHEAD)
        self._is_ahead = member.transport.is_staged or member.stage.device.type == "cpu"
        if self._is_ahead:
            threading.Thread(target=self._receive_all, daemon=True).start()

    def next(self) -> Arrived:
        """Return the next step with what enters, nothing with the last one."""
        if not self._is_ahead:
            return self._receive()
        arrived = self._arrived.get()
        if isinstance(arrived, Exception):
            raise arrived
        return arrived

    def _receive_all(self) -> None:
        try:
            hidden: torch.Tensor | None = torch.empty(0)
            while hidden is not None:
                step, hidden = self._receive()
                self._arrived.put((step, hidden))
        except Exception as error:  # the main thread raises it
            self._arrived.put(error)

    def _receive(self) -> Arrived:
        member = self._member
        step = _announced(member.transport)
        if step.ends_run:
            return step, None
        shape = (step.tokens, member.stage.hidden_size)
        dtype = member.stage.dtype
        return step, member.transport.receive(shape, dtype, member.number - 1, HIDDEN)


def lead(
    member: Member,
    schedule: Schedule,
    most_in_flight: int | None,
    run: RunRecord,
    on_completion: Callable[[Completion], None],
) -> None:
    """Serve all requests from the first stage, then tell the others that it is over.

    Args:
        member: the first stage.
        schedule: which steps there are.
        most_in_flight: steps in the pipeline at once, or None for all there are.
        run: where steps are written down.
        on_completion: receives each request that is finished.
    """
    ring = _Ring(member)
    while not schedule.is_done:
        returned = ring.next_returned(0.0)  # what is back goes along with the next step
        if returned is None:
            now_s = perf_counter() - run.start_s
            has_room = most_in_flight is None or ring.in_flight < most_in_flight
            step = schedule.next_step(now_s) if has_room else None
            if step is not None:
                run.note(step)
                ring.launch(step, schedule.token_ids(step))
                continue
            returned = ring.next_returned(_seconds_to(schedule, now_s, has_room))
        if returned is not None:
            served = _take_back(member, schedule, returned, on_completion)
            run.take_back(served, perf_counter())
    ring.close()
    _announce(member, Step(END))


def _take_back(
    member: Member,
    schedule: Schedule,
    returned: Returned,
    on_completion: Callable[[Completion], None],
) -> int:
    """Return how many requests a step that returned has finished, and tell of each."""
    served = schedule.take_back(*returned)
    member.heartbeat.output_tokens += len(returned[1])
    member.heartbeat.finished += len(served)
    for one in served:
        on_completion(one)
    return len(served)


def _seconds_to(schedule: Schedule, now_s: float, has_room: bool) -> float | None:
    """Return how long to wait at most for a step to return, None for as long as it takes."""
    arrival_s = schedule.next_arrival_s(now_s) if has_room else None
    return None if arrival_s is None else max(arrival_s - now_s, 0.0)


class _Ring:
    """Steps in the pipeline, and their tokens on the way back to the first stage."""

    def __init__(self, member: Member) -> None:
        self.in_flight = 0
        self._member = member
        self._expected: queue.Queue[Step | None] = queue.Queue()
        self._returned: queue.Queue[Returned | Exception] = queue.Queue()
        if member.stages > 1:
            threading.Thread(target=self._receive, daemon=True).start()

    def launch(self, step: Step, token_ids: list[int]) -> None:
        """Let a step enter the pipeline."""
        member = self._member
        self.in_flight += 1
        _announce(member, step)
        if member.stages > 1:
            self._expected.put(step)
        ids = torch.tensor(token_ids, dtype=torch.int64, device=member.stage.device)
        out = member.compute(step, ids)
        if member.stages == 1:
            self._returned.put((step, out.tolist()))
        else:
            member.transport.send(out, 1, HIDDEN)

    def next_returned(self, timeout_s: float | None) -> Returned | None:
        """Return the next step that is back, in order, or None if none is in time."""
        if not self.in_flight and timeout_s is None:
            raise RuntimeError("nothing is under way and nothing can be scheduled")
        try:
            returned = self._returned.get(block=timeout_s != 0.0, timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(returned, Exception):
            raise returned
        self.in_flight -= 1
        return returned

    def close(self) -> None:
        """Expect no more steps; what receives them lets go of the stage."""
        self._expected.put(None)

    def _receive(self) -> None:
        member = self._member
        try:
            while (step := self._expected.get()) is not None:
                samples = len(step.sampled)
                shape = (max(samples, 1),)
                last = member.stages - 1
                tokens = member.transport.receive(shape, torch.int64, last, TOKENS)
                self._returned.put((step, tokens.tolist()[:samples]))
        except Exception as error:  # the main thread raises it
            self._returned.put(error)


def _announce(member: Member, step: Step) -> None:
    numbers = encoded(step)
    for stage in range(1, member.stages):
        member.transport.send(numbers[:INLINE], stage, ANNOUNCEMENT)
        if len(numbers) > INLINE:
            member.transport.send(numbers[INLINE:], stage, ANNOUNCEMENT)


def _announced(transport: Transport) -> Step:
    head = transport.receive((INLINE,), torch.int64, 0, ANNOUNCEMENT).tolist()
    rest = encoded_length(head) - INLINE
    if rest:
        head += transport.receive((rest,), torch.int64, 0, ANNOUNCEMENT).tolist()
    return decoded(head)


def _at_least_one(tokens: torch.Tensor) -> torch.Tensor:
    """Return tokens, or one that stands for none: what was sent must arrive."""
    return tokens if len(tokens) else torch.zeros(1, dtype=torch.int64)
