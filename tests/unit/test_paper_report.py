"""Report on the paper: every result once, and the same text for the same results."""

import csv
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.paper.case_files import result_content
from llmpq_sim.paper.cases import Case
from llmpq_sim.paper.logged import LoggedPrediction
from llmpq_sim.paper.measurements import LOGGED_PLANS
from llmpq_sim.paper.methods import METHODS, judge_methods
from llmpq_sim.paper.report import (
    FIELDS,
    csv_text,
    markdown,
    reproduction_content,
    table,
)

LOGGED = [LoggedPrediction(LOGGED_PLANS[0], 49.625, 43.67)]
PLAN = {"stages": [{"device": "v100-32g-0", "layers": {"int4": 10, "int8": 30}}]}


def case(kernels: str, measured: float | None = None) -> list[dict[str, Any]]:
    return [
        {
            "cluster": 1,
            "workload": "main",
            "gamma": 0.8,
            "kernels": kernels,
            "method": method,
            "feasible": method != "uniform",
            "tokens_per_s": None if method == "uniform" else 10.0 + number,
            "quality_loss": 0.058,
            "solver_s": 1.5,
            "gap_fraction": 0.01 if method == "llmpq" else None,
            "measured_tokens_per_s": measured,
            "plan": PLAN,
        }
        for number, method in enumerate(METHODS)
    ]


RESULTS = case("gptq-2023", 10.0) + case("spec")


def test_a_table_has_a_line_of_dashes_under_its_headings() -> None:
    assert table(("a", "b"), [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_the_report_has_predictions_beside_measurements_and_errors() -> None:
    text = markdown(RESULTS, LOGGED)
    assert "| llm-pq-ilp | 39.70 | 43.67 | +10 % | 49.62 | +25 % |" in text
    assert "| 1 | pipeedge | 10.00 | 11.0 | +10 % |" in text
    assert "| 1 | uniform | 10.00 | - | - |" in text
    assert "| 1 (opt-13b) | - | 11.0 | 12.0 | 13.0 | 14.0 | 15.0 | 16.0 | 1.0 % |" in text


def test_conclusions_compare_both_kernel_sets_or_none() -> None:
    title = "## Which conclusions depend on the kernels"
    both = markdown(RESULTS, LOGGED)
    assert title in both
    assert "With spec, our plan is 1.25x as fast as the best baseline" in both
    assert "25 % of its layers have 4 bits or fewer" in both
    assert title not in markdown(case("spec"), LOGGED)


def test_the_report_does_not_depend_on_how_long_solvers_took() -> None:
    slower = [one | {"solver_s": 100.0} for one in RESULTS]
    assert markdown(slower, LOGGED) == markdown(RESULTS, LOGGED)


def test_the_csv_has_a_line_for_each_result() -> None:
    rows = list(csv.DictReader(StringIO(csv_text(RESULTS))))
    assert [row["method"] for row in rows] == [one["method"] for one in RESULTS]
    assert tuple(rows[0]) == FIELDS
    assert rows[0]["tokens_per_s"] == ""
    assert float(rows[1]["tokens_per_s"]) == 11.0


def test_the_content_has_results_rankings_and_logged_plans() -> None:
    content = reproduction_content(RESULTS, LOGGED)
    assert content["results"] == RESULTS
    assert content["rankings"] == [{"cluster": 1, "pairs": 0, "right": 0}]
    (logged,) = content["logged_plans"]
    assert logged["tokens_per_s_from_stage_costs"] == pytest.approx(43.67)


def test_the_page_shows_what_is_found_with_current_kernels() -> None:
    """Those of 2023 are compared through the command."""
    page = (Path(__file__).resolve().parents[2] / "docs/paper.md").read_text(encoding="utf-8")
    one = Case(1, "main", 0.8, "spec")
    text = markdown([result_content(one, judged) for judged in judge_methods(one)], [])
    rows = [line for line in text.splitlines() if line.startswith("| 1 ")]
    assert len(rows) == 2
    assert [row for row in rows if row not in page] == []
