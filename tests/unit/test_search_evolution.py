import random
from copy import deepcopy
from typing import NoReturn

import numpy as np
import pytest
from deap import base

from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.search.bound.feasibility import task_grid
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.genetic import evaluation
from llmpq_sim.search.genetic.batches import (
    PATIENCE,
    POPULATION,
    PlanIndividual,
    PlanState,
    SimulatedFront,
    plan_effort,
    plan_toolbox,
)
from llmpq_sim.search.genetic.evaluation import Evaluator
from llmpq_sim.search.genetic.evolution import EvolutionState, begin, evolve, stream
from llmpq_sim.search.genetic.operators import Operators
from llmpq_sim.search.scoring import fits, keeps_budget
from tests.builders import plan_at, tiny_model, tiny_scenario, tiny_task


@pytest.fixture(name="task", scope="module")
def _task() -> PlanningTask:
    return tiny_task(tiny_scenario(model=tiny_model(8)), budget=0.03)


def start(task: PlanningTask, seed: int = 0) -> PlanState:
    """Return the first state from one slow plan."""
    slow = plan_at(task.costs.scenario, ((1, 8),), ["fp16"] * 8, MicroBatching(1, 1, 1))
    state: PlanState = EvolutionState(stream(seed, b"test"), SimulatedFront())
    begin(state, toolbox(task, state), plan_effort(), [slow])
    return state


def toolbox(task: PlanningTask, state: PlanState, *, by_front: bool = False) -> base.Toolbox:
    return plan_toolbox(operators(task), evaluator(task), state.rng, by_front=by_front)


def operators(task: PlanningTask) -> Operators:
    return Operators(task, task_grid(task))


def evaluator(task: PlanningTask) -> Evaluator:
    return Evaluator(Screen(task), 1)


def run(
    task: PlanningTask, generations: int, *, seed: int = 0, by_front: bool = False
) -> tuple[PlanState, list[float]]:
    """Return the last state and the best makespan after each generation."""
    state = start(task, seed)
    return state, go_on(task, state, generations, by_front=by_front)


def go_on(
    task: PlanningTask, state: PlanState, generations: int, *, by_front: bool = False, stop: int = 0
) -> list[float]:
    """Evolve a state to so many generations; return the best makespan after each."""
    bests: list[float] = []

    def note() -> bool:
        bests.append(state.best.makespan_s)
        return state.generation != stop

    effort = plan_effort(by_front=by_front)
    evolve(state, toolbox(task, state, by_front=by_front), effort, generations, note)
    return bests


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
    assert len(state.hall) > 1
    ordered = sorted(state.hall, key=lambda member: member.makespan_s)
    losses = [member.loss for member in ordered]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == len(losses)
    assert all(member.is_simulated for member in state.hall)


def test_only_simulated_plans_are_in_the_front(
    task: PlanningTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "STEPS_PER_CALL", 0)
    state, _ = run(task, 3)
    assert not all(member.is_simulated for member in state.population)
    assert all(member.is_simulated for member in state.hall)


def test_the_same_seed_finds_the_same_plans(task: PlanningTask) -> None:
    (one, bests), (same, same_bests) = run(task, 6), run(task, 6)
    assert bests == same_bests
    assert one.evaluations == same.evaluations
    assert plans(one) == plans(same)
    assert plans(run(task, 6, seed=1)[0]) != plans(one)


def plans(state: PlanState) -> list[Plan]:
    return [member.plan for member in state.population]


def test_going_on_from_a_state_is_the_same_as_not_stopping(task: PlanningTask) -> None:
    whole, _ = run(task, 6)
    resumed, _ = run(task, 3)
    go_on(task, resumed, 6)
    assert plans(resumed) == plans(whole)
    assert (resumed.generation, resumed.evaluations) == (whole.generation, whole.evaluations)
    assert list(resumed.logbook) == list(whole.logbook)


def test_evolution_stops_when_it_has_stalled_or_is_told_to(task: PlanningTask) -> None:
    state, bests = run(task, 500)
    assert state.stalled == PATIENCE
    assert len(set(bests[-PATIENCE:])) == 1
    stopped = start(task)
    go_on(task, stopped, 500, stop=2)
    assert stopped.generation == 2


def test_the_logbook_has_a_row_for_each_generation_and_says_what_survives(
    task: PlanningTask,
) -> None:
    state, bests = run(task, 5)
    rows = state.logbook
    assert rows.select("gen") == [0, 1, 2, 3, 4, 5]
    assert sum(rows.select("evaluations")) == state.evaluations
    assert rows.select("best")[1:] == bests
    makespans_s = sorted(member.makespan_s for member in state.population)
    assert (rows[-1]["best"], rows[-1]["worst"]) == (makespans_s[0], makespans_s[-1])
    middle = len(makespans_s) // 2
    assert rows[-1]["median"] == pytest.approx(sum(makespans_s[middle - 1 : middle + 1]) / 2)


def test_an_interrupted_generation_leaves_the_one_before(
    task: PlanningTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, _ = run(task, 2)
    before = (plans(state), state.generation, state.evaluations, len(state.logbook))

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(Evaluator, "judge", interrupt)
    with pytest.raises(KeyboardInterrupt):
        go_on(task, state, 4)
    assert (plans(state), state.generation, state.evaluations, len(state.logbook)) == before


def test_nothing_is_drawn_from_the_global_generators(task: PlanningTask) -> None:
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    run(task, 3, by_front=True)
    assert random.getstate() == state
    assert str(np.random.get_state()) == str(numpy_state)  # noqa: NPY002


def test_a_hall_of_fame_keeps_the_very_individuals(task: PlanningTask) -> None:
    one = PlanIndividual(start(task).best.plan)
    assert deepcopy(one) is one


def test_streams_of_one_seed_differ_by_name() -> None:
    assert stream(1, b"one").random() == stream(1, b"one").random()
    assert stream(1, b"one").random() != stream(1, b"other").random()


def test_there_is_no_population_without_a_seed(task: PlanningTask) -> None:
    state: PlanState = EvolutionState(stream(0, b"test"), SimulatedFront())
    begin(state, toolbox(task, state), plan_effort(), [])
    assert (state.population, list(state.hall), list(state.logbook)) == ([], [], [])
