"""Host memory of a process, and its limit."""

import os
import resource
import threading

import psutil
import torch


def own_bytes() -> int:
    """Return the memory of this process that is its own: resident, and shared with no other.

    Where the system does not tell them apart, pages of files count as well.
    """
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def data_bytes() -> int:
    """Return the size of the data segment, touched or not; 0 where the system does not tell."""
    return int(getattr(psutil.Process().memory_info(), "data", 0))


class PeakMemory:
    """The most memory that this process takes: on a GPU as the driver counts, else of its own.

    Pages of files are not counted: all processes share them, and the system takes them back. The
    kernel keeps no peak without them, so a thread looks now and then; what an allocator has
    obtained it gives back late, so little is missed.
    """

    def __init__(self, device: torch.device, interval_s: float = 0.05) -> None:
        self._device = device
        self._interval_s = interval_s
        self._most_bytes = 0
        self._stopped = threading.Event()

    def start(self) -> None:
        """Count from now on."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        threading.Thread(target=self._look, daemon=True).start()

    def stop(self) -> int:
        """Return the most bytes since the start, and look no more."""
        self._stopped.set()
        if self._device.type != "cuda":
            return max(self._most_bytes, own_bytes())
        free, total = torch.cuda.mem_get_info(self._device)
        beside = total - free - torch.cuda.memory_reserved(self._device)
        return beside + torch.cuda.max_memory_reserved(self._device)

    def _look(self) -> None:
        while not self._stopped.wait(self._interval_s):
            self._most_bytes = max(self._most_bytes, own_bytes())


def limit_memory(device: torch.device, limit_bytes: int) -> None:
    """Let no allocation succeed by which this process would take more than a limit.

    On a CPU the limit is one of the data segment, which also counts memory that was reserved and
    never touched; what is reserved so at the start is allowed on top.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), device)
        return
    untouched = max(0, data_bytes() - own_bytes())
    limit = limit_bytes + untouched
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def pin(cores: tuple[int, ...]) -> None:
    """Let this process compute on some cores only, with a thread on each."""
    if cores:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
        torch.set_num_threads(len(cores))
