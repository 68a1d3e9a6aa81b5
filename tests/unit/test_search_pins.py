from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmpq_sim.core.errors import InfeasibleError, InputError
from llmpq_sim.core.plan import check_plan
from llmpq_sim.search.bound.feasibility import smallest, task_grid
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.frame import SearchProgress
from llmpq_sim.search.pinned import PinnedOperators, pinned_plans, plan_pinned, search_pinned
from llmpq_sim.search.pins import Pins, check_pins, least_formats
from llmpq_sim.search.planner import SearchSettings
from llmpq_sim.search.scoring import fits, keeps_budget
from tests.builders import (
    every_placement,
    tiny_device,
    tiny_model,
    tiny_scenario,
    tiny_task,
)
from tests.strategies import tasks


@st.composite
def pinned_tasks(draw: st.DrawFn, *, with_formats: bool) -> tuple[PlanningTask, Pins]:
    """Draw a task and pins of it that fit one request at a time."""
    task = draw(tasks())
    members = task.costs.scenario.cluster.devices
    layers = task.costs.scenario.model.layers
    every = [
        Pins(tuple(members[device].name for device, _ in place), tuple(count for _, count in place))
        for place in every_placement(len(members), layers)
    ]
    fitting = [pins for pins in every if is_possible(pins, task)]
    assume(fitting)
    pins = draw(st.sampled_from(fitting))
    if not with_formats:
        return task, pins
    drawn = [draw(st.sampled_from(runs)) for runs in runs_of(pins, task)]
    lossy = replace(task, budget=task.quality.plan_loss(drawn))
    pinned = replace(pins, formats=tuple(drawn))
    if is_possible(pinned, lossy):
        return lossy, pinned
    least = least_formats(pins, task)
    return replace(task, budget=task.quality.plan_loss(least)), replace(pins, formats=least)


def is_possible(pins: Pins, task: PlanningTask) -> bool:
    try:
        check_pins(pins, task)
    except (InputError, InfeasibleError):
        return False
    return True


def runs_of(pins: Pins, task: PlanningTask) -> list[list[str]]:
    """Return the formats that each layer may have where it is pinned."""
    members = task.costs.scenario.cluster.devices
    return [
        [name for name in task.formats if name in members[device].device.formats]
        for device, count in zip(pins.order(task), pins.layers, strict=True)
        for _ in range(count)
    ]


@settings(deadline=None, max_examples=10)
@given(pinned_tasks(with_formats=False))
def test_free_formats_are_about_as_fast_as_any_and_proven_to_be_no_faster_than_the_bound(
    drawn: tuple[PlanningTask, Pins],
) -> None:
    task, pins = drawn
    screen, grid = Screen(task), task_grid(task)
    every = [pins.plan(formats, each) for formats in product(*runs_of(pins, task)) for each in grid]
    feasible = [plan for plan in every if fits(plan, task) and keeps_budget(plan, task)]
    assume(feasible)
    outcome = plan_pinned(task, pins, grid)
    assert pins.keeps(outcome.best.plan)
    assert outcome.best.is_feasible
    fastest_s = min(map(screen.makespan_s, feasible))
    assert screen.makespan_s(outcome.best.plan) <= fastest_s * 1.006  # the gap at which it stops
    assert outcome.certificate.bound_s <= outcome.best.makespan_s * (1 + 1e-9)


@settings(deadline=None, max_examples=20)
@given(pinned_tasks(with_formats=True))
def test_no_micro_batching_of_the_grid_makes_pinned_formats_faster(
    drawn: tuple[PlanningTask, Pins],
) -> None:
    task, pins = drawn
    assert pins.formats is not None
    screen, grid = Screen(task), task_grid(task)
    plans = [pins.plan(pins.formats, batching) for batching in grid]
    fitting = [screen.makespan_s(plan) for plan in plans if fits(plan, task)]
    assume(fitting)
    found = pinned_plans(pins, screen, grid)
    assert min(map(screen.makespan_s, found)) == min(fitting)


