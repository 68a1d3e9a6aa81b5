"""Leaving a decision out never makes a plan better, and costs what it should."""

from pathlib import Path

import pytest

from llmpq_sim.paper.ablations import (
    ABLATIONS,
    NOTHING_S,
    WHOLE,
    Ablated,
    ablate,
    budgeted,
    without_prefill,
)
from llmpq_sim.paper.cases import Case
from llmpq_sim.paper.report import ablations_content, ablations_markdown

CASE = Case(1, "main", 0.8, "gptq-2023")


@pytest.fixture(name="found", scope="module")
def _found() -> list[Ablated]:
    return ablate(CASE)


def test_no_ablation_is_faster_than_the_whole_planner(found: list[Ablated]) -> None:
    assert tuple(one.name for one in found) == ABLATIONS
    whole = found[0].tokens_per_s
    assert whole is not None
    for one in found[1:]:
        assert one.tokens_per_s is not None
        assert 0 < one.tokens_per_s <= whole * 1.001


def test_prefill_matters_with_the_kernels_of_2023(found: list[Ablated]) -> None:
    """Their 4-bit kernels decode weights anew for each row: a planner blind to it takes them."""
    rates = {one.name: one.tokens_per_s or 0.0 for one in found}
    assert rates["prefill ignored"] < 0.75 * rates[WHOLE]


def test_ablations_lose_no_more_than_what_was_asked(found: list[Ablated]) -> None:
    asked = budgeted(CASE)
    assert all(one.loss is not None and one.loss <= asked.allowed_loss for one in found)


def test_without_prefill_only_decode_takes_time() -> None:
    task = budgeted(CASE)
    blind = without_prefill(task)
    (kind,) = task.costs.devices
    assert blind.costs.prefill_layer_s(kind, "int4", 8) == NOTHING_S
    assert (
        blind.costs.decode_layer_s(kind, "int4", 8) == task.costs.decode_layer_s(kind, "int4", 8)
    ).all()


def test_the_page_shows_what_was_found(found: list[Ablated]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/paper.md").read_text(encoding="utf-8")
    row = ablations_markdown([(CASE, found)]).splitlines()[-1]
    assert row in page


def test_the_table_has_shares_of_the_whole() -> None:
    own = [Ablated(WHOLE, 50.0, 0.01), Ablated("one format", 25.0, 0.0), Ablated("x", None, None)]
    text = ablations_markdown([(CASE, [*own, Ablated("y", 50.0, 0.0)])])
    assert "| 1 (gptq-2023, main) | 50.0 | 25.0 (50 %) | - | 50.0 (100 %) |" in text
    content = ablations_content([(CASE, own)])
    assert content["cases"][0]["cluster"] == 1
    assert content["cases"][0]["ablations"][1]["tokens_per_s"] == 25.0
