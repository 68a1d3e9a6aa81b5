"""What does each end of a link do while it is timed? What it does in a pipeline.

The two are the first and the last stage of one whose stages compute nothing: all that is left of a
round is the way of hidden states there and of a token back, with whatever threads, queues and
scheduling that takes.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import distributed

from llmpq_sim.plan import MicroBatching
from runtimes.base import TokenRequest, ignore_served
from runtimes.profiling.grid import TOKEN_BYTES
from runtimes.profiling.timing import Effort, Timing, timing_of
from runtimes.torch_pipeline.heartbeat import Pulse
from runtimes.torch_pipeline.pipeline import Member, follow, lead
from runtimes.torch_pipeline.records import RunRecord, StageRecord
from runtimes.torch_pipeline.static_schedule import StaticSchedule
from runtimes.torch_pipeline.step import Step
from runtimes.torch_pipeline.transport import REPORT, DistributedTransport

TIMEOUT = timedelta(seconds=60)
"""How long an end waits for the other before it gives up."""

FIRST, LAST = 0, 1
WARM_UP_ROUNDS = 5
FEWEST_ROUNDS = 60
EXPECTED_S = 1e-3
"""About how long a round takes, by which rounds are counted."""


class IdleStage:
    """A stage that computes nothing and passes on messages of a size.

    Attributes:
        hidden_size, dtype, device: see ``Stage``.
    """

    def __init__(self, message_bytes: int, device: torch.device) -> None:
        self.hidden_size = max(1, message_bytes // torch.bfloat16.itemsize)
        self.dtype = torch.bfloat16
        self.device = device
        self._out = torch.zeros(1, self.hidden_size, dtype=self.dtype, device=device)

    def run(self, step: Step, entering: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return a message; the last stage takes its largest number for a token."""
        return self._out


def main(text: str) -> None:
    """Time messages of some sizes with the other end; the first end prints a timing for each.

    Args:
        text: the task as JSON: see ``links``.
    """
    task = json.loads(text)
    if task["cores"]:
        os.sched_setaffinity(0, task["cores"])
    torch.set_num_threads(task["threads"])
    device = torch.device("cpu")
    if task["between_gpus"]:
        device = torch.device("cuda", task["rank"])
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if task["between_gpus"] else "gloo",
        init_method=f"file://{task['rendezvous']}",
        rank=task["rank"],
        world_size=2,
        timeout=TIMEOUT,
    )
    for size in task["message_bytes"]:
        timed = timed_link(size, task, device)
        if timed is not None:
            sys.stdout.write(json.dumps(asdict(timed)) + "\n")
            sys.stdout.flush()
    distributed.destroy_process_group()


def timed_link(size: int, task: Mapping[str, Any], device: torch.device) -> Timing | None:
    """Return how long messages of a size take one way, at the first end."""
    rounds = WARM_UP_ROUNDS + max(
        FEWEST_ROUNDS, round(Effort(**task["effort"]).least_s / EXPECTED_S)
    )
    request = TokenRequest("link", (0,), rounds)
    transport = DistributedTransport(device, is_staged=False)
    record = StageRecord()
    there_bytes = max(size, torch.bfloat16.itemsize)
    stage = IdleStage(there_bytes, device)
    member = Member(stage, task["rank"], 2, (request,), transport, Pulse(), record)
    if task["rank"] == LAST:
        follow(member)
        transport.send(torch.tensor(record.numbers(), dtype=torch.float64), FIRST, REPORT)
        transport.flush()
        return None
    run = RunRecord(perf_counter(), 0.0)
    lead(member, StaticSchedule([request], 1, MicroBatching(1, 1, 1)), None, run, ignore_served)
    transport.flush()
    numbers = transport.receive((2 * rounds + 1,), torch.float64, LAST, REPORT)
    other = StageRecord.of(numbers.tolist(), 0.0)
    return _way(record, other, is_back=size == TOKEN_BYTES)


def _way(first: StageRecord, last: StageRecord, *, is_back: bool) -> Timing:
    """Return the time from the end of a visit at one end to its beginning at the other."""
    there = np.subtract(last.began_s, first.ended_s)
    back = np.subtract(first.began_s[1:], last.ended_s[:-1])
    times_s: Sequence[float] = (back if is_back else there)[WARM_UP_ROUNDS:].tolist()
    timing = timing_of([time_s for time_s in times_s if time_s > 0])
    return replace(timing, repeats=len(times_s))


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    os._exit(0)  # threads of gloo may outlive the interpreter and abort it
