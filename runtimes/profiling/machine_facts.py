"""Facts of a machine: its peaks, and what a stage's process takes of it."""

from functools import partial

import torch

from llmpq_sim.core.errors import ExecutionError
from llmpq_sim.core.machine import Machine
from llmpq_sim.core.units import MIB
from runtimes.profiling.processor import Target
from runtimes.profiling.timing import Effort, measure, stopwatch_of
from runtimes.profiling.workers import answers, workers

WORKER = "runtimes.profiling.resident_worker"

STREAMED_CACHES = 4
"""Last-level caches that a streamed tensor fills, so that it comes from memory."""

LEAST_STREAMED_BYTES = 64 * MIB
MATRIX_WIDTHS = {"cpu": (256, 512, 1024), "cuda": (2048, 4096, 8192)}
"""Widths of square products among which the fastest is sought."""

TYPES = (torch.float32, torch.bfloat16, torch.float16)


def measured_machine(
    name: str, target: Target, formats: tuple[str, ...], effort: Effort
) -> Machine:
    """Return the facts of a device, its peaks measured on the spot.

    Args:
        name: what rows call it.
        target: the device.
        formats: that it runs.
        effort: how often and how long.

    Raises:
        ExecutionError: a stage's process cannot be started.
    """
    return Machine(
        device=name,
        torch_device=target.device.type,
        processor=target.processor,
        threads=target.threads,
        memory_bytes=target.memory_bytes,
        memory_bytes_per_s=streamed_bytes_per_s(target, effort),
        flops_per_s=dense_flops_per_s(target, effort),
        multiprocessors=target.multiprocessors,
        l2_bytes=target.cache_bytes,
        runtime_bytes=runtime_bytes(target),
        formats=formats,
        torch_version=torch_version(),
    )


def torch_version() -> str:
    """Return PyTorch's version without the name of its build."""
    return str(torch.__version__).partition("+")[0]


def streamed_bytes_per_s(target: Target, effort: Effort) -> float:
    """Return the fastest of reading and copying a tensor that no cache holds."""
    streamed_bytes = max(STREAMED_CACHES * target.cache_bytes, LEAST_STREAMED_BYTES)
    source = torch.ones(streamed_bytes // 4, dtype=torch.float32, device=target.device)
    copied = torch.empty_like(source)
    watch = stopwatch_of(target.device, target.threads)
    read = measure(source.sum, watch, effort)
    copy = measure(lambda: copied.copy_(source), watch, effort)
    return max(streamed_bytes / read.median_s, 2 * streamed_bytes / copy.median_s)


def dense_flops_per_s(target: Target, effort: Effort) -> float:
    """Return the fastest dense matrix product, in the fastest of the types of 16 and 32 bits."""
    widths = MATRIX_WIDTHS[target.device.type]
    by_type = {dtype: _product_flops_per_s(target, dtype, widths[0], effort) for dtype in TYPES}
    fastest = max(by_type, key=by_type.__getitem__)
    wider = (_product_flops_per_s(target, fastest, width, effort) for width in widths[1:])
    return max(by_type[fastest], *wider)


def _product_flops_per_s(target: Target, dtype: torch.dtype, width: int, effort: Effort) -> float:
    left = torch.ones(width, width, dtype=dtype, device=target.device)
    watch = stopwatch_of(target.device, target.threads)
    timing = measure(partial(torch.mm, left, torch.ones_like(left)), watch, effort)
    return 2 * width**3 / timing.median_s


def runtime_bytes(target: Target) -> int:
    """Return what a stage's process takes beside tensors.

    Raises:
        ExecutionError: it cannot be started, or GPU memory changed hands meanwhile.
    """
    is_gpu = target.device.type == "cuda"
    task = {
        "device": str(target.device),
        "threads": target.threads,
        "free_bytes": torch.cuda.mem_get_info(target.device)[0] if is_gpu else 0,
    }
    with workers(WORKER, [task]) as started:
        (taken,) = answers(started, 1, "starting a process like a stage's")
    if taken <= 0:
        raise ExecutionError(
            f"{target.device}: its free memory grew while a process started; others use it; "
            "profile it when it is idle"
        )
    return int(taken)
