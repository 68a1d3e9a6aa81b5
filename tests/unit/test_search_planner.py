import pytest
from hypothesis import assume, given, settings

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.search.bound import bound
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.frame import SearchProgress
from llmpq_sim.search.genetic import evaluation
from llmpq_sim.search.genetic.batches import PlanState
from llmpq_sim.search.planner import SearchOutcome, SearchSettings, search
from tests.builders import tiny_device, tiny_model, tiny_scenario, tiny_task
from tests.strategies import tasks


@pytest.fixture(name="task", scope="module")
def _task() -> PlanningTask:
    devices = [tiny_device(room_mib=8.0), tiny_device("slow", bytes_per_s=7e8)]
    scenario = tiny_scenario(devices, model=tiny_model(8), output_tokens=(12,) * 6)
    return tiny_task(scenario, budget=0.03)


@pytest.fixture(name="found", scope="module")
def _found(task: PlanningTask) -> tuple[SearchOutcome, list[SearchProgress]]:
    """A search of four generations, and what it told of its progress."""
    told_: list[SearchProgress] = []
    return search(task, SearchSettings(seed=3, generations=4), on_progress=told_.append), told_


Found = tuple[SearchOutcome, list[SearchProgress]]


def told(outcome: SearchOutcome) -> tuple[object, ...]:
    """Return what must not depend on the clock."""
    return (
        outcome.best,
        outcome.baselines,
        outcome.front,
        outcome.certificate,
        outcome.evaluations,
        outcome.generations,
        outcome.logbook,
    )


def test_the_same_seed_gives_the_same_outcome_with_any_number_of_workers(
    task: PlanningTask, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "STEPS_PER_POOL", 0)
    again = search(task, SearchSettings(seed=3, generations=4, workers=2))
    assert told(again) == told(found[0])


def test_the_plan_is_at_least_as_fast_as_every_baseline_and_no_faster_than_the_bound(
    found: Found,
) -> None:
    outcome, _ = found
    feasible = [one.score for one in outcome.baselines if one.score and one.score.is_feasible]
    assert feasible
    assert all(outcome.best.makespan_s <= score.makespan_s for score in feasible)
    assert outcome.best.is_feasible
    assert outcome.best.result is not None
    assert outcome.best.result.tokens_per_s <= outcome.bound_tokens_per_s
    assert 0 <= outcome.gap_fraction < 0.2
    assert outcome.ended == "done"


@settings(deadline=None, max_examples=8)
@given(tasks())
def test_the_search_is_never_worse_than_a_baseline(task: PlanningTask) -> None:
    try:
        outcome = search(task, SearchSettings(generations=1))
    except InfeasibleError:
        assume(False)
    for baseline in outcome.baselines:
        if baseline.score is not None and baseline.score.is_feasible:
            assert baseline.infeasible_reason is None
            assert outcome.best.makespan_s <= baseline.score.makespan_s
        else:
            assert baseline.infeasible_reason


def test_without_time_there_is_still_a_plan_and_a_bound(task: PlanningTask) -> None:
    outcome = search(task, SearchSettings(budget_s=0.0))
    assert outcome.ended == "budget"
    assert outcome.best.is_feasible
    assert outcome.generations <= 1
    assert outcome.certificate.bound_s <= outcome.best.makespan_s
    assert outcome.what_if == ()


def test_an_interruption_of_the_evolution_keeps_the_best_plan(task: PlanningTask) -> None:
    seen: list[float] = []

    def interrupt(state: PlanState) -> None:
        seen.append(state.best.makespan_s)
        if state.generation == 2:
            raise KeyboardInterrupt

    outcome = search(task, SearchSettings(), on_state=interrupt)
    assert outcome.ended == "interrupted"
    assert outcome.generations == 2
    assert outcome.best.makespan_s == min(seen)


@pytest.mark.parametrize("step", ["seeds", "generations", "certificate"])
def test_an_interruption_of_any_step_with_a_plan_keeps_it(
    task: PlanningTask, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bound, "TARGET_GAP", 1e-6)

    def interrupt(progress: SearchProgress) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    outcome = search(task, SearchSettings(generations=3), on_progress=interrupt)
    assert outcome.ended == "interrupted"
    assert outcome.best.is_feasible
    assert outcome.certificate.bound_s <= outcome.best.makespan_s


def test_every_step_reports_its_progress(found: Found) -> None:
    outcome, told_ = found
    steps = list(dict.fromkeys(progress.step for progress in told_))
    assert steps[:2] == ["bound", "baselines"]
    assert "generations" in steps
    assert all(0 <= progress.done <= progress.total for progress in told_)
    assert outcome.best.result is not None
    assert told_[-1].best_tokens_per_s == pytest.approx(outcome.best.result.tokens_per_s)


def test_a_front_trades_throughput_for_quality(task: PlanningTask) -> None:
    outcome = search(task, SearchSettings(generations=3, wants_front=True))
    assert len(outcome.front) > 2
    makespans_s = [score.makespan_s for score in outcome.front]
    assert makespans_s == sorted(makespans_s)
    losses = [score.loss for score in outcome.front]
    assert losses == sorted(losses, reverse=True)


def test_one_device_less_is_asked_of_every_kind(found: Found) -> None:
    outcome, _ = found
    assert [what_if.label for what_if in outcome.what_if] == [
        "without one fast",
        "without one slow",
    ]