@settings(deadline=None, max_examples=30)
@given(pinned_tasks(with_formats=False), st.integers(0, 99))
def test_operators_keep_the_pins(drawn: tuple[PlanningTask, Pins], seed: int) -> None:
    task, pins = drawn
    operators, rng = PinnedOperators(task, task_grid(task), pins), np.random.default_rng(seed)
    try:
        first, *_, last = 2 * pinned_plans(pins, Screen(task), [*task_grid(task), smallest(task)])
    except InfeasibleError:
        return
    for child in (operators.mutate(first, rng), operators.cross(first, last, rng)):
        assert pins.keeps(child)
        check_plan(child, task.costs.scenario)
        repaired = operators.repair(child)
        assert repaired is None or (pins.keeps(repaired) and fits(repaired, task))


def test_a_search_keeps_the_pins_and_states_what_they_cost() -> None:
    devices = [tiny_device(room_mib=8.0), tiny_device("slow", bytes_per_s=7e8)]
    scenario = tiny_scenario(devices, model=tiny_model(6))
    task, pins = tiny_task(scenario, budget=0.03), Pins(("slow-1", "fast-0"), (5, 1))
    steps: list[str] = []

    def note(progress: SearchProgress) -> None:
        steps.append(progress.step)

    outcome = search_pinned(task, pins, SearchSettings(generations=2, only_plans=True), note)
    assert pins.keeps(outcome.best.plan)
    assert outcome.pins == pins
    assert outcome.unpinned is not None
    assert outcome.bound_tokens_per_s * outcome.unpinned.makespan_s >= 20
    assert outcome.unpinned.makespan_s < outcome.best.makespan_s
    assert {"pinned layers", "generations"} <= set(steps)
    again = search_pinned(task, pins, SearchSettings(generations=2, only_plans=True))
    assert (again.best, again.logbook) == (outcome.best, outcome.logbook)
    hurried = search_pinned(task, pins, SearchSettings(budget_s=0.0))
    assert pins.keeps(hurried.best.plan)
    assert hurried.ended == "budget"


def test_a_pin_that_does_not_fit_says_how_many_layers_would() -> None:
    devices = [tiny_device(room_mib=6.0), tiny_device("slow")]
    task = tiny_task(tiny_scenario(devices, model=tiny_model(12)), formats=("int8",), budget=1.0)
    with pytest.raises(InfeasibleError) as refusal:
        check_pins(Pins(("fast-0", "slow-1"), (11, 1)), task)
    message = str(refusal.value)
    assert (
        "--layers: fast-0 has no room for 11 layers of int8 with one request at a time" in message
    )
    room = int(message.split("at most ")[1].split(maxsplit=1)[0])
    check_pins(Pins(("fast-0", "slow-1"), (room, 12 - room)), task)
    with pytest.raises(InfeasibleError):
        check_pins(Pins(("fast-0", "slow-1"), (room + 1, 11 - room)), task)


def test_pins_that_lose_too_much_or_cannot_run_are_refused() -> None:
    devices = [tiny_device(), tiny_device("old", formats=("fp16",))]
    task = tiny_task(tiny_scenario(devices))
    pins = Pins(("fast-0", "old-1"), (2, 2))
    with pytest.raises(InputError, match=r"--layer-formats: old-1 \(old\) cannot run int4"):
        check_pins(replace(pins, formats=("int4",) * 4), task)
    with pytest.raises(InputError, match=r"--formats: old-1 \(old\) cannot run int4; it runs fp16"):
        check_pins(pins, replace(task, formats=("int4",)))
    with pytest.raises(InfeasibleError, match=r"--layer-formats: lose 0\.0.*--quality-at-least"):
        check_pins(
            replace(pins, formats=("int4", "int4", "fp16", "fp16")), replace(task, budget=0.0)
        )


def test_pins_with_room_only_for_formats_that_lose_too_much_say_what_is_short() -> None:
    devices = [tiny_device(room_mib=6.0), tiny_device("slow")]
    scenario = tiny_scenario(devices, model=tiny_model(8))
    task = tiny_task(scenario, formats=("int4", "fp16"), budget=1e-6)
    with pytest.raises(InfeasibleError, match=r"within a quality loss of 1e-06 .*: fast-0 has no"):
        plan_pinned(task, Pins(("fast-0", "slow-1"), (7, 1)), task_grid(task))
