"""Timing of messages between two stages of this machine.

Two processes, pinned as stages would be, are a pipeline whose stages only keep their cores busy; a
message takes from the end of a step at one to its beginning at the other.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace

import torch

from llmpq_sim.io.locks import owned_folder
from runtimes.profiling.points import Series
from runtimes.profiling.processor import Target, stage_cores
from runtimes.profiling.timing import Effort, Timing
from runtimes.profiling.workers import answers, workers

ENDS = 2
MORE_REPEATS = 6
MORE_ATTEMPTS = 2
"""Messages cost little and vary much: each waits for two processes to be woken."""

WORKER = "runtimes.profiling.link_worker"


def link_timings(points: Series, target: Target, effort: Effort) -> Iterator[Timing]:
    """Yield the time of each message, one way, in order.

    Between GPUs messages go through NCCL, otherwise through gloo.

    Raises:
        ExecutionError: one of the processes failed.
    """
    between_gpus = target.device.type == "cuda" and torch.cuda.device_count() >= ENDS
    with owned_folder("llmpq-profile-") as folder:
        task = {
            "rendezvous": str(folder / "rendezvous"),
            "between_gpus": between_gpus,
            "message_bytes": [point.bytes for point in points],
            "effort": asdict(_thorough(effort)),
            "threads": target.threads,
        }
        told = [
            task | {"rank": rank, "cores": stage_cores(target.all_cores, rank, target.threads)}
            for rank in range(ENDS)
        ]
        with workers(WORKER, told) as started:
            for answer in answers(started, len(points), "timing messages between two processes"):
                yield Timing(**answer)


def _thorough(effort: Effort) -> Effort:
    return replace(
        effort.longer(MORE_REPEATS),
        fewest_repeats=MORE_REPEATS * effort.fewest_repeats,
        attempts=effort.attempts + MORE_ATTEMPTS,
    )
