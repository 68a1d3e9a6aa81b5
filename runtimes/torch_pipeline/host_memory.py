"""How much memory does this process take, and how is it kept within a limit?"""

import os
import resource
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CLEAR_PEAK = Path("/proc/self/clear_refs")


def resident_bytes(field: str = "VmRSS") -> int:
    """Return a figure of the kernel's about this process, such as ``VmHWM``, the peak.

    Where the system keeps no such file, the largest resident size so far.
    """
    if STATUS.exists():
        for line in STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak(device: torch.device) -> None:
    """Let the peak count from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif CLEAR_PEAK.exists():
        CLEAR_PEAK.write_text("5", encoding="ascii")


def peak_bytes(device: torch.device) -> int:
    """Return the most memory taken since ``forget_peak``: of a GPU, what the driver counts.

    On a GPU that is the peak of what the allocator reserved and what the context takes beside it;
    of a processor's memory, what is not pages of files, which all processes share.
    """
    if device.type != "cuda":
        if not STATUS.exists():
            return resident_bytes()
        return resident_bytes("VmHWM") - resident_bytes("RssFile") - resident_bytes("RssShmem")
    free, total = torch.cuda.mem_get_info(device)
    beside = total - free - torch.cuda.memory_reserved(device)
    return beside + torch.cuda.max_memory_reserved(device)


def limit_memory(device: torch.device, limit_bytes: int) -> None:
    """Let no allocation succeed by which this process would take more than a limit.

    On a CPU the limit is one of the data segment, which also counts memory that was reserved and
    never touched; what is reserved so at the start is allowed on top.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), device)
        return
    untouched = max(0, resident_bytes("VmData") - resident_bytes("RssAnon"))
    limit = limit_bytes + untouched
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def pin(cores: tuple[int, ...]) -> None:
    """Let this process compute on some cores only, with a thread on each."""
    if cores:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
        torch.set_num_threads(len(cores))
