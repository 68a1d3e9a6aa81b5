"""Run of the paper: cases and sweeps of theta in order, told of, and kept in place."""

from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.paper import reproduction
from llmpq_sim.paper.cases import Case
from llmpq_sim.paper.evolution import MIXES, Mix
from llmpq_sim.paper.reproduction import ablate_cases

CASES = [Case(number, "main", 0.8, "spec") for number in (1, 2)]


def test_ablations_and_thetas_of_each_case_are_told_and_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(kind: str, case: Case | Mix, folder: Path) -> list[dict[str, Any]]:
        return [{"found": f"{kind} {case.cluster}", "folder": folder}]

    monkeypatch.setattr(reproduction, "results_of", named)
    steps: list[str] = []
    found = ablate_cases(CASES, MIXES[:3], tmp_path / "out", 1, steps.append)
    assert [one["found"] for one in found] == [
        "ablations 1", "evolutions 1", "thetas 1", "ablations 2", "evolutions 2", "thetas 2",
        "evolutions a100-l40s", "evolutions h200-l40s", "evolutions l4-a10g", "on-traces l4-a10g",
    ]  # fmt: skip
    kinds = ["ablations", "evolutions", "thetas"] * 2 + ["evolutions"] * 3 + ["on-traces"]
    assert [one["folder"].name for one in found] == kinds
    assert all(one["folder"].is_dir() for one in found)
    assert steps[0] == "planning: 0 of 10 done"
    assert steps[3] == "planning: 3 of 10 done, last thetas of paper-1.main.0.8.spec"
    assert len(steps) == 11
