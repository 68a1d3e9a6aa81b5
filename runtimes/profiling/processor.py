"""Processor: its name and features, and pinning of a profile to a part of it."""

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.units import KIB, MIB
from runtimes.torch_pipeline.weights.kernels import device_named

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNKNOWN_CACHE_BYTES = 64 * MIB
"""Where the system does not tell: as large as those of most servers, and too large only takes
memory for more copies."""

MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True)
class Target:
    """The device that is profiled.

    Attributes:
        device: as PyTorch calls it.
        threads: of the CPU, which also queue the kernels of a GPU.
        cores: of the CPU to which the threads are pinned; empty where that cannot be done.
        all_cores: those among which the stages of this machine are spread.
        cache_bytes: size of the last cache level.
        processor: full name.
        memory_bytes: of the device.
        multiprocessors: of a GPU; of a CPU, the threads.
    """

    device: torch.device
    threads: int
    cores: tuple[int, ...]
    all_cores: tuple[int, ...]
    cache_bytes: int
    processor: str
    memory_bytes: int
    multiprocessors: int

    @property
    def default_name(self) -> str:
        """What rows call the device unless the user names it."""
        plain = re.sub(r"[^a-z0-9]+", "-", self.processor.lower()).strip("-")
        return f"{plain}-{self.threads}t" if self.device.type == "cpu" else plain

    def free_bytes(self) -> int:
        """Return the memory that nobody uses right now."""
        if self.device.type == "cuda":
            free_bytes: int = torch.cuda.mem_get_info(self.device)[0]
            return free_bytes
        return min(_pages("SC_AVPHYS_PAGES"), self.memory_bytes)


def find_target(device: str, threads: int | None) -> Target:
    """Return what a device and a number of threads mean on this machine.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: None for all cores that this process may use.

    Raises:
        InputError: there is no such device, or there are not so many cores.
    """
    kind = _device(device)
    cores = usable_cores()
    most = len(cores) or os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= most:
        raise InputError(
            f"--threads: expected 1 to {most}, the cores of this process, got {threads}"
        )
    threads = threads or most
    if kind.type == "cpu":
        return Target(
            device=kind,
            threads=threads,
            cores=cores[:threads],
            all_cores=cores,
            cache_bytes=cpu_cache_bytes(),
            processor=cpu_name(),
            memory_bytes=cpu_memory_bytes(),
            multiprocessors=threads,
        )
    facts = torch.cuda.get_device_properties(kind)
    return Target(
        device=kind,
        threads=threads,
        cores=cores[:threads],
        all_cores=cores,
        cache_bytes=facts.L2_cache_size,
        processor=facts.name,
        memory_bytes=facts.total_memory,
        multiprocessors=facts.multi_processor_count,
    )


def _device(name: str) -> torch.device:
    device = device_named(name, "--device")
    if device.type == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(
            f"--device: expected a device of this machine, got {name!r}, but this PyTorch "
            f"({torch.__version__}) finds no CUDA device; give --device cpu, or install a PyTorch "
            "with CUDA and its driver"
        )
    count, index = torch.cuda.device_count(), device.index or 0
    if index >= count:
        raise InputError(f"--device: expected cuda:0 to cuda:{count - 1}, got {name!r}")
    return torch.device("cuda", index)


def usable_cores() -> tuple[int, ...]:
    """Return the cores that this process may use; none where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    return tuple(sorted(os.sched_getaffinity(0)))


def stage_cores(cores: tuple[int, ...], stage: int, threads: int) -> tuple[int, ...]:
    """Return the cores of one of several stages, which share cores only where these run out."""
    if not cores:
        return ()
    return tuple(sorted({cores[(stage * threads + i) % len(cores)] for i in range(threads)}))


@contextmanager
def pinned(target: Target) -> Iterator[None]:
    """Run on a target's cores with its number of threads, and as before afterwards."""
    before, threads = usable_cores(), torch.get_num_threads()
    if target.cores:
        os.sched_setaffinity(0, target.cores)
    torch.set_num_threads(target.threads)
    try:
        yield
    finally:
        if before:
            os.sched_setaffinity(0, before)
        torch.set_num_threads(threads)


# ---- facts of the CPU


def cpu_name() -> str:
    """Return the name that the processor gives itself."""
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", listed.read_text(encoding="utf-8"), re.M)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine() or "cpu"


def cpu_memory_bytes() -> int:
    """Return the memory of the machine, or of the container where that is less."""
    limits = [_pages("SC_PHYS_PAGES")]
    for path in MEMORY_LIMITS:
        text = path.read_text(encoding="utf-8").strip() if path.exists() else ""
        if text.isdecimal():
            limits.append(int(text))
    return min(limits)


def cpu_cache_bytes() -> int:
    """Return the size of the last cache level."""
    sizes = [_cache_size(path) for path in sorted(CACHES.glob("index*/size"))]
    return max(sizes, default=UNKNOWN_CACHE_BYTES)


def _cache_size(path: Path) -> int:
    units = {"": 1, "K": KIB, "M": MIB}
    found = re.fullmatch(r"(\d+)([KM]?)", path.read_text(encoding="utf-8").strip())
    return int(found[1]) * units[found[2]] if found else 0


def _pages(name: str) -> int:
    return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
