"""First stage of a pipeline: lets go of everything once it has led a run."""

import gc
import threading
import time
import weakref

import torch

from llmpq_sim.core.plan import MicroBatching
from runtimes.base import TokenRequest, ignore_completion
from runtimes.torch_pipeline.engine.pipeline import Member, lead
from runtimes.torch_pipeline.engine.records import RunRecord, StageRecord
from runtimes.torch_pipeline.engine.static_schedule import StaticSchedule
from runtimes.torch_pipeline.engine.step import Step
from runtimes.torch_pipeline.processes.heartbeat import HeartbeatRecord

PATIENCE_S = 10.0


class EmptyStage:
    """Passes on nothing."""

    hidden_size = 1
    dtype = torch.float32
    device = torch.device("cpu")

    def run(self, step: Step, entering: torch.Tensor) -> torch.Tensor:
        """Return a hidden state for each token."""
        return torch.zeros(step.tokens, 1)


class Nowhere:
    """A transport whose other end answers at once."""

    is_staged = False

    def send(self, tensor: torch.Tensor, stage: int, tag: int) -> None:
        """Forget a message."""

    def receive(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        stage: int,
        tag: int,
    ) -> torch.Tensor:
        """Return zeros."""
        return torch.zeros(shape, dtype=dtype)

    def flush(self) -> None:
        """Have nothing under way."""


def test_nothing_holds_a_stage_that_has_led_its_run() -> None:
    threads = threading.active_count()
    stage = EmptyStage()
    requests = (TokenRequest("one", (0, 0), 3), TokenRequest("two", (0,), 2))
    member = Member(stage, 0, 2, requests, Nowhere(), HeartbeatRecord(), StageRecord())
    run = RunRecord(time.perf_counter(), 0.0)
    lead(member, StaticSchedule(requests, 2, MicroBatching(1, 1, 2)), None, run, ignore_completion)
    assert len(member.record.began_s) == len(run.steps) == 5
    known = weakref.ref(stage)
    del member, stage
    until_s = time.monotonic() + PATIENCE_S
    while threading.active_count() > threads and time.monotonic() < until_s:
        time.sleep(0.001)
    gc.collect()
    assert known() is None
