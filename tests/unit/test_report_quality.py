"""Sentences on a plan's quality: measure, interval, budget and perplexity, or nominal."""

from dataclasses import replace

import pytest

from llmpq_sim.report.json_reports import predicted_content, search_content
from llmpq_sim.report.quality import (
    interval_of,
    may_miss_budget,
    quality_content,
    quality_parts,
    risk_sentences,
)
from llmpq_sim.report.search import show_front, show_search, show_simulation
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.scoring import score_plan
from tests.qualities import Columns, as_indicator, measured_quality
from tests.reports import GOOD, paper, small_outcome, small_task, written


def measured_task(budget: float, method: str = "kl") -> PlanningTask:
    task = small_task()
    measured = measured_quality(task.costs.scenario.model)
    if method != "kl":
        measured = as_indicator(measured, method)
    return replace(task, quality=measured.table(12), budget=budget)


def test_a_measured_loss_is_said_with_unit_interval_and_budget() -> None:
    task = measured_task(0.03)
    score = score_plan(GOOD, task)
    interval = interval_of(GOOD, task)
    assert interval == pytest.approx(0.05 * score.loss + 2 * 0.05 * score.loss)
    assert quality_parts(score, task) == [
        "0.0124 ± 0.0019 nats of KL per token (budget 0.0300)",
        "perplexity about 20.3 (16 bit: 20.1)",
    ]


def test_an_indicator_tells_neither_interval_nor_perplexity() -> None:
    task = measured_task(0.03, "hessian")
    assert quality_parts(score_plan(GOOD, task), task) == [
        "quality loss 0.0124 of 0.0300 Hessian indicator"
    ]


def test_a_nominal_loss_has_no_interval() -> None:
    task = small_task()
    score = score_plan(GOOD, task)
    assert interval_of(GOOD, task) is None
    assert quality_parts(score, task) == ["quality loss 0.0098 of 0.3158 nominal nats"]
    assert risk_sentences(score, task) == []
    assert quality_content(score, task) == {
        "loss": score.loss,
        "interval": None,
        "budget": task.budget,
        "measure": "nominal nats",
        "may_miss_budget": False,
        "perplexity": None,
        "reference_perplexity": None,
    }


@pytest.mark.parametrize(("budget", "risky"), [(0.03, False), (0.0132, True), (0.0125, True)])
def test_a_budget_within_the_interval_is_a_risk(budget: float, risky: bool) -> None:
    task = measured_task(budget)
    score = score_plan(GOOD, task)
    assert may_miss_budget(score, task) == quality_content(score, task)["may_miss_budget"] == risky
    said = (
        "The plan may miss the target: check with llmpq quality MODEL_DIR --plan p.json --text "
        "FILE."
    )
    assert risk_sentences(score, task, "p.json") == ([said] if risky else [])


def test_screens_show_unit_interval_and_risk() -> None:
    task = measured_task(0.0132)
    console = paper()
    show_search(console, small_outcome(task), "my plan.json")
    text = written(console)
    assert "0.0124 ± 0.0019 nats of KL per token (budget 0.0132)" in text
    assert "--plan 'my plan.json'" in text
    console = paper()
    show_simulation(console, score_plan(GOOD, task), task)
    assert "The plan may miss the target: check with llmpq quality MODEL_DIR" in written(console)


def test_a_front_is_drawn_against_the_measured_unit() -> None:
    console = paper()
    show_front(console, small_outcome(measured_task(1.0), wants_front=True))
    lines = written(console).splitlines()
    assert "nats of KL per token" in lines[2]
    assert any("0.0124 ± 0.0019" in line for line in lines)
    assert "nats of KL per token" in lines[-1]


def test_json_has_what_the_screen_says() -> None:
    outcome = small_outcome(measured_task(0.03), wants_front=True)
    content = search_content(outcome, {}, None)
    quality = content["quality"]
    assert quality == predicted_content(outcome.best, outcome.task)["quality"]
    assert quality["interval"] == content["front"][0]["quality_interval"]
    assert quality["perplexity"] > quality["reference_perplexity"]


def test_a_plan_that_breaks_a_layer_says_so_and_is_null_in_json() -> None:
    task = small_task()
    columns: Columns = {"int4": [0.1] * 11 + [None], "int8": [0.01] * 12}
    table = measured_quality(task.costs.scenario.model, columns).table(12)
    broken = replace(task, quality=table, budget=10.0, formats=("fp16", "int8", "int4"))
    score = score_plan(GOOD, broken)
    assert score.infeasible_reason() == "breaks a layer in its format, as measured"
    content = quality_content(score, broken)
    assert (content["loss"], content["interval"], content["perplexity"]) == (None, None, None)
