"""Facts of a profiled machine, kept beside its rows."""

from pathlib import Path

from llmpq_sim.core.fields import Fields
from llmpq_sim.core.machine import Machine, machine_from_fields, machine_path, machine_to_content
from llmpq_sim.io.files import read_json, write_json


def machine_beside(rows: Path) -> Machine | None:
    """Return the machine that a file of rows was measured on, or None where nothing says so.

    Raises:
        InputError: the file beside the rows is not one of ours.
    """
    path = machine_path(rows)
    if not path.exists():
        return None
    return machine_from_fields(Fields(read_json(path), path.name))


def write_machine(rows: Path, machine: Machine) -> Path:
    """Write a machine's facts beside a file of rows and return where.

    Raises:
        InputError: it cannot be written.
    """
    path = machine_path(rows)
    write_json(path, machine_to_content(machine))
    return path
