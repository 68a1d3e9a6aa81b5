"""Report on ablations: shares, runs of thetas and fronts."""

import csv
from io import StringIO
from pathlib import Path
from typing import Any

from llmpq_sim.paper.ablation_report import (
    FIELDS,
    ablations_content,
    ablations_csv,
    ablations_markdown,
    shares,
)
from llmpq_sim.paper.ablations import ABLATIONS, GROUP_LAYERS
from llmpq_sim.paper.evolution import EVOLUTION, ON_TRACE
from llmpq_sim.paper.theta import FRONT, TARGET, THETAS_MS, WEIGHT

ROOT = Path(__file__).resolve().parents[2]


def result(
    ablation: str, rate: float | None, loss: float | None = 0.01, **changes: Any
) -> dict[str, Any]:
    content = {
        "cluster": 1,
        "workload": "main",
        "gamma": 0.8,
        "kernels": "spec",
        "ablation": ablation,
        "theta_ms": None,
        "tokens_per_s": rate,
        "quality_loss": loss,
        "goodput_per_s": None,
        "plan": {"of": rate},
    }
    return content | changes


def thetas(rates: list[float | None], to_target: float) -> list[dict[str, Any]]:
    """Return results whose plan by theta does as given, and whose target is met at one rate."""
    return [
        one
        for theta_ms, rate in zip(THETAS_MS, rates, strict=True)
        for one in (
            result(WEIGHT, rate, theta_ms=theta_ms),
            result(TARGET, to_target, 0.001, theta_ms=theta_ms),
        )
    ]


RESULTS = [
    *(result(name, rate) for name, rate in zip(ABLATIONS, (50.0, 25.0, None, 51.0), strict=True)),
    *(result(name, rate) for name, rate in zip(GROUP_LAYERS, (40.0, 40.0, 30.0), strict=True)),
    *(result(name, rate) for name, rate in zip(EVOLUTION[1:], (49.5, 30.0), strict=True)),
    *thetas([20.0] * 3 + [None] + [10.0] * 4, 40.0),
    *(result(FRONT, *point) for point in ((10.0, 0.0), (12.0, 0.5), (20.0, 0.6), (None, None))),
]


def test_shares_are_of_the_whole_planner_or_of_the_program() -> None:
    text = ablations_markdown(RESULTS)
    assert "| 1 (spec, main) | 50.0 | 25.0 (50 %) | - | 51.0 (102 %) |" in text
    assert "| 1 (spec, main) | 40.0 | 40.0 (100 %) | 30.0 (75 %) |" in text
    assert shares(RESULTS, ABLATIONS) == [0.5, None, 1.02]


def test_the_genetic_search_has_a_table_and_one_for_a_trace_where_it_was_tried() -> None:
    assert "| 1 (spec, main) | 50.0 | 49.5 (99 %) | 30.0 (60 %) |" in ablations_markdown(RESULTS)
    assert "on a trace" not in ablations_markdown(RESULTS)
    of_mix = [
        *(result(name, 10.0, cluster="mix", kernels="bundled") for name in EVOLUTION),
        *(
            result(name, 9.0, cluster="mix", goodput_per_s=rate)
            for name, rate in zip(ON_TRACE, (0.8, 0.7, 0.5), strict=True)
        ),
    ]
    text = ablations_markdown([*RESULTS, *of_mix])
    assert "| mix (bundled, main) | 10.0 | 10.0 (100 %) | 10.0 (100 %) |" in text
    assert "| mix | 0.8 | 0.7 | 0.5 |" in text


def test_thetas_whose_plans_do_the_same_share_a_row() -> None:
    text = ablations_markdown(RESULTS)
    assert "| 1 (spec, main) | 10^0 to 10^2 | 20.0 | 0.0100 | 40.0 | 0.0010 | +100 % |" in text
    assert "| 1 (spec, main) | 10^3 | - | 0.0100 | 40.0 | 0.0010 | - |" in text
    assert "| 1 (spec, main) | 10^4 to 10^7 | 10.0 | 0.0100 | 40.0 | 0.0010 | +300 % |" in text
    assert "8 thetas give 3 different plans in a case." in text
    assert "2.83x as fast (geometric mean of 1 case, 2.83x to 2.83x)" in text


def test_a_front_says_what_no_weight_reaches() -> None:
    """12 tokens/s lie above the line between the others: a weight goes down to 10."""
    assert "| 1 (spec, main) | 3 | 2 | +20 % |" in ablations_markdown(RESULTS)


def test_the_csv_has_a_line_for_each_result() -> None:
    rows = list(csv.DictReader(StringIO(ablations_csv(RESULTS))))
    assert [row["ablation"] for row in rows] == [one["ablation"] for one in RESULTS]
    assert tuple(rows[0]) == FIELDS
    assert [rows[2]["tokens_per_s"], rows[0]["theta_ms"]] == ["", ""]
    assert float(rows[9]["theta_ms"]) == 1.0


def test_the_content_has_every_result() -> None:
    content = ablations_content(RESULTS)
    assert (content["schema"], content["version"]) == ("llmpq/ablations", 3)
    assert content["results"] == RESULTS


def test_the_page_has_the_comparison_of_indicators_as_it_was_logged() -> None:
    page = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
    log = (ROOT / "docs/log.md").read_text(encoding="utf-8")
    rows = [f"| {name} |" for name in ("measured KL", "variance (LLM-PQ)", "hessian", "random")]
    for start in ("| what plans are judged by |", *rows):
        (row,) = [line for line in log.splitlines() if line.startswith(start)]
        assert row in page.splitlines()
