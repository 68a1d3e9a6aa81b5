import pytest

from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.genetic import evaluation
from llmpq_sim.search.genetic.evaluation import Evaluator
from llmpq_sim.search.genetic.evolution import (
    PATIENCE,
    POPULATION,
    EvolutionState,
    evolve,
    first_state,
    stream,
)
from llmpq_sim.search.genetic.operators import Operators
from llmpq_sim.search.scoring import fits, keeps_budget
from tests.builders import plan_at, task_grid, tiny_model, tiny_scenario, tiny_task


@pytest.fixture(name="task", scope="module")
def _task() -> PlanningTask:
    return tiny_task(tiny_scenario(model=tiny_model(8)), budget=0.03)


def start(task: PlanningTask, seed: int = 0) -> EvolutionState:
    """Return the first state from one slow plan."""
    slow = plan_at(task.costs.scenario, ((1, 8),), ["fp16"] * 8, MicroBatching(1, 1, 1))
    return first_state([slow], operators(task), evaluator(task), stream(seed, b"test"))


def operators(task: PlanningTask) -> Operators:
    return Operators(task, task_grid(task))


def evaluator(task: PlanningTask) -> Evaluator:
    return Evaluator(Screen(task), 1)


def run(
    task: PlanningTask, generations: int, *, seed: int = 0, by_front: bool = False
) -> tuple[EvolutionState, list[float]]:
    """Return the last state and the best makespan after each generation."""
    bests: list[float] = []

    def note(state: EvolutionState) -> bool:
        bests.append(state.best.makespan_s)
        return True

    state = evolve(
        start(task, seed),
        operators(task),
        evaluator(task),
        generations,
        by_front=by_front,
        on_generation=note,
    )
    return state, bests


def test_the_best_plan_only_becomes_better(task: PlanningTask) -> None:
    first_s = start(task).best.makespan_s
    state, bests = run(task, 12)
    assert bests == sorted(bests, reverse=True)
    assert state.best.makespan_s < first_s / 2


def test_every_survivor_is_feasible_and_there_are_no_more_than_a_population(
    task: PlanningTask,
) -> None:
    state, _ = run(task, 5)
    assert len(state.population) == POPULATION
    for member in state.population:
        assert fits(member.plan, task)
        assert keeps_budget(member.plan, task)
    assert len({member.plan for member in state.population}) == POPULATION


def test_no_plan_of_the_front_is_beaten_by_another(task: PlanningTask) -> None:
    state, _ = run(task, 8, by_front=True)
    assert len(state.front) > 1
    ordered = sorted(state.front, key=lambda member: member.makespan_s)
    losses = [member.loss for member in ordered]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == len(losses)
    assert all(member.is_simulated for member in state.front)


def test_only_simulated_plans_are_in_the_front(
    task: PlanningTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "VISITS_PER_CALL", 0)
    state, _ = run(task, 3)
    assert not all(member.is_simulated for member in state.population)
    assert all(member.is_simulated for member in state.front)


def test_the_same_seed_finds_the_same_plans(task: PlanningTask) -> None:
    (one, bests), (same, same_bests) = run(task, 6), run(task, 6)
    assert bests == same_bests
    assert one.evaluations == same.evaluations
    assert plans(one) == plans(same)
    assert plans(run(task, 6, seed=1)[0]) != plans(one)


def plans(state: EvolutionState) -> list[Plan]:
    return [member.plan for member in state.population]


def test_going_on_from_a_state_is_the_same_as_not_stopping(task: PlanningTask) -> None:
    whole, _ = run(task, 6)
    halfway, _ = run(task, 3)
    resumed = evolve(
        halfway,
        operators(task),
        evaluator(task),
        6,
        by_front=False,
        on_generation=lambda state: True,
    )
    assert plans(resumed) == plans(whole)
    assert (resumed.generation, resumed.evaluations) == (whole.generation, whole.evaluations)


def test_evolution_stops_when_it_has_stalled_or_is_told_to(task: PlanningTask) -> None:
    state, bests = run(task, 500)
    assert state.stalled == PATIENCE
    assert len(set(bests[-PATIENCE:])) == 1
    stopped = evolve(
        start(task),
        operators(task),
        evaluator(task),
        500,
        by_front=False,
        on_generation=lambda state: state.generation < 2,
    )
    assert stopped.generation == 2


def test_streams_of_one_seed_differ_by_name() -> None:
    assert stream(1, b"one").random() == stream(1, b"one").random()
    assert stream(1, b"one").random() != stream(1, b"other").random()


def test_there_is_no_population_without_a_seed(task: PlanningTask) -> None:
    state = first_state([], operators(task), evaluator(task), stream(0, b"test"))
    assert (state.population, state.front) == ([], [])
