from dataclasses import replace
from itertools import accumulate, pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.simulator.static.engine import run_wave_plainly
from llmpq_sim.simulator.static.recurrence import run_wave
from llmpq_sim.simulator.static.step_graph import Wave
from tests.oracles.closed_form import decode_round_s, pipeline_makespan_s
from tests.rings import ring_successors, ring_wave

Successors = tuple[tuple[int, ...], ...]
StageVisit = tuple[int, int, float, float]

# Few different durations, so that instants coincide. No subnormal numbers: scaling rounds them.
durations = st.just(0.0) | st.integers(1, 4).map(float) | st.floats(2.0**-20, 2.0**10)
instants = st.just(0.0) | st.floats(2.0**-20, 2.0**20)


@st.composite
def ring_structures(draw: st.DrawFn) -> tuple[int, Successors]:
    """Any batch: prefill micro-batches, then groups that take different numbers of rounds."""
    rows = draw(st.integers(1, 12))
    prefill, decode = draw(st.integers(1, rows)), draw(st.integers(1, rows))
    groups = -(-rows // decode)
    rounds = draw(st.lists(st.integers(0, 4), min_size=groups, max_size=groups))
    return ring_successors(rows, prefill, decode, rounds)


@st.composite
def tree_structures(draw: st.DrawFn) -> tuple[int, Successors]:
    """Any wave: each visit follows any earlier one, in any order, so numbers are no order."""
    starts, later = draw(st.integers(1, 4)), draw(st.integers(0, 20))
    order = draw(st.permutations(range(starts, starts + later)))
    successors: list[list[int]] = [[] for _ in range(starts + later)]
    for visit in order:
        successors[draw(st.integers(0, visit - 1))].append(visit)
    return starts, tuple(tuple(followers) for followers in successors)


@st.composite
def waves(draw: st.DrawFn, structures: st.SearchStrategy[tuple[int, Successors]]) -> Wave:
    starts, successors = draw(structures)
    stages = draw(st.integers(1, 6))
    palette = draw(st.lists(durations, min_size=1, max_size=6))
    random = Random(draw(st.integers(0, 1000)))
    service_s, transfer_s = (
        tuple(tuple(random.choices(palette, k=len(successors))) for _ in range(stages))
        for _ in ("service", "transfer")
    )
    return Wave(service_s, transfer_s, successors, starts)


rings = waves(ring_structures())
any_waves = waves(ring_structures() | tree_structures())


def visits_of(wave: Wave) -> list[list[StageVisit]]:
    """Run a wave; return what each stage served, in order."""
    stages: list[list[StageVisit]] = [[] for _ in wave.service_s]
    run_wave(wave, 0.0, lambda *visit: stages[visit[0]].append(visit))
    return stages


def recurrence(wave: Wave, start_s: float) -> list[float]:
    """Sampled instants without events: who comes next never depends on the times."""
    stages = range(len(wave.service_s))
    stage_free_s, link_free_s = [start_s for _ in stages], [start_s for _ in stages]
    ready_s, sampled_s = [start_s] * wave.visits, [start_s] * wave.visits
    order = list(range(wave.starts))
    for visit in order:
        at_s = ready_s[visit]
        for stage in stages:
            at_s = stage_free_s[stage] = (
                max(at_s, stage_free_s[stage]) + wave.service_s[stage][visit]
            )
            sampled_s[visit] = at_s
            at_s = link_free_s[stage] = (
                max(at_s, link_free_s[stage]) + wave.transfer_s[stage][visit]
            )
        for follower in wave.successors[visit]:
            ready_s[follower] = at_s
            order.append(follower)
    return sampled_s


@given(any_waves, instants)
def test_the_engine_equals_its_reference_in_every_bit(wave: Wave, start_s: float) -> None:
    assert run_wave(wave, start_s) == run_wave_plainly(wave, start_s)


@given(any_waves, instants)
def test_the_engine_equals_the_max_plus_recurrence_in_every_bit(wave: Wave, start_s: float) -> None:
    times = run_wave(wave, start_s)
    assert times.sampled_s == recurrence(wave, start_s)
    assert times.end_s == max(times.sampled_s)


@given(rings)
def test_the_order_of_arrival_is_the_order_of_numbers(wave: Wave) -> None:
    for served in visits_of(wave):
        assert [visit for _, visit, _, _ in served] == list(range(wave.visits))


@given(any_waves)
def test_every_visit_passes_every_stage_once_and_for_its_time(wave: Wave) -> None:
    for service_s, served in zip(wave.service_s, visits_of(wave), strict=True):
        assert sorted(visit for _, visit, _, _ in served) == list(range(wave.visits))
        assert all(end_s == begin_s + service_s[visit] for _, visit, begin_s, end_s in served)


@given(any_waves)
def test_no_stage_serves_two_at_once(wave: Wave) -> None:
    for served in visits_of(wave):
        assert all(before[3] <= after[2] for before, after in pairwise(served))


@given(any_waves)
def test_no_visit_is_at_two_stages_at_once(wave: Wave) -> None:
    for stage, following in pairwise(visits_of(wave)):
        for before, after in zip(stage, following, strict=True):
            assert before[1] == after[1]
            assert before[3] <= after[2]


@given(any_waves, instants)
def test_stage_visits_are_told_in_order_of_time(wave: Wave, start_s: float) -> None:
    ends_s: list[float] = []
    run_wave(wave, start_s, lambda stage, visit, begin_s, end_s: ends_s.append(end_s))
    assert ends_s == sorted(ends_s)


@given(any_waves, instants, st.integers(-20, 20))
def test_scaling_all_times_scales_all_instants(wave: Wave, start_s: float, power: int) -> None:
    scale = 2.0**power
    scaled = replace(
        wave,
        service_s=tuple(tuple(scale * time_s for time_s in row) for row in wave.service_s),
        transfer_s=tuple(tuple(scale * time_s for time_s in row) for row in wave.transfer_s),
    )
    expected_s = [scale * at_s for at_s in run_wave(wave, start_s).sampled_s]
    assert run_wave(scaled, scale * start_s).sampled_s == expected_s


@given(any_waves, durations, st.data())
def test_a_longer_service_makes_nothing_earlier(
    wave: Wave, more_s: float, data: st.DataObject
) -> None:
    stage = data.draw(st.integers(0, len(wave.service_s) - 1))
    visit = data.draw(st.integers(0, wave.visits - 1))
    service_s = [list(row) for row in wave.service_s]
    service_s[stage][visit] += more_s
    longer = replace(wave, service_s=tuple(tuple(row) for row in service_s))
    before, after = run_wave(wave), run_wave(longer)
    assert all(was <= is_ for was, is_ in zip(before.sampled_s, after.sampled_s, strict=True))


@given(rings)
def test_one_stage_without_links_is_busy_throughout(wave: Wave) -> None:
    alone = replace(wave, service_s=wave.service_s[:1], transfer_s=((0.0,) * wave.visits,))
    assert run_wave(alone).sampled_s == list(accumulate(wave.service_s[0]))


@st.composite
def servers(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    """Times of stages and hops for all visits alike: whole numbers, so that sums are exact."""
    stages = draw(st.integers(1, 6))
    times = st.lists(st.integers(0, 6).map(float), min_size=stages, max_size=stages)
    return draw(times), draw(times)


def wave_of_equal_visits(
    servers: tuple[list[float], list[float]], micro_batches: int, rounds: int
) -> Wave:
    stage_s, hop_s = servers
    return ring_wave(
        stages=len(stage_s),
        rows=micro_batches,
        prefill=1,
        decode=1,
        rounds=[rounds] * micro_batches,
        service_s=lambda stage, visit: stage_s[stage],
        transfer_s=lambda hop, visit: hop_s[hop],
    )


@given(servers(), st.integers(1, 12))
def test_equal_micro_batches_take_the_sum_and_turns_of_the_slowest(
    servers: tuple[list[float], list[float]], micro_batches: int
) -> None:
    stage_s, hop_s = servers
    wave = wave_of_equal_visits(servers, micro_batches, rounds=0)
    assert run_wave(wave).end_s == pipeline_makespan_s(stage_s + hop_s[:-1], micro_batches)


@given(servers(), st.integers(1, 6))
def test_steady_decode_takes_the_ring_or_turns_of_the_slowest(
    servers: tuple[list[float], list[float]], groups: int
) -> None:
    """The line before a server almost as slow as the slowest takes many rounds to settle."""
    stage_s, hop_s = servers
    sampled_s = run_wave(wave_of_equal_visits(servers, groups, rounds=100)).sampled_s
    before, last = sampled_s[-2 * groups : -groups], sampled_s[-groups:]
    took_s = {now - then for then, now in zip(before, last, strict=True)}
    assert took_s == {decode_round_s(stage_s + hop_s, groups)}
