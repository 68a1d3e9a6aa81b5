from dataclasses import replace

import pytest
from hypothesis import given, settings

from llmpq_sim.core.cluster import Device, Link
from llmpq_sim.core.plan import MicroBatching, Plan, check_plan
from llmpq_sim.search.baselines import simple as baselines
from llmpq_sim.search.baselines.bit_transfer import bit_transfer_plan
from llmpq_sim.search.baselines.integer import integer_plan
from llmpq_sim.search.baselines.simple import Baseline, all_baselines, best_of
from llmpq_sim.search.bound.bound import first_certificate
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.deadline import time_limit
from llmpq_sim.search.grid import micro_batching_grid, paper_micro_batchings
from llmpq_sim.search.scoring import fits, keeps_budget, score_plan, shortfall_bytes
from tests.builders import every_plan, tiny_device, tiny_model, tiny_scenario, tiny_task
from tests.strategies import tasks

CANDIDATES = (
    baselines.uniform_plans,
    baselines.memory_weighted_plans,
    baselines.compute_weighted_plans,
    baselines.pipeedge_plans,
    baselines.adabits_plans,
    baselines.bit_transfer_plans,
    baselines.integer_plans,
)


def task_on(devices: list[Device], layers: int = 8, *, budget: float = 1.0) -> PlanningTask:
    return tiny_task(tiny_scenario(devices, model=tiny_model(layers)), budget=budget)


def layers_of(plan: Plan) -> list[tuple[str, int]]:
    return [(stage.device, len(stage.formats)) for stage in plan.stages]


@settings(deadline=None, max_examples=25)
@given(tasks())
def test_every_candidate_is_a_plan_in_one_of_the_papers_micro_batchings_where_some_fit(
    task: PlanningTask,
) -> None:
    scenario = task.costs.scenario
    requests = scenario.workload.requests
    batchings = paper_micro_batchings(requests, len(scenario.cluster.devices))
    for candidates in CANDIDATES:
        plans = candidates(task)
        papers = [plan for plan in plans if plan.micro_batching in batchings]
        for plan in plans:
            check_plan(plan, scenario)
            assert plan in papers or plan.micro_batching.wave_rows(requests) < requests
        if len(papers) < len(plans):
            assert not any(fits(plan, task) and keeps_budget(plan, task) for plan in papers)


@settings(deadline=None, max_examples=25)
@given(tasks())
def test_a_baseline_is_feasible_or_says_why_not(task: PlanningTask) -> None:
    for baseline in all_baselines(Screen(task)):
        if baseline.infeasible_reason is None:
            assert baseline.score is not None
            assert fits(baseline.score.plan, task)
            assert keeps_budget(baseline.score.plan, task)
            assert baseline.score.result is not None
        else:
            assert baseline.score is None or not baseline.score.is_feasible


@settings(deadline=None, max_examples=25)
@given(tasks())
def test_no_micro_batching_of_the_grid_makes_a_baselines_partition_faster(
    task: PlanningTask,
) -> None:
    scenario, screen = task.costs.scenario, Screen(task)
    grid = micro_batching_grid(scenario.workload.requests, len(scenario.cluster.devices))
    certificate = first_certificate(screen, grid, lambda _done, _total: None)
    floors_s = {batching: entry.bound_s for batching, entry in certificate.entries.items()}
    for baseline in all_baselines(screen, floors_s):
        if baseline.score is None or not baseline.score.is_feasible:
            continue
        plan = baseline.score.plan
        others = [replace(plan, micro_batching=batching) for batching in grid]
        fitting = [screen.makespan_s(other) for other in others if fits(other, task)]
        assert screen.makespan_s(plan) <= min(fitting)


