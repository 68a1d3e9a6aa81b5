"""Worker at each end of a link that is timed as in a pipeline.

The two are the first and the last stage of one with two sequences in flight, whose stages only keep
their cores busy for a moment. What is left between steps is the way of hidden states there and of
a token back, with whatever threads, queues and scheduling that takes on cores that are at work.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from time import perf_counter
from typing import Any

import torch
from torch import distributed

from llmpq_sim.core.errors import ExecutionError
from llmpq_sim.core.plan import MicroBatching
from runtimes.base import TokenRequest
from runtimes.profiling.grid import TOKEN_BYTES
from runtimes.profiling.timing import Effort, Timing, timing_of
from runtimes.profiling.two_ends import FIRST, LAST, serve_as_end
from runtimes.torch_pipeline.engine.records import StageRecord
from runtimes.torch_pipeline.engine.step import Step

TIMEOUT = timedelta(seconds=60)
"""How long an end waits for the other before it gives up."""

WARM_UP_ROUNDS = 5
FEWEST_ROUNDS, MOST_S = 60, 2.0
"""Rounds that are timed; fewer where all would take so long, but never less than FEWEST_LONG."""

FEWEST_LONG, FEWEST_AWAITED = 12, 5
BUSY_S = 3e-3
"""How long a step keeps its core busy: longer than a time slice, as those of real stages."""

BUSY_S_PER_BYTE = 3e-9
"""Or longer than a message is under way, three times at 1 GB/s: a message that follows on the heels
of another is not waited for."""

ATTEMPTS = 5
"""Each with steps twice as long as before, until enough messages are waited for."""

WAITING_SHARE = 1 / 3
"""Of a step's length at the end where the messages arrive that are timed: it is to wait for most
of them."""

SEQUENCES = 2


class BusyStage:
    """A stage that computes for a moment, to no purpose, and passes on messages of a size.

    Attributes:
        hidden_size, dtype, device: see ``Stage``.
    """

    def __init__(self, message_bytes: int, device: torch.device, busy_s: float) -> None:
        self.hidden_size = max(1, message_bytes // torch.bfloat16.itemsize)
        self.dtype = torch.bfloat16
        self.device = device
        self._busy_s = busy_s
        self._out = torch.zeros(1, self.hidden_size, dtype=self.dtype, device=device)
        self._matrix = torch.ones(64, 64, device=device)

    def run(self, step: Step, entering: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return a message; the last stage takes its largest number for a token."""
        end_s = perf_counter() + self._busy_s
        while perf_counter() < end_s:
            torch.mm(self._matrix, self._matrix)
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
    """Return how long messages of a size take one way, at the first end.

    Raises:
        ExecutionError: hardly any message was waited for.
    """
    busy_s = max(BUSY_S, BUSY_S_PER_BYTE * size)
    for _ in range(ATTEMPTS):
        awaited_s = awaited_times_s(size, busy_s, task, device)
        count = torch.tensor(len(awaited_s))
        distributed.broadcast(count, FIRST)
        if count >= FEWEST_AWAITED:
            return timing_of(awaited_s) if awaited_s else None
        busy_s *= 2
    raise ExecutionError("timing messages: hardly any was waited for; the cores are too busy")


def rounds_of(busy_s: float, effort: Effort) -> int:
    """Return how many rounds are timed of steps that long."""
    wanted = max(FEWEST_ROUNDS, round(effort.least_s / (SEQUENCES * BUSY_S)))
    return max(FEWEST_LONG, min(wanted, round(MOST_S / (SEQUENCES * busy_s))))


def awaited_times_s(
    size: int, busy_s: float, task: Mapping[str, Any], device: torch.device
) -> list[float]:
    """Return at the first end how long messages took that were waited for, none at the last."""
    rounds = WARM_UP_ROUNDS + rounds_of(busy_s, Effort(**task["effort"]))
    requests = tuple(TokenRequest(f"link-{i}", (0,), rounds) for i in range(SEQUENCES))
    waits = task["rank"] == (FIRST if size == TOKEN_BYTES else LAST)
    own_busy_s = WAITING_SHARE * busy_s if waits else busy_s
    stage = BusyStage(max(size, torch.bfloat16.itemsize), device, own_busy_s)
    served = serve_as_end(stage, task["rank"], requests, MicroBatching(1, 1, SEQUENCES))
    return [] if served is None else awaited(*served[1:], is_back=size == TOKEN_BYTES)


def awaited(first: StageRecord, last: StageRecord, *, is_back: bool) -> list[float]:
    """Return how long messages took that the end where they arrive was waiting for.

    It waited where it had done its step before that at the other end was over. A token lets in
    the step that is as many behind as there are sequences.
    """
    sent, own = (last.ended_s, first) if is_back else (first.ended_s, last)
    behind = SEQUENCES if is_back else 0
    steps = range(SEQUENCES * WARM_UP_ROUNDS, len(own.began_s))
    return [
        own.began_s[n] - sent[n - behind]
        for n in steps
        if own.ended_s[n - 1] <= sent[n - behind] < own.began_s[n]
    ]


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    os._exit(0)  # threads of gloo may outlive the interpreter and abort it
