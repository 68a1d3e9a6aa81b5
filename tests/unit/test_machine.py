from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.machine import Machine, machine_path
from llmpq_sim.core.records import from_dict, to_dict
from llmpq_sim.io.profiles import machine_beside, write_machine
from tests.local_rows import local_machine


def read(**changes: Any) -> Machine:
    content = to_dict(local_machine()) | changes
    return from_dict(Machine, Fields(content, "rows.machine.json"))


def test_a_machine_survives_its_file_exactly(tmp_path: Path) -> None:
    rows, machine = tmp_path / "rows.csv", local_machine()
    assert machine_beside(rows) is None
    assert write_machine(rows, machine) == tmp_path / "rows.machine.json"
    assert machine_beside(rows) == machine
    assert machine_beside(tmp_path / "rows.csv.gz") == machine


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        ("rows.csv", "rows.machine.json"),
        ("rows.csv.gz", "rows.machine.json"),
        ("a.b/rows.v2.parquet", "a.b/rows.v2.machine.json"),
    ],
)
def test_the_file_is_named_after_the_rows(rows: str, name: str) -> None:
    assert machine_path(Path(rows)) == Path(name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"torch_device": "tpu"}, ".torch_device: expected one of cpu, cuda, got 'tpu'"),
        ({"threads": 0}, ".threads: expected a whole number of at least 1, got 0"),
        ({"formats": []}, ".formats: expected distinct names, at least one, got []"),
        (
            {"formats": ["int7"]},
            f".formats: expected a weight format ({', '.join(FORMATS)}), got 'int7'",
        ),
        (
            {"formats": ["int8", "int8"]},
            ".formats: expected distinct names, at least one, got ['int8', 'int8']",
        ),
        (
            {"version": 2},
            ".version: expected 1, got 2; the file was written by another version of llmpq",
        ),
    ],
)
def test_a_bad_machine_says_what_and_where(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        read(**changes)
    assert str(caught.value) == f"rows.machine.json{said}"


def test_an_unknown_fact_is_refused() -> None:
    with pytest.raises(InputError, match=r"^rows\.machine\.json: unknown keys \['cores'\]"):
        read(cores=4)


def test_its_figures_are_sustained_ones_as_a_device() -> None:
    machine = local_machine()
    device = machine.as_device("slow-core", ("bf16", "int4"), "torch-2.13")
    assert (device.name, device.formats, device.kernels) == (
        "slow-core", ("bf16", "int4"), ("torch-2.13",),
    )  # fmt: skip
    assert (device.compute_fraction, device.memory_fraction) == (1.0, 1.0)
    assert device.runtime_bytes == machine.runtime_bytes
    assert device.memory_bytes == machine.memory_bytes
    assert device.source == "measured on made up with PyTorch 2.13.0"
    assert replace(machine, threads=2).as_device("a", ("bf16",), "spec").multiprocessors == 1