@settings(deadline=None, max_examples=25)
@given(tasks())
def test_bit_transfer_says_where_it_ended_with_the_plan_of_adabits(task: PlanningTask) -> None:
    found = {baseline.name: baseline for baseline in all_baselines(Screen(task))}
    start, end = found.pop("adabits"), found.pop("bit-transfer")
    ended_there = (
        start.score is not None
        and end.score is not None
        and start.score.is_feasible
        and start.score.plan == end.score.plan
    )
    assert end.unmoved_reason == ("as adabits: could not move" if ended_there else None)
    assert {other.unmoved_reason for other in found.values()} == {None}


def test_baselines_that_time_ran_out_for_say_so() -> None:
    with time_limit(0.0):
        found = all_baselines(Screen(tiny_task()))
    assert [one.name for one in found] == [
        "uniform", "memory-weighted", "compute-weighted", "pipeedge", "adabits", "bit-transfer",
        "llm-pq-ilp",
    ]  # fmt: skip
    assert {one.infeasible_reason for one in found} == {"not tried: the time budget ended"}


def test_uniform_splits_evenly_the_remainder_to_the_first() -> None:
    plan = baselines.uniform_plans(task_on([tiny_device()] * 3))[0]
    assert layers_of(plan) == [("fast-0", 3), ("fast-1", 3), ("fast-2", 2)]
    assert set(plan.layer_formats) == {"fp16"}


def test_uniform_leaves_devices_out_where_there_are_fewer_layers() -> None:
    plan = baselines.uniform_plans(task_on([tiny_device()] * 3, layers=2))[0]
    assert layers_of(plan) == [("fast-0", 1), ("fast-1", 1)]


def test_memory_weighted_takes_the_fewest_devices_in_proportion_to_their_memory() -> None:
    devices = [tiny_device("small", room_mib=6), tiny_device(room_mib=12), tiny_device(room_mib=12)]
    plan = baselines.memory_weighted_plans(task_on([*devices]))[0]
    assert {name for name, _ in layers_of(plan)} == {"fast-1", "fast-2"}
    assert [count for _, count in layers_of(plan)] == [4, 4]


def test_compute_weighted_gives_a_device_three_times_as_fast_three_times_the_layers() -> None:
    devices = [
        tiny_device(bytes_per_s=3e8, flops_per_s=3e10),
        tiny_device("slow", bytes_per_s=1e8, flops_per_s=1e10),
    ]
    plan = baselines.compute_weighted_plans(task_on(devices))[0]
    assert layers_of(plan) == [("fast-0", 6), ("slow-1", 2)]


def test_compute_weighted_gives_no_device_more_than_it_holds() -> None:
    devices = [
        tiny_device(room_mib=5.0, bytes_per_s=3e8, flops_per_s=3e10),
        tiny_device("slow", bytes_per_s=1e8, flops_per_s=1e10),
    ]
    plan = baselines.compute_weighted_plans(task_on(devices))[0]
    assert layers_of(plan) == [("fast-0", 2), ("slow-1", 6)]


def test_a_baseline_that_does_not_fit_says_which_stage_is_short() -> None:
    task = task_on([tiny_device(room_mib=1024.0)] * 2, layers=2048, budget=0.0)
    found = best_of("uniform", baselines.uniform_plans(task), Screen(task))
    assert found.score is not None
    assert shortfall_bytes(found.score.plan, task) > 0
    assert found.infeasible_reason == ("does not fit: stage 0 on fast-0 needs 2.5 GiB, has 2.0")


def test_a_baseline_that_loses_too_much_says_how_much() -> None:
    task = tiny_task(formats=("int4",), budget=0.05)
    found = best_of("uniform", baselines.uniform_plans(task), Screen(task))
    assert found.infeasible_reason == "loses 0.058, more than the budget of 0.05"


def test_a_baseline_without_a_plan_says_so() -> None:
    task = tiny_task(formats=("int4",), budget=0.0)
    assert best_of("adabits", baselines.adabits_plans(task), Screen(task)) == Baseline(
        "adabits", None, "no plan fits the memory within the quality budget"
    )


