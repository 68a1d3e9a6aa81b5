"""Two processes as the ends of a pipeline, the first of which knows what both did."""

from time import perf_counter

import torch

from llmpq_sim.core.plan import MicroBatching
from runtimes.base import TokenRequest, ignore_completion
from runtimes.torch_pipeline.engine.pipeline import Computes, Member, follow, lead
from runtimes.torch_pipeline.engine.records import RunRecord, StageRecord
from runtimes.torch_pipeline.engine.static_schedule import StaticSchedule
from runtimes.torch_pipeline.engine.transport import REPORT, DistributedTransport
from runtimes.torch_pipeline.processes.heartbeat import HeartbeatRecord
from runtimes.torch_pipeline.processes.host_memory import PeakMemory

FIRST, LAST = 0, 1

BothEnds = tuple[RunRecord, StageRecord, StageRecord]
"""The run, and what the first and the last end wrote down."""


def serve_as_end(
    stage: Computes,
    rank: int,
    requests: tuple[TokenRequest, ...],
    batching: MicroBatching,
    memory: PeakMemory | None = None,
    held_bytes: int = 0,
) -> BothEnds | None:
    """Serve requests with the other end; return what both did at the first, nothing at the last.

    Args:
        stage: what this end computes.
        rank: FIRST or LAST.
        requests: in batches of all rows in flight.
        batching: micro-batches, all groups in flight.
        memory: already counting; its peak is written down. None to leave it out.
        held_bytes: what the peak is to leave out.
    """
    transport = DistributedTransport(stage.device, is_staged=False)
    record = StageRecord()
    member = Member(stage, rank, 2, requests, transport, HeartbeatRecord(), record)
    run = RunRecord(perf_counter(), 0.0)
    if rank == LAST:
        follow(member)
    else:
        batch = batching.decode * batching.groups_in_flight
        lead(member, StaticSchedule(requests, batch, batching), None, run, ignore_completion)
    if memory is not None:
        record.peak_bytes = memory.stop() - held_bytes
    if rank == LAST:
        transport.send(torch.tensor(record.numbers(), dtype=torch.float64), FIRST, REPORT)
        transport.flush()
        return None
    transport.flush()
    numbers = transport.receive((2 * len(run.steps) + 1,), torch.float64, LAST, REPORT)
    return run, record, StageRecord.of(numbers.tolist(), 0.0)
