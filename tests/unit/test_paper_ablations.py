"""Ablations: leaving a decision out never makes a plan better, and costs what it should."""

from pathlib import Path

import pytest

from llmpq_sim.paper.ablation_report import ablations_markdown
from llmpq_sim.paper.ablations import (
    ABLATIONS,
    GROUP_LAYERS,
    NOTHING_S,
    PROGRAM,
    WHOLE,
    Ablated,
    ablate,
    budgeted,
    group_layers,
    without_prefill,
)
from llmpq_sim.paper.case_files import ablated_content
from llmpq_sim.paper.cases import Case
from llmpq_sim.paper.evolution import evolutions
from llmpq_sim.paper.measurements import CLUSTERS
from llmpq_sim.paper.theta import plans_of_targets, sweep_theta

CASE = Case(1, "main", 0.8, "gptq-2023")


@pytest.fixture(name="found", scope="module")
def _found() -> list[Ablated]:
    return ablate(CASE)


def test_no_ablation_is_faster_than_the_whole_planner(found: list[Ablated]) -> None:
    assert tuple(one.name for one in found) == (*ABLATIONS, *GROUP_LAYERS)
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
    assert blind.costs.prefill_layer_s(kind, "int4", 8, 0) == NOTHING_S
    assert (
        blind.costs.decode_layer_s(kind, "int4", 8, 0)
        == task.costs.decode_layer_s(kind, "int4", 8, 0)
    ).all()


def test_groups_cost_the_program_and_hold_together(found: list[Ablated]) -> None:
    by_name = {one.name: one for one in found}
    for name, size in (("layers in pairs", 2), ("layers in fours or fives", 5)):
        one, program = by_name[name], by_name[PROGRAM]
        assert one.plan is not None
        layers, starts = one.plan.layer_formats, range(0, 40, size)
        assert all(len(set(layers[start : start + size])) == 1 for start in starts)
        assert one.tokens_per_s is not None
        assert program.tokens_per_s is not None
        assert one.tokens_per_s <= program.tokens_per_s


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_groups_divide_the_layers_of_every_model(cluster: int) -> None:
    task = Case(cluster, "main", 0.8, "gptq-2023").task()
    layers = task.costs.scenario.model.layers
    sizes = [group_layers(task, of_name) for of_name in GROUP_LAYERS.values()]
    assert [layers % size for size in sizes] == [0, 0, 0]
    assert sizes == [1, 2, 5 if layers % 5 == 0 else 4]


def test_the_page_shows_what_is_found(found: list[Ablated]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/paper.md").read_text(encoding="utf-8")
    every = [*found, *evolutions(CASE), *sweep_theta(CASE), *plans_of_targets(CASE)]
    text = ablations_markdown([ablated_content(CASE, one) for one in every])
    rows = [line for line in text.splitlines() if line.startswith("| 1 ")]
    assert len(rows) == 5
    assert [row for row in rows if row not in page] == []
