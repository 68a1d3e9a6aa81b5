from collections.abc import Callable

import pytest

from llmpq_sim.simulator.static.engine import run_wave_plainly
from llmpq_sim.simulator.static.recurrence import run_wave
from llmpq_sim.simulator.static.step_graph import Wave, WaveTimes
from tests.oracles.closed_form import decode_round_s, pipeline_makespan_s
from tests.rings import ring_wave

Run = Callable[[Wave, float], WaveTimes]
either_engine = pytest.mark.parametrize("run", [run_wave, run_wave_plainly])


@either_engine
def test_a_stage_works_while_the_next_one_does(run: Run) -> None:
    wave = Wave(((2.0, 2.0), (3.0, 3.0)), ((0.0, 0.0),) * 2, ((), ()), starts=2)
    assert run(wave, 0.0) == WaveTimes([5.0, 8.0], 8.0)


@either_engine
def test_a_result_waits_for_the_link_while_its_stage_goes_on(run: Run) -> None:
    wave = Wave(((1.0, 1.0), (1.0, 1.0)), ((4.0, 4.0), (0.0, 0.0)), ((), ()), starts=2)
    assert run(wave, 0.0).sampled_s == [1 + 4 + 1, 1 + 4 + 4 + 1]


@either_engine
def test_a_visit_enters_once_the_token_before_it_has_returned(run: Run) -> None:
    wave = Wave(((1.0, 1.0), (1.0, 1.0)), ((0.5, 0.5), (0.25, 0.25)), ((1,), ()), starts=1)
    assert run(wave, 0.0).sampled_s == [2.5, 2.5 + 0.25 + 2.5]


@either_engine
def test_a_stage_serves_who_came_first_not_who_has_the_lower_number(run: Run) -> None:
    wave = Wave(((1.0, 1.0, 1.0),), ((0.0, 0.0, 0.0),), ((2, 1), (), ()), starts=1)
    assert run(wave, 0.0).sampled_s == [1.0, 3.0, 2.0]


@either_engine
def test_a_wave_begins_when_it_is_told(run: Run) -> None:
    wave = Wave(((2.0,),), ((0.0,),), ((),), starts=1)
    assert run(wave, 7.5) == WaveTimes([9.5], 9.5)


@either_engine
def test_a_wave_that_takes_no_time_ends_as_it_begins(run: Run) -> None:
    wave = ring_wave(
        stages=3, rows=4, prefill=1, decode=2, rounds=[5, 3], service_s=lambda stage, visit: 0.0
    )
    assert run(wave, 2.0) == WaveTimes([2.0] * 12, 2.0)


@either_engine
def test_one_stage_serves_one_visit_after_the_other(run: Run) -> None:
    wave = ring_wave(
        stages=1, rows=4, prefill=2, decode=2, rounds=[2, 2], service_s=lambda stage, visit: 3.0
    )
    assert run(wave, 0.0).sampled_s == [3.0, 6.0, 9.0, 12.0, 15.0, 18.0]


def test_every_stage_visit_is_told_when_it_ends() -> None:
    told: list[tuple[int, int, float, float]] = []
    wave = Wave(((2.0, 2.0), (3.0, 3.0)), ((1.0, 1.0), (0.0, 0.0)), ((), ()), starts=2)
    run_wave(wave, 0.0, lambda *visit: told.append(visit))
    assert told == [(0, 0, 0.0, 2.0), (0, 1, 2.0, 4.0), (1, 0, 3.0, 6.0), (1, 1, 6.0, 9.0)]


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
    wave = ring_wave(
        stages=4,
        rows=32,
        prefill=8,
        decode=8,
        rounds=[99] * 4,
        service_s=lambda stage, visit: (prefill_s if visit < 4 else decode_s)[stage],
    )
    expected_s = pipeline_makespan_s(prefill_s, 4) + 99 * decode_round_s(decode_s, 4)
    assert run_wave(wave).end_s == pytest.approx(expected_s, rel=0.01)
