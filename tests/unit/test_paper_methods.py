"""Methods of the paper: each chooses by its own rule, and one judge compares them."""

from itertools import chain

import pytest

from llmpq_sim.core.plan import Plan
from llmpq_sim.paper.cases import with_budget
from llmpq_sim.paper.methods import Judge, fastest, least_loss, our_search, uniform_plan
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.grid import paper_micro_batchings
from llmpq_sim.search.scoring import score_plan
from tests.builders import every_plan, tiny_device, tiny_model, tiny_scenario, tiny_task


@pytest.fixture(name="task", scope="module")
def _task() -> PlanningTask:
    devices = [tiny_device(room_mib=6.0), tiny_device("slow", room_mib=6.0, bytes_per_s=1e9)]
    return tiny_task(tiny_scenario(devices, model=tiny_model(3)))


@pytest.fixture(name="plans", scope="module")
def _plans(task: PlanningTask) -> list[Plan]:
    return list(chain(*(every_plan(task, batching) for batching in paper_micro_batchings(4, 2))))


def test_least_loss_comes_before_speed(task: PlanningTask, plans: list[Plan]) -> None:
    chosen = least_loss(plans, task)
    assert chosen is not None
    scores = [score for plan in plans if (score := score_plan(plan, task)).fits]
    assert task.quality.plan_loss(chosen.layer_formats) == min(score.loss for score in scores)
    assert fastest([], task) is None


def test_the_fastest_plan_is_no_slower_than_any(task: PlanningTask, plans: list[Plan]) -> None:
    chosen = fastest(plans, task)
    assert chosen is not None
    best_s = min(score_plan(plan, task).makespan_s for plan in plans)
    assert score_plan(chosen, task).makespan_s == pytest.approx(best_s, rel=0.02)


def test_uniform_has_one_format_and_equal_micro_batches(task: PlanningTask) -> None:
    chosen = uniform_plan(task)
    assert chosen is not None
    assert len(set(chosen.layer_formats)) == 1
    assert chosen.micro_batching.prefill == chosen.micro_batching.decode == 2


def test_a_gap_is_stated_where_the_bound_covers_the_plan(task: PlanningTask) -> None:
    asked = with_budget(task, task.quality.uniform_loss("int8"))
    outcome = our_search(asked)
    assert outcome is not None
    judge = Judge(task, asked, outcome.certificate.bound_s)
    ours = judge.judged("llmpq", outcome.best.plan, 0.0)
    assert ours.gap_fraction == pytest.approx(outcome.gap_fraction)
    lossy = next(
        plan
        for plan in every_plan(task, paper_micro_batchings(4, 2)[-1])
        if set(plan.layer_formats) == {"int4"} and score_plan(plan, task).fits
    )
    assert judge.judged("pipeedge", lossy, 0.0).gap_fraction is None  # loses more than was asked
    assert judge.judged("uniform", None, 0.0).infeasible_reason == "no plan fits"


def test_nothing_fits_without_memory() -> None:
    small = tiny_task(tiny_scenario([tiny_device(room_mib=0.1)]))
    assert our_search(small) is None
    assert uniform_plan(small) is None
