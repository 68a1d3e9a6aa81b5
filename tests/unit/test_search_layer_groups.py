"""Layer groups: neighbours bound together share device and format, nothing else changes."""

from itertools import chain
from math import isclose

import pytest
from hypothesis import given, settings

from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.search.baselines.integer import averaged, in_groups, integer_plan
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.relaxation import relax
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.scoring import fits, keeps_budget
from tests.builders import every_plan, tiny_device, tiny_model, tiny_scenario, tiny_task
from tests.strategies import tasks

CUTS = MicroBatching(2, 2, 2)


def two_devices(budget: float | None = None) -> PlanningTask:
    devices = [tiny_device(room_mib=6.0), tiny_device("slow", room_mib=6.0, bytes_per_s=1e9)]
    scenario = tiny_scenario(devices, model=tiny_model(4))
    return tiny_task(scenario, formats=("int4", "fp16"), budget=budget)


def is_in_groups(plan: Plan, size: int) -> bool:
    """Return whether each group of layers has one device and one format."""
    layers = [(stage.device, name) for stage in plan.stages for name in stage.formats]
    starts = range(0, len(layers), size)
    return all(len(set(layers[start : start + size])) == 1 for start in starts)


@settings(deadline=None, max_examples=30)
@given(tasks(alike=True))
def test_parts_of_layers_do_not_care_for_groups(task: PlanningTask) -> None:
    """The relaxation may cut layers and groups alike, so that its optimum is the same."""
    problem = averaged(Screen(task).problem(MicroBatching(1, 1, 4)))
    layers = task.costs.scenario.model.layers
    alone, grouped = relax(problem), relax(in_groups(problem, layers))
    assert alone.is_feasible == grouped.is_feasible
    if alone.is_feasible:
        assert isclose(alone.bound_s, grouped.bound_s, rel_tol=1e-5)


@pytest.mark.parametrize("share", [1.0, 0.6, 0.3])
def test_the_plan_in_groups_is_the_best_of_all_such_plans(share: float) -> None:
    free = two_devices()
    task = two_devices(share * free.budget)
    found = integer_plan(task, CUTS, group_layers=2)
    assert found is not None
    assert is_in_groups(found, 2)
    assert fits(found, task)
    assert keeps_budget(found, task)
    screen = Screen(task)
    best_s = min(
        screen.makespan_s(plan)
        for plan in every_plan(task, CUTS)
        if is_in_groups(plan, 2) and fits(plan, task) and keeps_budget(plan, task)
    )
    assert screen.makespan_s(found) <= best_s * 1.02


def test_a_budget_for_one_layer_alone_is_of_no_use_to_pairs() -> None:
    free = two_devices()
    task = two_devices(free.budget / 4)  # one layer of four at 4 bits
    alone, in_pairs = integer_plan(task, CUTS), integer_plan(task, CUTS, group_layers=2)
    assert alone is not None
    assert in_pairs is not None
    assert list(chain(*(stage.formats for stage in alone.stages))).count("int4") == 1
    assert all(set(stage.formats) == {"fp16"} for stage in in_pairs.stages)


def test_layers_that_differ_share_the_device_alone() -> None:
    scenario = tiny_scenario([tiny_device(), tiny_device("slow")], model=tiny_model(4))
    task = tiny_task(scenario, sensitivity=(4.0, 1.0, 1.0, 1.0))
    plan = integer_plan(task, CUTS, group_layers=2)
    assert plan is not None
    assert all(len(stage.formats) % 2 == 0 for stage in plan.stages)
