"""The paper's evaluation through the installed command: results, report, plots, resumption."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.paper.methods import METHODS
from tests.e2e.commands import called, llmpq

ROOT = Path(__file__).resolve().parents[2]
ONE = ("reproduce", "--cluster", "1", "--workload", "main", "--kernels", "gptq-2023")
CASE = Path("out/cases/paper-1.main.0.8.gptq-2023.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reproduce")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    done = llmpq(*ONE, "--out", "out", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert isinstance(loaded, dict)
    return loaded


def test_each_method_has_a_result_with_every_field_asked_for(found: dict[str, Any]) -> None:
    assert found["schema"] == "llmpq/reproduction"
    assert [one["method"] for one in found["results"]] == list(METHODS)
    for one in found["results"]:
        assert {
            "cluster", "workload", "gamma", "kernels", "method", "feasible", "tokens_per_s",
            "quality_loss", "solver_s", "gap_fraction", "measured_tokens_per_s", "memory_bytes",
        } <= set(one)  # fmt: skip
        assert (one["cluster"], one["workload"], one["gamma"]) == (1, "main", 0.8)
        assert one["feasible"]


def test_on_one_v100_measured_plans_are_met(found: dict[str, Any]) -> None:
    """4 bits everywhere and 8 bits nearly everywhere, as logged: the kernels of 2023 by physics."""
    rates = {one["method"]: one for one in found["results"]}
    for method in ("uniform", "pipeedge", "llm-pq-ilp"):
        one = rates[method]
        assert one["tokens_per_s"] == pytest.approx(one["measured_tokens_per_s"], rel=0.05)
    assert rates["adabits"]["measured_tokens_per_s"] == 25.78
    (ranking,) = found["rankings"]
    assert ranking == {"cluster": 1, "pairs": 5, "right": 4}  # adabits is as fast as LLM-PQ here


def test_our_search_is_at_least_as_fast_and_certified(found: dict[str, Any]) -> None:
    rates = {one["method"]: one for one in found["results"]}
    ours = rates["llmpq"]
    assert ours["tokens_per_s"] >= rates["llm-pq-ilp"]["tokens_per_s"]
    assert 0 <= ours["gap_fraction"] <= 0.02


def test_a_run_is_taken_up_again_with_the_same_bytes(folder: Path, found: dict[str, Any]) -> None:
    out = folder / "out"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert folder / CASE in before
    assert {path.name for path in out.iterdir()} == {
        "cases", "cluster-1.svg", "report.md", "results.csv", "results.json",
    }  # fmt: skip
    again = llmpq(*ONE, "--out", "out", "--json", cwd=folder)
    assert json.loads(again.stdout) == found  # times of solvers too: nothing was solved again
    assert {path: path.read_bytes() for path in before} == before


def test_the_report_is_the_same_from_scratch(folder: Path, found: dict[str, Any]) -> None:
    fresh = llmpq(*ONE, "--md", cwd=folder)
    report = (folder / "out" / "report.md").read_text(encoding="utf-8")
    assert report.startswith(fresh.stdout)
    assert "| 1 | pipeedge | 11.78 | 11.6 | -1 % |" in fresh.stdout


def test_the_page_of_the_evaluation_shows_these_results(
    folder: Path, found: dict[str, Any]
) -> None:
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    shown = llmpq(*ONE, "--out", "out", "--md", cwd=folder).stdout.splitlines()
    rows = [line for line in shown if line.startswith(("| 1 ", "| llm-pq-ilp |", "| adabits |"))]
    assert len(rows) == 8
    assert [row for row in rows if row not in page] == []


def test_a_case_of_other_inputs_is_made_again(folder: Path, found: dict[str, Any]) -> None:
    path = folder / CASE
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"sha256": "0", "results": []}), encoding="utf-8")
    done = llmpq(*ONE, "--out", "out", "--csv", cwd=folder)
    assert len(done.stdout.splitlines()) == 1 + len(METHODS)
    assert json.loads(path.read_text(encoding="utf-8"))["sha256"] == content["sha256"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--json", "--csv"), "--json, --csv, --md: expected one of them, got several"),
        (("--gamma", "2"), "--gamma: expected a share from 0.02 to 1, got 2"),
        (("--out", "file"), "cannot make the folder file/cases"),
    ],
    ids=["two-outputs", "gamma", "out"],
)
def test_bad_input_is_one_message(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = called(*ONE, *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")


def test_ablations_are_kept_and_taken_up_again_with_the_same_bytes(folder: Path) -> None:
    done = llmpq(*ONE, "--ablations", "--out", "left", "--md", cwd=folder)
    assert done.returncode == 0, done.stderr
    out = folder / "left"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {path.relative_to(out).as_posix() for path in before} == {
        f"ablations/{CASE.name}",
        f"evolutions/{CASE.name}",
        f"thetas/{CASE.name}",
        *(f"ablations.{kind}" for kind in ("csv", "json", "md", "svg")),
    }
    assert before[out / "ablations.md"].decode().startswith(done.stdout)
    content = json.loads(before[out / "ablations.json"])
    rates = {one["ablation"]: one["tokens_per_s"] for one in content["results"]}
    assert rates["llmpq"] >= max(rates.values()) * 0.999
    (out / "thetas" / CASE.name).unlink()
    again = llmpq(*ONE, "--ablations", "--out", "left", "--json", cwd=folder)
    assert json.loads(again.stdout) == content
    assert {path: path.read_bytes() for path in before} == before


def test_ablations_are_printed_as_csv_too(folder: Path) -> None:
    lines = llmpq(*ONE, "--ablations", "--out", "left", "--csv", cwd=folder).stdout
    assert lines == (folder / "left" / "ablations.csv").read_text(encoding="utf-8")
