from llmpq_sim.core.plan import Plan, Stage
from llmpq_sim.search.online.evaluation import ServiceEvaluator
from llmpq_sim.search.online.evolution import (
    KEPT_SHARE,
    ServiceIndividual,
    individuals,
    judge,
    race,
)
from llmpq_sim.search.online.operators import ServingPlan, serving_plan
from llmpq_sim.search.online.settings_genes import bounded
from llmpq_sim.search.online.task import OnlineTask
from llmpq_sim.simulator.continuous.recurrence import simulate_continuous
from llmpq_sim.workloads.shaping import head
from tests.online import online_task, tiny_trace
from tests.serving import trace

BUDGETS = (64, 256, 512, 1024, 2048)


def plans(task: OnlineTask) -> list[Plan]:
    """Return every split of four layers over both devices, at 4 bits."""
    names = [member.name for member in task.costs.cluster.devices]
    splits = [(first, 4 - first) for first in (1, 2, 3)]
    return [
        serving_plan(
            tuple(Stage(n, ("int4",) * c) for n, c in zip(names, split, strict=True)),
            task.defaults,
        ).plan
        for split in splits
    ]


def judged(
    evaluator: ServiceEvaluator, services: list[ServingPlan], window: int
) -> list[ServiceIndividual]:
    """Return services that can serve any request, judged on a window."""
    found = individuals(evaluator, services)
    for each, values in zip(found, judge(evaluator, found, window), strict=True):
        each.fitness.values = values
    return found


def test_windows_are_the_first_requests_and_end_with_all() -> None:
    evaluator = ServiceEvaluator(online_task(tiny_trace(400)), 1)
    assert [window.requests for window in evaluator.windows] == [50, 80, 400]
    assert ServiceEvaluator(online_task(tiny_trace(9)), 1).windows[0].requests == 9


def test_a_candidate_says_what_the_simulator_does_on_its_window() -> None:
    task = online_task(tiny_trace(200))
    evaluator = ServiceEvaluator(task, 1)
    serving = serving_plan(plans(task)[0].stages, task.defaults)
    (candidate,) = judged(evaluator, [serving], 0)
    assert candidate.result == simulate_continuous(
        serving.plan, task.costs, head(task.workload, 50), task.defaults,
        objectives=task.objectives,
    )  # fmt: skip
    assert candidate.value == task.value(serving.plan, candidate.result)


def test_a_race_gives_every_service_one_verdict_and_a_third_go_on() -> None:
    task = online_task(tiny_trace(400))
    evaluator = ServiceEvaluator(task, 1)
    services = [
        serving_plan(plan.stages, limits)
        for plan in plans(task)
        for limits in [bounded(task.defaults, token_budget=budget) for budget in BUDGETS]
    ]
    raced = individuals(evaluator, services)
    windows = [values[0] for values in race(evaluator, raced)]
    assert {each.serving for each in raced} == set(services)
    assert len(windows) == len(services) == 15
    reached = [sum(last >= window for last in windows) for window in range(3)]
    assert reached == [15, 15 * KEPT_SHARE, 2]


def test_a_longer_window_counts_before_a_better_figure_on_a_shorter_one() -> None:
    task = online_task(tiny_trace(400))
    evaluator = ServiceEvaluator(task, 1)
    serving = serving_plan(plans(task)[0].stages, task.defaults)
    (short,), (whole,) = judged(evaluator, [serving], 0), judged(evaluator, [serving], 2)
    assert whole.fitness > short.fitness


def test_a_service_without_room_for_any_request_is_no_candidate() -> None:
    task = online_task(tiny_trace(20), room_mib=2.0)
    evaluator = ServiceEvaluator(task, 1)
    serving = serving_plan(plans(task)[1].stages, task.defaults)
    assert evaluator.refused(serving) == 20
    assert judged(evaluator, [serving], 0) == []


def test_what_is_refused_is_counted_over_the_whole_trace() -> None:
    requests = trace([0.0, 1.0, 2.0], [10, 10, 3000], [5, 5, 5])
    task = online_task(requests)
    serving = serving_plan(plans(task)[0].stages, task.defaults)
    assert ServiceEvaluator(task, 1).refused(serving) == 1
