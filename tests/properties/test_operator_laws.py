"""Laws of every mutation, crossover and repair."""

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.random import Generator

from llmpq_sim.core.plan import MicroBatching, Plan, check_plan
from llmpq_sim.search.bound.feasibility import task_grid
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.genetic.operators import Operators
from llmpq_sim.search.scoring import fits, keeps_budget
from tests.builders import every_placement, plan_at, tiny_task
from tests.strategies import tasks

seeds = st.integers(0, 2**32 - 1)

CHANGES: list[Callable[[Operators, Plan, Generator], Plan]] = [
    Operators.mutate,
    Operators.shift_boundary,
    Operators.change_formats,
    Operators.exchange_formats,
    Operators.transfer_bits,
    Operators.change_devices,
    Operators.change_micro_batching,
]


def any_plan(task: PlanningTask, rng: Generator) -> Plan:
    """Return a plan that `check_plan` accepts, whether it fits or not."""
    scenario, grid = task.costs.scenario, task_grid(task)
    members, layers = scenario.cluster.devices, scenario.model.layers
    placements = list(every_placement(len(members), layers))
    placement = placements[int(rng.integers(len(placements)))]
    formats = []
    for device, count in placement:
        runs = [name for name in members[device].device.formats if name in task.formats]
        formats += [runs[int(rng.integers(len(runs)))] for _ in range(count)]
    return plan_at(scenario, placement, formats, grid[int(rng.integers(len(grid)))])


@pytest.mark.parametrize("change", CHANGES)
@settings(deadline=None, max_examples=40)
@given(tasks(), seeds)
def test_every_change_of_a_plan_is_a_plan_of_the_same_task(
    change: Callable[[Operators, Plan, Generator], Plan], task: PlanningTask, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    operators, plan = Operators(task, task_grid(task)), any_plan(task, rng)
    for _ in range(10):
        plan = change(operators, plan, rng)
        check_plan(plan, task.costs.scenario)
        assert set(plan.layer_formats) <= set(task.formats)
        assert plan.micro_batching in operators.grid


@settings(deadline=None, max_examples=60)
@given(tasks(), seeds)
def test_a_child_of_two_plans_has_formats_of_one_of_them(task: PlanningTask, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = any_plan(task, rng), any_plan(task, rng)
    child = Operators(task, task_grid(task)).cross(first, second, rng)
    check_plan(child, task.costs.scenario)
    assert [stage.device for stage in child.stages] == [stage.device for stage in first.stages]
    assert child.micro_batching in (first.micro_batching, second.micro_batching)
    parents = zip(first.layer_formats, second.layer_formats, strict=True)
    for name, names in zip(child.layer_formats, parents, strict=True):
        assert name in names


@settings(deadline=None, max_examples=150)
@given(tasks(), seeds)
def test_a_repaired_plan_is_feasible_and_repairing_it_again_changes_nothing(
    task: PlanningTask, seed: int
) -> None:
    operators = Operators(task, task_grid(task))
    repaired = operators.repair(any_plan(task, np.random.default_rng(seed)))
    assume(repaired is not None)
    assert repaired is not None
    check_plan(repaired, task.costs.scenario)
    assert fits(repaired, task)
    assert keeps_budget(repaired, task)
    assert operators.repair(repaired) == repaired


@settings(deadline=None, max_examples=60)
@given(tasks(), seeds)
def test_repairing_a_feasible_plan_keeps_its_stages_and_never_loses_more(
    task: PlanningTask, seed: int
) -> None:
    plan = any_plan(task, np.random.default_rng(seed))
    assume(fits(plan, task) and keeps_budget(plan, task))
    repaired = Operators(task, task_grid(task)).repair(plan)
    assert repaired is not None
    for before, after in zip(plan.stages, repaired.stages, strict=True):
        assert (before.device, sorted(before.formats)) == (after.device, sorted(after.formats))
    losses = task.quality
    assert losses.plan_loss(repaired.layer_formats) <= losses.plan_loss(plan.layer_formats) + 1e-15


def test_plans_that_differ_in_the_order_within_a_stage_are_repaired_to_the_best() -> None:
    task = tiny_task(sensitivity=[4.0, 1.0, 2.0, 3.0], budget=1.0)
    operators, batching = Operators(task, task_grid(task)), MicroBatching(1, 1, 1)
    orders = permutations(["int4", "int8", "fp16", "fp16"])
    plans = [plan_at(task.costs.scenario, ((0, 4),), order, batching) for order in orders]
    assert {operators.repair(plan) for plan in plans} == {
        plan_at(task.costs.scenario, ((0, 4),), ["fp16", "int4", "int8", "fp16"], batching)
    }


@settings(deadline=None, max_examples=20)
@given(tasks(), seeds)
def test_the_same_draws_make_the_same_plans(task: PlanningTask, seed: int) -> None:
    operators = Operators(task, task_grid(task))

    def mutants() -> list[Plan]:
        rng = np.random.default_rng(seed)
        plan = any_plan(task, rng)
        return [operators.mutate(plan, rng) for _ in range(5)]

    assert mutants() == mutants()