@settings(deadline=None, max_examples=25)
@given(tasks(alike=True))
def test_adabits_loses_least_of_all_plans_that_use_two_devices(task: PlanningTask) -> None:
    batching = MicroBatching(1, 1, 1)
    plan = integer_plan(task, batching, "loss")
    losses = [task.quality.plan_loss(other.layer_formats) for other in feasible(task, batching)]
    if plan is None:
        assert not losses
    else:
        assert fits(plan, task)
        assert task.quality.plan_loss(plan.layer_formats) <= min(losses) * (1 + 1e-3) + 1e-12


@settings(deadline=None, max_examples=25)
@given(tasks(alike=True))
def test_the_integer_program_finds_the_best_closed_form_where_links_cost_nothing(
    task: PlanningTask,
) -> None:
    task, batching = without_links(task), MicroBatching(1, 1, 1)
    plan, screen = integer_plan(task, batching), Screen(task)
    makespans_s = [screen.makespan_s(other) for other in feasible(task, batching)]
    if plan is None:
        assert not makespans_s
    else:
        assert screen.makespan_s(plan) <= min(makespans_s) * (1 + 2e-3)


def feasible(task: PlanningTask, batching: MicroBatching) -> list[Plan]:
    """Return the feasible plans that use more than one device, if there is more than one."""
    least = min(2, len(task.costs.scenario.cluster.devices))
    return [
        plan
        for plan in every_plan(task, batching)
        if len(plan.stages) >= least and fits(plan, task) and keeps_budget(plan, task)
    ]


def without_links(task: PlanningTask) -> PlanningTask:
    scenario = task.costs.scenario
    free = dict.fromkeys(scenario.cluster.links, Link(0.0, 1e18))
    cluster = replace(scenario.cluster, links=free)
    costs = type(task.costs)(replace(scenario, cluster=cluster), task.costs.profiles)
    return replace(task, costs=costs)


@settings(deadline=None, max_examples=25)
@given(tasks())
def test_bit_transfer_improves_on_adabits_and_keeps_its_loss_within_the_budget(
    task: PlanningTask,
) -> None:
    batching, screen = MicroBatching(1, 1, 1), Screen(task)
    start, plan = integer_plan(task, batching, "loss"), bit_transfer_plan(task, batching)
    assert (start is None) == (plan is None)
    if start is not None and plan is not None:
        assert screen.makespan_s(plan) <= screen.makespan_s(start)
        assert score_plan(plan, task).is_feasible == score_plan(start, task).is_feasible


def test_bit_transfer_moves_layers_off_a_slow_device() -> None:
    devices = [tiny_device("slow", bytes_per_s=1e8), tiny_device(bytes_per_s=4e9)]
    task = tiny_task(
        tiny_scenario(devices, model=tiny_model(8)), formats=("int4", "int8"), budget=1.0
    )
    batching = MicroBatching(1, 1, 1)
    start, plan = integer_plan(task, batching, "loss"), bit_transfer_plan(task, batching)
    assert start is not None
    assert plan is not None
    slow = {name: count for name, count in layers_of(plan) if name == "slow-0"}
    assert slow == {"slow-0": 1}
    assert sorted(plan.layer_formats) == sorted(start.layer_formats)


@pytest.mark.parametrize("minimise", ["makespan", "loss"])
def test_one_direction_of_the_pipeline_may_be_all_that_keeps_the_budget(minimise: str) -> None:
    """The device that runs only int3 can have the first two layers, not the last two."""
    devices = [
        tiny_device("rough", formats=("fp16", "int3")),
        tiny_device("tight", room_mib=2.3, formats=("fp16", "int4", "int3")),
    ]
    scenario = tiny_scenario(devices, output_tokens=(2, 2))
    task = tiny_task(
        scenario, formats=("int3", "int4"), sensitivity=[1.0, 1.0, 9.0, 9.0], budget=0.1
    )
    plan = integer_plan(task, MicroBatching(1, 1, 2), "loss" if minimise == "loss" else "makespan")
    assert plan is not None
    assert score_plan(plan, task).is_feasible
    assert plan.layer_formats == ("int3", "int3", "int4", "int4")
