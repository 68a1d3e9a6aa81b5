"""Profile files: own rows with the machine's facts beside them, bundled ones as they are."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.records import to_dict
from llmpq_sim.io.devices import load_devices
from llmpq_sim.io.models import load_model
from llmpq_sim.io.profiles import fit_measurements, load_profile, write_machine
from llmpq_sim.io.resources import bundled_dir
from tests.local_rows import Laws, local_machine, local_rows

SPEC = load_model("llama-160m")
BUNDLED = sorted((bundled_dir("cluster_profiles") / "profiles").glob("*.json"))


def written(folder: Path) -> Path:
    """Return a file of a few own rows, written as a profiler does."""
    rows: list[dict[str, Any]] = [
        row for row in local_rows(SPEC, Laws(), ("bf16",), (1, 8, 64)) if row["op"] != "attention"
    ]
    columns = dict.fromkeys(name for row in rows for name in row)
    path = folder / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(columns), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def silently(_: str) -> None:
    """Report no progress."""


def test_rows_with_a_machine_beside_them_are_fitted_under_any_name(tmp_path: Path) -> None:
    path = written(tmp_path)
    write_machine(path, local_machine())
    report = fit_measurements([path], "slow-core", None, 0, silently)
    profile = report.profile
    assert (profile.device, profile.kernels) == ("slow-core", "torch-2.13")
    assert profile.machine == local_machine()
    assert profile.link is not None
    assert profile.step_overhead_s == pytest.approx(150e-6)
    assert {error.op for error in report.errors} == {"gemm", "layer", "head"}


def test_a_model_of_the_users_own_is_told_or_found(tmp_path: Path) -> None:
    path = written(tmp_path)
    text = path.read_text(encoding="utf-8").replace(SPEC.name, "mine")
    path.write_text(text, encoding="utf-8")
    write_machine(path, local_machine())
    with pytest.raises(InputError, match="expected the name of a model, got 'mine'"):
        fit_measurements([path], "core", None, 0, silently)
    own = [replace(SPEC, name="mine")]
    assert fit_measurements([path], "core", None, 0, silently, own).profile.layer_overhead_s > 0


def test_without_a_machine_the_device_must_be_a_bundled_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--device: expected a bundled device"):
        fit_measurements([written(tmp_path)], "slow-core", None, 0, silently)


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.name)
def test_a_bundled_profile_is_written_as_it_was(path: Path) -> None:
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert to_dict(load_profile(path)) == stored


def test_bundled_devices_are_kept_in_plans_as_before() -> None:
    for name, device in load_devices().items():
        assert ("runtime_bytes" in to_dict(device)) == (name == "cpu")
