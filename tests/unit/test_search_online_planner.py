from dataclasses import replace

import pytest

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.io.plans import online_to_dict
from llmpq_sim.io.tasks import QualityTarget
from llmpq_sim.search.frame import SearchProgress
from llmpq_sim.search.online.planner import BEST_FOR_BATCH, OnlineOutcome, search_online
from llmpq_sim.search.online.settings_genes import grid
from llmpq_sim.search.online.task import OBJECTIVES, Objective, OnlineTask
from llmpq_sim.search.planner import SearchSettings
from llmpq_sim.simulator.continuous.recurrence import simulate_continuous
from llmpq_sim.simulator.continuous.settings import ServiceObjectives
from tests.online import found, is_allowed, online_task, tiny_trace
from tests.serving import trace

UNPRICED: tuple[Objective, ...] = tuple(name for name in OBJECTIVES if name != "cost")


@pytest.fixture(name="task", scope="module")
def _task() -> OnlineTask:
    return online_task()


@pytest.fixture(name="outcome", scope="module")
def _outcome(task: OnlineTask) -> OnlineOutcome:
    return found(task)


@pytest.mark.parametrize("objective", UNPRICED)
def test_it_is_never_worse_than_any_baseline(task: OnlineTask, objective: Objective) -> None:
    outcome = found(replace(task, objective=objective), generations=1)
    served = [each.served for each in outcome.baselines if each.served is not None]
    assert len(served) > 3
    assert outcome.best.value <= min(each.value for each in served)
    assert outcome.best.result.refused == 0


def test_the_result_is_the_simulation_of_the_whole_trace(
    task: OnlineTask, outcome: OnlineOutcome
) -> None:
    serving = outcome.best.serving
    result = simulate_continuous(
        serving.plan, task.costs, task.workload, serving.settings, objectives=task.objectives
    )
    assert outcome.best.result == outcome.service.result == result
    assert result.requests == task.workload.requests


def test_the_plan_also_fits_the_batch_and_keeps_the_quality_budget(
    task: OnlineTask, outcome: OnlineOutcome
) -> None:
    assert outcome.batch.best.is_feasible
    assert outcome.batch.best.plan.stages == outcome.best.serving.plan.stages
    assert outcome.batch.certificate.bound_s <= outcome.batch.best.makespan_s
    assert is_allowed(outcome.best.serving.settings, len(outcome.best.serving.plan.stages))


def test_the_same_seed_writes_the_same_file(task: OnlineTask, outcome: OnlineOutcome) -> None:
    target = QualityTarget("int4", None)
    again = found(task)
    assert online_to_dict(again, target) == online_to_dict(outcome, target)
    assert again.evaluations == outcome.evaluations


def test_the_number_of_workers_changes_nothing(
    task: OnlineTask, outcome: OnlineOutcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmpq_sim.search.online.evaluation.REQUESTS_PER_POOL", 1)
    two = search_online(task, SearchSettings(0, 3, workers=2))
    assert two.best.serving == outcome.best.serving
    assert two.best.result == outcome.best.result
    assert two.evaluations == outcome.evaluations


def test_the_best_plan_for_the_batch_is_a_baseline(outcome: OnlineOutcome) -> None:
    last = outcome.baselines[-1]
    assert last.name == BEST_FOR_BATCH
    assert last.served is not None


def test_no_point_of_a_full_grid_beats_the_plan_or_any_baseline(
    task: OnlineTask, outcome: OnlineOutcome
) -> None:
    served = [each.served for each in outcome.baselines if each.served is not None]
    for found_one in [outcome.best, *served]:
        plan = found_one.serving.plan
        values = [
            task.value(
                plan,
                simulate_continuous(plan, task.costs, task.workload, each, task.objectives),
            )
            for each in grid(task.defaults)
        ]
        assert found_one.value <= min(values)


def test_goodput_is_at_most_what_arrives(outcome: OnlineOutcome) -> None:
    offered, good = outcome.offered_per_s, outcome.best.result.goodput_per_s
    assert offered is not None
    assert good is not None
    assert good <= offered
    assert outcome.gap_fraction == pytest.approx(1 - good / offered, abs=1e-12)


def test_latencies_and_requests_at_once_have_no_bound(task: OnlineTask) -> None:
    at_once = trace([0.0] * 12, [30] * 12, [4] * 12)
    assert found(online_task(at_once), generations=0).gap_fraction is None
    assert found(replace(task, objective="mean-latency"), generations=0).gap_fraction is None


def test_where_no_request_can_be_good_the_fastest_plan_is_found() -> None:
    never = ServiceObjectives(ttft_s=1e-9)
    outcome = found(online_task(tiny_trace(30), objectives=never), generations=2)
    latencies = [e.served.result.latency_s.mean for e in outcome.baselines if e.served]
    assert outcome.best.result.good == 0
    assert outcome.best.value == 0.0
    assert outcome.best.result.latency_s.mean <= min(latencies)


def test_without_room_for_weights_there_is_no_plan() -> None:
    with pytest.raises(InfeasibleError, match=r"^tiny on tiny: does not fit at int4"):
        found(online_task(tiny_trace(10), room_mib=0.1))


def test_without_room_for_any_request_there_is_no_plan() -> None:
    short = trace([0.0] * 9, [1] * 9, [2] * 9)
    with pytest.raises(InfeasibleError) as caught:
        found(online_task(short, room_mib=1.86), generations=0)
    assert str(caught.value).startswith(
        "tiny on tiny: no plan has room for the KV cache of any request beside batches of 8 "
        "tokens; the longest of made up has 3 tokens, "
    )


def test_a_search_without_time_gives_the_best_baseline(task: OnlineTask) -> None:
    outcome = search_online(task, SearchSettings(budget_s=0.0))
    assert outcome.ended == "budget"
    served = [each.served for each in outcome.baselines if each.served]
    assert outcome.best.value == min(each.value for each in served)


def test_an_interruption_keeps_the_best_so_far(task: OnlineTask) -> None:
    def interrupt(progress: SearchProgress) -> None:
        if progress.step == "improving the service" and progress.done == 2:
            raise KeyboardInterrupt

    outcome = search_online(task, SearchSettings(0, 9), interrupt)
    assert (outcome.ended, outcome.generations) == ("interrupted", 2)
    assert outcome.best.result == outcome.service.result


def test_progress_is_told_step_by_step(task: OnlineTask) -> None:
    told: list[str] = []
    search_online(task, SearchSettings(0, 1), lambda progress: told.append(progress.step))
    assert [step for step in dict.fromkeys(told) if step not in {"bound", "seeds"}] == [
        "baselines",
        "generations",
        "tuning plans of others",
        "racing first services",
        "improving the service",
    ]
