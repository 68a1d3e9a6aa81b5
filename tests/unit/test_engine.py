from collections.abc import Callable
from math import isnan

import pytest

from llmpq_sim.simulator.static.engine import simulate_steps
from llmpq_sim.simulator.static.recurrence import compute_steps
from llmpq_sim.simulator.static.step_graph import StepGraph, StepTimes
from tests.oracles.closed_form import decode_round_s, pipeline_makespan_s
from tests.rings import ring_graph

Run = Callable[[StepGraph, float], StepTimes]
either_engine = pytest.mark.parametrize("run", [simulate_steps, compute_steps])


@either_engine
def test_a_stage_works_while_the_next_one_does(run: Run) -> None:
    graph = StepGraph(((2.0, 2.0), (3.0, 3.0)), ((0.0, 0.0),) * 2, ((), ()), starts=2)
    assert run(graph, 0.0) == StepTimes([0.0, 2.0], [5.0, 8.0], 8.0)


@either_engine
def test_a_result_waits_for_the_link_while_its_stage_goes_on(run: Run) -> None:
    graph = StepGraph(((1.0, 1.0), (1.0, 1.0)), ((4.0, 4.0), (0.0, 0.0)), ((), ()), starts=2)
    assert run(graph, 0.0).sampled_s == [1 + 4 + 1, 1 + 4 + 4 + 1]


@either_engine
def test_a_step_enters_once_the_token_before_it_has_returned(run: Run) -> None:
    graph = StepGraph(((1.0, 1.0), (1.0, 1.0)), ((0.5, 0.5), (0.25, 0.25)), ((1,), ()), starts=1)
    assert run(graph, 0.0).sampled_s == [2.5, 2.5 + 0.25 + 2.5]


@either_engine
def test_a_stage_serves_who_came_first_not_who_has_the_lower_number(run: Run) -> None:
    graph = StepGraph(((1.0, 1.0, 1.0),), ((0.0, 0.0, 0.0),), ((2, 1), (), ()), starts=1)
    assert run(graph, 0.0).sampled_s == [1.0, 3.0, 2.0]


@either_engine
def test_a_wave_begins_when_it_is_told(run: Run) -> None:
    graph = StepGraph(((2.0,),), ((0.0,),), ((),), starts=1)
    assert run(graph, 7.5) == StepTimes([7.5], [9.5], 9.5)


@either_engine
def test_a_wave_that_takes_no_time_ends_as_it_begins(run: Run) -> None:
    graph = ring_graph(
        stages=3, rows=4, prefill=1, decode=2, rounds=[5, 3], service_s=lambda stage, step: 0.0
    )
    assert run(graph, 2.0) == StepTimes([2.0] * 12, [2.0] * 12, 2.0)


@either_engine
def test_one_stage_serves_one_step_after_the_other(run: Run) -> None:
    graph = ring_graph(
        stages=1, rows=4, prefill=2, decode=2, rounds=[2, 2], service_s=lambda stage, step: 3.0
    )
    assert run(graph, 0.0).sampled_s == [3.0, 6.0, 9.0, 12.0, 15.0, 18.0]


def test_every_stage_step_is_told_when_it_ends() -> None:
    told: list[tuple[int, int, float, float]] = []
    graph = StepGraph(((2.0, 2.0), (3.0, 3.0)), ((1.0, 1.0), (0.0, 0.0)), ((), ()), starts=2)
    simulate_steps(graph, 0.0, lambda *step: told.append(step))
    assert told == [(0, 0, 0.0, 2.0), (0, 1, 2.0, 4.0), (1, 0, 3.0, 6.0), (1, 1, 6.0, 9.0)]


def test_a_simulation_ends_after_so_many_stage_steps() -> None:
    told: list[tuple[int, int, float, float]] = []
    graph = StepGraph(((2.0, 2.0), (3.0, 3.0)), ((1.0, 1.0), (0.0, 0.0)), ((), ()), starts=2)
    times = simulate_steps(graph, 0.0, lambda *step: told.append(step), most_steps=3)
    assert len(told) == 3
    assert times.end_s == times.sampled_s[0] == 6.0
    assert isnan(times.sampled_s[1])


@pytest.mark.parametrize(
    ("prefill_s", "decode_s"),
    [
        ([1.6110, 1.7309, 1.7309, 1.7309], [0.1561, 0.0829, 0.0829, 0.0829]),
        ([1.4770, 1.8231, 1.8231, 1.7950], [0.0667, 0.0833, 0.0833, 0.1871]),
    ],
)
def test_the_papers_batch_on_cluster_3_takes_what_the_closed_form_says(
    prefill_s: list[float], decode_s: list[float]
) -> None:
    """Source of the stage costs: the authors' log of OPT-30b in micro-batches of 8."""
    graph = ring_graph(
        stages=4,
        rows=32,
        prefill=8,
        decode=8,
        rounds=[99] * 4,
        service_s=lambda stage, step: (prefill_s if step < 4 else decode_s)[stage],
    )
    expected_s = pipeline_makespan_s(prefill_s, 4) + 99 * decode_round_s(decode_s, 4)
    assert compute_steps(graph).end_s == pytest.approx(expected_s, rel=0.01)
