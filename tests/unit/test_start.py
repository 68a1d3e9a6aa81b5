"""Tests of what commands import, for each second of a start is paid at every call."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.commands import LLMPQ

SLOW = {
    "deap", "scipy", "sklearn", "joblib", "distributed", "matplotlib", "pyarrow", "torch",
    "llmpq_sim.latency.fitting.fit", "llmpq_sim.search.planner", "llmpq_sim.search.online.planner",
    "llmpq_sim.search.genetic.evolution", "llmpq_sim.search.baselines.simple",
    "llmpq_sim.io.traces.loading", "llmpq_sim.io.measurements",
    "llmpq_sim.simulator.continuous.engine", "llmpq_sim.report.json_reports",
    "llmpq_sim.report.execution", "llmpq_sim.report.artifacts", "rich.progress",
}  # fmt: skip


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("start") / "plan.json"
    wanted = ["--model", "opt-1.3b", "--cluster", "t4-v100-a100", "--batch", "2"]
    command = [str(LLMPQ), "search", *wanted, "--prompt-tokens", "8", "--output-tokens", "2"]
    subprocess.run([*command, "--out", str(path)], check=True, capture_output=True)
    return path


@pytest.mark.parametrize("command", ["simulate", "verify"])
def test_looking_at_a_plan_imports_no_search_no_fit_and_no_trace(
    command: str, plan_file: Path
) -> None:
    code = (
        "import sys; from cli import run; code = run(sys.argv[1:]); "
        f"print(code, sorted({SLOW!r} & set(sys.modules)))"
    )
    arguments = [sys.executable, "-c", code, command, str(plan_file)]
    root = Path(__file__).parents[2]
    found = subprocess.run(arguments, cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "0 []"
