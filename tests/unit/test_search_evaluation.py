import pytest

from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.genetic import evaluation
from llmpq_sim.search.genetic.evaluation import Evaluator
from llmpq_sim.simulator.static.simulate import simulate_static
from tests.builders import every_plan, tiny_task

CUTS = MicroBatching(1, 2, 2)


@pytest.fixture(name="task", scope="module")
def _task() -> PlanningTask:
    return tiny_task(budget=0.06)


@pytest.fixture(name="plans", scope="module")
def _plans(task: PlanningTask) -> list[Plan]:
    return list(every_plan(task, CUTS))[:40:4]


def steps(plan: Plan) -> int:
    """Return the stage steps of a plan of the tiny batch: 4 prefills, 2 groups of 4 rounds."""
    return len(plan.stages) * (4 + 8)


def test_a_verdict_is_the_simulation_and_the_loss(task: PlanningTask, plans: list[Plan]) -> None:
    for plan, verdict in zip(plans, Evaluator(Screen(task), 1).judge(plans), strict=True):
        assert verdict.is_simulated
        assert verdict.makespan_s == simulate_static(plan, task.costs).makespan_s
        assert verdict.loss == task.quality.plan_loss(plan.layer_formats)


def test_only_the_best_closed_forms_are_simulated_within_the_allowance(
    task: PlanningTask, plans: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(task)
    ranked = sorted(plans, key=screen.makespan_s)
    monkeypatch.setattr(evaluation, "STEPS_PER_CALL", sum(map(steps, ranked[:3])))
    verdicts = dict(zip(plans, Evaluator(screen, 1).judge(plans), strict=True))
    assert [verdicts[plan].is_simulated for plan in ranked] == [True] * 3 + [False] * 7
    for plan in ranked[3:]:
        assert verdicts[plan].makespan_s == screen.makespan_s(plan)


def test_the_first_plans_are_simulated_whatever_they_cost(
    task: PlanningTask, plans: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "STEPS_PER_CALL", 0)
    verdicts = Evaluator(Screen(task), 1).judge(plans, sure=4)
    assert [verdict.is_simulated for verdict in verdicts] == [True] * 4 + [False] * 6


def test_one_plan_is_simulated_however_large_the_batch(
    task: PlanningTask, plans: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "STEPS_PER_CALL", 0)
    verdicts = Evaluator(Screen(task), 1).judge(plans)
    assert sum(verdict.is_simulated for verdict in verdicts) == 1


def test_workers_do_not_change_a_verdict(
    task: PlanningTask, plans: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "STEPS_PER_POOL", 0)
    alone, together = (Evaluator(Screen(task), workers).judge(plans) for workers in (1, 2))
    assert alone == together


def test_judging_again_says_the_same(task: PlanningTask, plans: list[Plan]) -> None:
    evaluator = Evaluator(Screen(task), 1)
    assert evaluator.judge(plans) == evaluator.judge(plans)
