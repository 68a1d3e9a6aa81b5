"""Profiled machine, as far as plans depend on it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, one_of
from llmpq_sim.core.formats import format_named
from llmpq_sim.core.records import Codec, Header

SUFFIX = ".machine.json"


def _formats(fields: Fields, key: str) -> tuple[str, ...]:
    names, where = fields.texts(key), f"{fields.where}.{key}"
    for name in names:
        format_named(name, where)
    if not names or len(set(names)) < len(names):
        raise InputError(f"{where}: expected distinct names, at least one, got {list(names)}")
    return names


@dataclass(frozen=True)
class Machine:
    """One device of a machine, by what its profiler found.

    Attributes:
        device: what the rows call it.
        processor: its full name.
        memory_bytes: what plans may use of its memory.
        memory_bytes_per_s: the fastest it was seen to read memory.
        flops_per_s: the fastest it was seen to multiply matrices at 16 bits.
        multiprocessors: of a GPU; of a CPU, its threads.
        runtime_bytes: what the runtime takes beside tensors.
    """

    header: ClassVar = Header("llmpq/machine", 1)

    device: str
    torch_device: Annotated[str, one_of(("cpu", "cuda"))]
    processor: str
    threads: int
    memory_bytes: int
    memory_bytes_per_s: float
    flops_per_s: float
    multiprocessors: int
    l2_bytes: int
    runtime_bytes: int
    formats: Annotated[tuple[str, ...], Codec(_formats, list)]
    torch_version: str

    def as_device(self, name: str, formats: tuple[str, ...], kernels: str) -> Device:
        """Return the kind of device it is; its figures are sustained ones already.

        Args:
            name: of the kind.
            formats: those it may be given.
            kernels: the kernel set that was timed on it.
        """
        return Device(
            name=name,
            memory_bytes=self.memory_bytes,
            memory_bytes_per_s=self.memory_bytes_per_s,
            flops_per_s=self.flops_per_s,
            multiprocessors=self.multiprocessors,
            l2_bytes=self.l2_bytes,
            compute_fraction=1.0,
            memory_fraction=1.0,
            formats=formats,
            kernels=(kernels,),
            source=f"measured on {self.processor} with PyTorch {self.torch_version}",
            runtime_bytes=self.runtime_bytes,
        )


def machine_path(rows: Path) -> Path:
    """Return where the machine's facts are kept: ``rows.machine.json`` beside ``rows.csv``."""
    plain = rows.with_suffix("") if rows.suffix == ".gz" else rows
    return plain.with_suffix(SUFFIX)
