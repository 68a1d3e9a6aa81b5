"""Profiled machine, as far as plans depend on it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, check_header
from llmpq_sim.core.formats import format_named

SCHEMA = "llmpq/machine"
VERSION = 1
TORCH_DEVICES = ("cpu", "cuda")
SUFFIX = ".machine.json"


@dataclass(frozen=True)
class Machine:
    """One device of a machine, by what its profiler found.

    Attributes:
        device: what the rows call it.
        torch_device: ``cpu`` or ``cuda``.
        processor: its full name.
        threads: CPU threads that computed; 1 or more.
        memory_bytes: what plans may use of its memory.
        memory_bytes_per_s: the fastest it was seen to read memory.
        flops_per_s: the fastest it was seen to multiply matrices at 16 bits.
        multiprocessors: of a GPU; of a CPU, its threads.
        l2_bytes: size of the last cache level.
        runtime_bytes: what the runtime takes beside tensors.
        formats: weight formats that it runs.
        torch_version: of the PyTorch that was timed.
    """

    device: str
    torch_device: str
    processor: str
    threads: int
    memory_bytes: int
    memory_bytes_per_s: float
    flops_per_s: float
    multiprocessors: int
    l2_bytes: int
    runtime_bytes: int
    formats: tuple[str, ...]
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


def machine_to_content(machine: Machine) -> dict[str, Any]:
    """Return the mapping that ``machine_from_fields`` reads."""
    content = asdict(machine) | {"formats": list(machine.formats)}
    return {"schema": SCHEMA, "version": VERSION, **content}


def machine_from_fields(fields: Fields) -> Machine:
    """Return the machine that a mapping describes.

    Raises:
        InputError: a fact is missing, unknown or cannot be.
    """
    with fields:
        check_header(fields, SCHEMA, VERSION)
        return Machine(
            device=fields.text("device"),
            torch_device=fields.choice("torch_device", TORCH_DEVICES),
            processor=fields.text("processor"),
            threads=fields.integer("threads"),
            memory_bytes=fields.integer("memory_bytes"),
            memory_bytes_per_s=fields.number("memory_bytes_per_s"),
            flops_per_s=fields.number("flops_per_s"),
            multiprocessors=fields.integer("multiprocessors"),
            l2_bytes=fields.integer("l2_bytes"),
            runtime_bytes=fields.integer("runtime_bytes"),
            formats=_formats(fields),
            torch_version=fields.text("torch_version"),
        )


def _formats(fields: Fields) -> tuple[str, ...]:
    names = fields.texts("formats")
    where = f"{fields.where}.formats"
    for name in names:
        format_named(name, where)
    if not names or len(set(names)) < len(names):
        raise InputError(f"{where}: expected distinct names, at least one, got {list(names)}")
    return names
