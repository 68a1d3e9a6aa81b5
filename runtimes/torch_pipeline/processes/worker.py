"""Worker process of a stage, from its start to its end.

It loads its layers, meets the other stages, serves, and reports what it measured.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import torch
import torch.distributed as dist
import transformers

from llmpq_sim.io.termination import Termination, interrupted_by_sigterm
from runtimes.base import Completion
from runtimes.torch_pipeline.engine.architecture import Shard
from runtimes.torch_pipeline.engine.cache_shapes import CacheShape
from runtimes.torch_pipeline.engine.clocks import clocks_ahead_s
from runtimes.torch_pipeline.engine.continuous_schedule import ContinuousSchedule
from runtimes.torch_pipeline.engine.cuda_graphs import CudaRecorder
from runtimes.torch_pipeline.engine.pipeline import Member, follow, lead
from runtimes.torch_pipeline.engine.records import RunRecord, StageRecord, write_records
from runtimes.torch_pipeline.engine.sequences import Schedule
from runtimes.torch_pipeline.engine.stage import Stage, load_stage
from runtimes.torch_pipeline.engine.static_schedule import StaticSchedule
from runtimes.torch_pipeline.engine.transport import REPORT, join_stages
from runtimes.torch_pipeline.engine.warm_up import warm_up
from runtimes.torch_pipeline.processes.failures import failure_of, write_failure
from runtimes.torch_pipeline.processes.heartbeat import PHASES, Heartbeat
from runtimes.torch_pipeline.processes.host_memory import PeakMemory, limit_memory, pin
from runtimes.torch_pipeline.processes.job_spec import JobSpec, read_job
from runtimes.torch_pipeline.processes.meeting import meeting_store
from runtimes.torch_pipeline.processes.worker_files import (
    FINISHED_FILE,
    MEASURED_FILE,
    PRIVATE_MODE,
    private,
)
from runtimes.torch_pipeline.weights.linear import KernelChoice
from runtimes.torch_pipeline.weights.loading import DTYPES, WeightSettings

logger = logging.getLogger(__name__)


def main(folder: Path, address: str = "", listener: str = "") -> None:
    """Run one stage of the job in a folder; never returns, the process ends here.

    Args:
        folder: of the run.
        address: where the stages of all machines meet; empty where they are on this one.
        listener: file descriptor of the socket that listens there, for the first stage.
    """
    number = int(os.environ["RANK"])
    heartbeat = Heartbeat(folder, number)
    heartbeat.start()
    try:
        job = read_job(folder)
        meeting = int(listener) if listener else None
        store = meeting_store(folder, len(job.stages), address, meeting)
        _serve(job, number, folder, heartbeat, store)
    except Termination:  # the launcher ends the run, and knows why
        _leave(Termination.exit_code)
    except BaseException as error:  # whatever it is, the launcher must learn why
        write_failure(folder, number, failure_of(error, PHASES[min(heartbeat.record.phase, 2)]))
        logger.exception("stage %s failed", number)
        _leave(1)
    heartbeat.record.phase = PHASES.index("done")
    heartbeat.stop()
    _leave(0)


def _leave(code: int) -> None:
    """End the process without the interpreter's shutdown.

    There, a thread of gloo's may destroy a tensor when Python is gone, and abort a process whose
    work is done (seen in 7 of 45 runs with torch 2.13; in none of 45 with this).
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve(
    job: JobSpec, number: int, folder: Path, heartbeat: Heartbeat, store: dist.Store
) -> None:
    begin_s = perf_counter()
    device = _prepared_device(job, number)
    transport = join_stages([stage.device for stage in job.stages], device, store, number)
    heartbeat.record.phase = PHASES.index("loading")
    with interrupted_by_sigterm():  # half a file of the weight cache is removed
        stage = _load(job, number)
    warm_up(stage, job)
    memory = PeakMemory(device)
    memory.start()
    ahead_s = clocks_ahead_s()
    dist.barrier()
    heartbeat.record.phase = PHASES.index("serving")
    record = StageRecord()
    member = Member(
        stage, number, len(job.stages), job.requests, transport, heartbeat.record, record
    )
    if number:
        follow(member)
        record.peak_bytes = memory.stop()
        transport.send(torch.tensor(record.numbers(), dtype=torch.float64), 0, REPORT)
    else:
        run = RunRecord(perf_counter(), perf_counter() - begin_s)
        run.let_in(job.concurrency or 0, run.start_s)
        with _finished_file(folder) as on_completion:
            lead(member, _schedule(job), _most_in_flight(job), run, on_completion)
        record.peak_bytes = memory.stop()
        _report(folder, member, run, ahead_s)
    transport.flush()
    dist.barrier()
    dist.destroy_process_group()


def _prepared_device(job: JobSpec, number: int) -> torch.device:
    """Return the device of a stage, with this process kept to its cores and its memory."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    spec = job.stages[number]
    device = torch.device(spec.device)
    pin(spec.cores)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if spec.memory_limit_bytes is not None:
        limit_memory(device, spec.memory_limit_bytes)
    return device


def _load(job: JobSpec, number: int) -> Stage:
    spec = job.stages[number]
    shard = Shard(spec.first_layer, len(spec.formats), number == 0, number == len(job.stages) - 1)
    choice = (
        KernelChoice.dense_only() if spec.is_dense_only else KernelChoice(spec.dense_from_tokens)
    )
    settings = WeightSettings(
        spec.formats,
        DTYPES[job.dtype],
        torch.device(spec.device),
        choice,
        job.weight_cache,
        job.quantizers,
    )
    cache = CacheShape(job.cache_rows, job.cache_context_tokens)
    recorder = CudaRecorder() if spec.device != "cpu" and job.uses_cuda_graphs else None
    return load_stage(
        job.model_dir, shard, settings, cache, recorder=recorder, is_invariant=job.batch_invariant
    )


def _schedule(job: JobSpec) -> Schedule:
    if job.settings is None:
        return StaticSchedule(job.requests, job.batch, job.micro_batching)
    return ContinuousSchedule(job.requests, job.settings, job.cache_rows, job.concurrency)


def _most_in_flight(job: JobSpec) -> int | None:
    return None if job.settings is None else job.settings.most_in_flight(len(job.stages))


@contextmanager
def _finished_file(folder: Path) -> Iterator[Callable[[Completion], None]]:
    """Give a function that tells the launcher of finished requests, a line each."""
    with open(folder / FINISHED_FILE, "a", encoding="utf-8", opener=private) as stream:

        def tell(served: Completion) -> None:
            line = {"request": served.request, "ended_by": served.ended_by, "tokens": served.tokens}
            stream.write(json.dumps(line) + "\n")
            stream.flush()

        yield tell


def _report(folder: Path, member: Member, run: RunRecord, ahead_s: list[float]) -> None:
    """Write down what all stages measured."""
    records = [member.record]
    count = (2 * len(run.steps) + 1,)
    for stage in range(1, member.stages):
        numbers = member.transport.receive(count, torch.float64, stage, REPORT)
        records.append(StageRecord.of(numbers.tolist(), ahead_s[stage]))
    write_records(folder / MEASURED_FILE, run, records)
    (folder / MEASURED_FILE).chmod(PRIVATE_MODE)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
