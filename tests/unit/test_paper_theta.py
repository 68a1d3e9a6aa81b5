"""Targets asked for the loss of each theta, and for all losses in between."""

from pathlib import Path

import pytest

from llmpq_sim.paper.ablation_report import theta_parts
from llmpq_sim.paper.ablations import Ablated
from llmpq_sim.paper.case_files import ablated_content
from llmpq_sim.paper.cases import Case
from llmpq_sim.paper.theta import (
    FRONT,
    TARGET,
    THETAS_MS,
    WEIGHT,
    plans_of_targets,
    sweep_theta,
    targets,
)

CASE = Case(1, "main", 0.8, "gptq-2023")


@pytest.fixture(name="found", scope="module")
def _found() -> list[Ablated]:
    return sweep_theta(CASE)


def test_each_theta_has_its_plan_and_the_target_in_its_place(found: list[Ablated]) -> None:
    assert [one.theta_ms for one in found[::2]] == list(THETAS_MS)
    assert [one.theta_ms for one in found[1::2]] == list(THETAS_MS)
    assert {one.name for one in found[::2]} == {WEIGHT}
    assert {one.name for one in found[1::2]} == {TARGET}
    assert tuple(int("1" + "0" * power) for power in range(8)) == THETAS_MS


def test_a_target_loses_no_more_and_is_as_fast(found: list[Ablated]) -> None:
    for by_theta, to_target in zip(found[::2], found[1::2], strict=True):
        assert by_theta.loss is not None
        assert to_target.loss is not None
        assert to_target.loss <= by_theta.loss * (1 + 1e-9)
        assert (to_target.tokens_per_s or 0) >= (by_theta.tokens_per_s or 0)


def test_a_heavier_theta_never_loses_more(found: list[Ablated]) -> None:
    losses = [one.loss or 0.0 for one in found[::2]]
    assert losses == sorted(losses, reverse=True)


def test_targets_go_from_no_loss_to_the_worst_format_in_equal_steps() -> None:
    quality = CASE.task().quality
    steps = targets(CASE.task())
    assert steps == sorted(steps)
    assert len(steps) == len(set(steps)) == 13
    assert steps[::4] == [quality.uniform_loss(name) for name in ("fp16", "int8", "int4", "int3")]
    assert steps[6] == pytest.approx((steps[4] + steps[8]) / 2)


def test_plans_of_targets_keep_them() -> None:
    plans = plans_of_targets(CASE)
    for one, loss in zip(plans, targets(CASE.task()), strict=True):
        assert one.name == FRONT
        assert one.theta_ms is None
        assert one.loss is None or one.loss <= loss * (1 + 1e-9)
    rates = [one.tokens_per_s or 0.0 for one in plans]
    assert max(rates) == pytest.approx(rates[-1], rel=2e-3)  # the loosest target is the fastest


def test_the_page_shows_what_is_found_with_current_kernels() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/paper.md").read_text(encoding="utf-8")
    case = Case(1, "main", 0.8, "spec")
    found = [ablated_content(case, one) for one in (*sweep_theta(case), *plans_of_targets(case))]
    lines = "\n".join(theta_parts(found)).splitlines()
    rows = [line for line in lines if line.startswith("| 1 ")]
    assert len(rows) == 6
    assert [row for row in rows if row not in page] == []
