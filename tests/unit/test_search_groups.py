"""Groups of like devices, loaded alike by integer programs in large clusters."""

from collections import Counter
from itertools import chain
from unittest import mock

import pytest
from hypothesis import given, settings

from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.search.baselines.integer import integer_plan
from llmpq_sim.search.bound import problem
from llmpq_sim.search.bound.problem import PlanningTask, device_groups
from llmpq_sim.search.bound.relaxation import relax
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.scoring import fits, keeps_budget
from tests.builders import tiny_device, tiny_model, tiny_scenario, tiny_task
from tests.strategies import tasks

CUTS = MicroBatching(1, 1, 4)


def large_task(fast: int, slow: int) -> PlanningTask:
    """Return a task on so many fast and slow devices, standing in turns where both are left."""
    devices = [tiny_device("fast"), tiny_device("slow", bytes_per_s=1e9)]
    counts = (fast, slow)
    turns = [devices[i] for number in range(max(counts)) for i in (0, 1) if number < counts[i]]
    return tiny_task(tiny_scenario(turns, model=tiny_model(40)), budget=0.5)


@pytest.mark.parametrize(
    ("fast", "slow", "sizes"),
    [
        (6, 6, [1] * 12),
        (7, 6, [3, 2, 1, 1, 3, 1, 1, 1]),
        (16, 1, [8, 4, 2, 1, 1, 1]),
    ],
)
def test_a_kind_is_halved_until_two_are_left(fast: int, slow: int, sizes: list[int]) -> None:
    task = large_task(fast, slow)
    groups = device_groups(task)
    members = task.costs.scenario.cluster.devices
    assert [len(group) for group in groups] == sizes
    assert sorted(chain(*groups)) == list(range(fast + slow))
    assert all(len({members[number].device.name for number in group}) == 1 for group in groups)


def test_devices_of_a_group_hold_the_same() -> None:
    task = large_task(16, 4)
    plan = integer_plan(task, CUTS)
    assert plan is not None
    assert fits(plan, task)
    assert keeps_budget(plan, task)
    assert Screen(task).makespan_s(plan) >= relax(Screen(task).problem(CUTS)).bound_s
    held = {stage.device: Counter(stage.formats) for stage in plan.stages}
    members = task.costs.scenario.cluster.devices
    for group in device_groups(task):
        assert len({str(held.get(members[number].name)) for number in group}) == 1


@settings(deadline=None, max_examples=30)
@given(tasks(alike=True))
def test_groups_of_one_have_a_plan_where_single_devices_have(task: PlanningTask) -> None:
    """Kinds of up to three devices are halved to single ones, as in a small cluster."""
    alone = integer_plan(task, CUTS)
    with mock.patch.object(problem, "MOST_SINGLE_DEVICES", 0):
        assert all(len(group) == 1 for group in device_groups(task))
        grouped = integer_plan(task, CUTS)
    assert (alone is None) == (grouped is None)
