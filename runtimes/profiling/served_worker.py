"""How long do the visits of a real pipeline take, beside what its parts take alone?

Two processes serve a few sequences with the first and the last layers of a model, as a deployment
does. A visit then takes longer than its layers and its end were timed alone: messages come and go
on the same core, and each part finds caches and freed memory as the others left them.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import torch
from torch import distributed

from llmpq_sim.plan import MicroBatching
from runtimes.base import TokenRequest, ignore_served
from runtimes.profiling.conditions import Conditions
from runtimes.profiling.layers import random_cut
from runtimes.profiling.processor import find_target
from runtimes.profiling.profiled_models import load_profiled
from runtimes.profiling.timing import Timing, timing_of
from runtimes.torch_pipeline.architecture import Cut, connect
from runtimes.torch_pipeline.attention import StageState
from runtimes.torch_pipeline.heartbeat import Pulse
from runtimes.torch_pipeline.host_memory import PeakMemory, pin
from runtimes.torch_pipeline.kv_cache import KvCache
from runtimes.torch_pipeline.loading import DTYPES, release_freed_memory
from runtimes.torch_pipeline.pipeline import Member, follow, lead
from runtimes.torch_pipeline.records import RunRecord, StageRecord
from runtimes.torch_pipeline.stage import Stage
from runtimes.torch_pipeline.static_schedule import StaticSchedule
from runtimes.torch_pipeline.transport import REPORT, DistributedTransport

FIRST, LAST = 0, 1
GROUPS = 2
"""Micro-batches in flight: one for each stage to be at work."""

WARM_UP_ROUNDS = 4


def main(text: str) -> None:
    """Serve with the other end; the first prints what decode visits took at both, by format.

    Args:
        text: the task as JSON: see ``served``.
    """
    task = json.loads(text)
    pin(tuple(task["cores"]))
    distributed.init_process_group(
        "gloo", init_method=f"file://{task['rendezvous']}", rank=task["rank"], world_size=2
    )
    with torch.inference_mode():
        for format_name in task["formats"]:
            ends = served_visits(format_name, task)
            if ends is not None:
                sys.stdout.write(json.dumps([asdict(end) for end in ends]) + "\n")
                sys.stdout.flush()
            release_freed_memory()
    distributed.destroy_process_group()


@dataclass(frozen=True)
class ServedEnd:
    """What one end of the pipeline took.

    Attributes:
        timing: of its decode visits.
        beside_bytes: memory beside the weights and the KV cache.
    """

    timing: Timing
    beside_bytes: int


def served_visits(format_name: str, task: Mapping[str, Any]) -> tuple[ServedEnd, ServedEnd] | None:
    """Return what the first and the last end took; known at the first."""
    rank, rows, rounds = task["rank"], task["rows"], task["rounds"]
    stage, held_bytes = _stage(format_name, task)
    requests = tuple(
        TokenRequest(f"served-{number}", (0,) * task["prompt_tokens"], rounds)
        for number in range(GROUPS * rows)
    )
    transport = DistributedTransport(stage.device, is_staged=False)
    record = StageRecord()
    member = Member(stage, rank, 2, requests, transport, Pulse(), record)
    memory = PeakMemory(stage.device)
    distributed.barrier()
    memory.start()
    if rank == LAST:
        follow(member)
        record.peak_bytes = memory.stop() - held_bytes
        transport.send(torch.tensor(record.numbers(), dtype=torch.float64), FIRST, REPORT)
        transport.flush()
        return None
    run = RunRecord(perf_counter(), 0.0)
    cuts = MicroBatching(rows, rows, GROUPS)
    lead(member, StaticSchedule(requests, len(requests), cuts), None, run, ignore_served)
    record.peak_bytes = memory.stop() - held_bytes
    transport.flush()
    numbers = transport.receive((2 * len(run.steps) + 1,), torch.float64, LAST, REPORT)
    return _end(record, run), _end(StageRecord.of(numbers.tolist(), 0.0), run)


def _end(record: StageRecord, run: RunRecord) -> ServedEnd:
    visits = zip(run.steps, record.began_s, record.ended_s, strict=True)
    times = [ended_s - began_s for (decodes, *_), began_s, ended_s in visits if decodes]
    return ServedEnd(timing_of(times[GROUPS * WARM_UP_ROUNDS :]), record.peak_bytes)


def _stage(format_name: str, task: Mapping[str, Any]) -> tuple[Stage, int]:
    """Return the stage of this end, and the bytes of its weights and its KV cache."""
    model = load_profiled(task["model"])
    target = find_target("cpu", task["threads"])
    dtype = DTYPES[task["dtype"]]
    conditions = Conditions(target, dtype, {task["model"]: model}, task["dense_from_tokens"])
    is_first = task["rank"] == FIRST
    cut = Cut(0, task["layers"], is_first=is_first, is_last=not is_first)
    built, settings = random_cut(model, cut, format_name, conditions)
    spec = model.spec
    context_tokens = task["prompt_tokens"] + task["rounds"]
    shape = (cut.layers, 2, GROUPS * task["rows"], spec.kv_heads, context_tokens, spec.head_dim)
    state = StageState(KvCache(torch.zeros(shape, dtype=dtype)))
    connect(built, state)
    tensors = [*built.model.parameters(), *built.model.buffers(), state.cache.stored]
    held_bytes = sum(tensor.nbytes for tensor in tensors if not tensor.is_meta)
    return Stage(cut, built.model, state, settings), held_bytes


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    os._exit(0)  # threads of gloo may outlive the interpreter and abort it
