from dataclasses import replace
from itertools import accumulate, pairwise
from math import isnan
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.simulator.static.engine import simulate_steps
from llmpq_sim.simulator.static.recurrence import compute_steps
from llmpq_sim.simulator.static.step_graph import StepGraph
from tests.oracles.closed_form import decode_round_s, pipeline_makespan_s
from tests.rings import ring_graph, ring_successors

Successors = tuple[tuple[int, ...], ...]
StageStep = tuple[int, int, float, float]

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
    """Any wave: each step follows any earlier one, in any order, so numbers are no order."""
    starts, later = draw(st.integers(1, 4)), draw(st.integers(0, 20))
    order = draw(st.permutations(range(starts, starts + later)))
    successors: list[list[int]] = [[] for _ in range(starts + later)]
    for step in order:
        successors[draw(st.integers(0, step - 1))].append(step)
    return starts, tuple(tuple(followers) for followers in successors)


@st.composite
def graphs(draw: st.DrawFn, structures: st.SearchStrategy[tuple[int, Successors]]) -> StepGraph:
    starts, successors = draw(structures)
    stages = draw(st.integers(1, 6))
    palette = draw(st.lists(durations, min_size=1, max_size=6))
    random = Random(draw(st.integers(0, 1000)))
    service_s, transfer_s = (
        tuple(tuple(random.choices(palette, k=len(successors))) for _ in range(stages))
        for _ in ("service", "transfer")
    )
    return StepGraph(service_s, transfer_s, successors, starts)


rings = graphs(ring_structures())
any_graphs = graphs(ring_structures() | tree_structures())


def steps_of(graph: StepGraph) -> list[list[StageStep]]:
    """Run a graph; return what each stage served, in order."""
    stages: list[list[StageStep]] = [[] for _ in graph.service_s]
    simulate_steps(graph, 0.0, lambda *step: stages[step[0]].append(step))
    return stages


@given(any_graphs, instants)
def test_the_recurrence_equals_the_simpy_model_in_every_bit(
    graph: StepGraph, start_s: float
) -> None:
    times = compute_steps(graph, start_s)
    assert times == simulate_steps(graph, start_s)
    assert times.end_s == max(times.sampled_s)


@given(any_graphs, st.integers(1, 80))
def test_a_simulation_that_ends_early_has_the_instants_until_then(
    graph: StepGraph, most: int
) -> None:
    steps: list[StageStep] = []
    early = simulate_steps(graph, 0.0, lambda *step: steps.append(step), most)
    whole = simulate_steps(graph)
    assert len(steps) >= min(most, graph.steps * len(graph.service_s))
    for at_s, whole_s in zip(early.sampled_s, whole.sampled_s, strict=True):
        assert at_s == whole_s <= early.end_s or (isnan(at_s) and whole_s >= early.end_s)


@given(rings)
def test_the_order_of_arrival_is_the_order_of_numbers(graph: StepGraph) -> None:
    for served in steps_of(graph):
        assert [step for _, step, _, _ in served] == list(range(graph.steps))


@given(any_graphs)
def test_every_step_passes_every_stage_once_and_for_its_time(graph: StepGraph) -> None:
    for service_s, served in zip(graph.service_s, steps_of(graph), strict=True):
        assert sorted(step for _, step, _, _ in served) == list(range(graph.steps))
        assert all(end_s == begin_s + service_s[step] for _, step, begin_s, end_s in served)


@given(any_graphs)
def test_no_stage_serves_two_at_once(graph: StepGraph) -> None:
    for served in steps_of(graph):
        assert all(before[3] <= after[2] for before, after in pairwise(served))


@given(any_graphs)
def test_no_step_is_at_two_stages_at_once(graph: StepGraph) -> None:
    for stage, following in pairwise(steps_of(graph)):
        for before, after in zip(stage, following, strict=True):
            assert before[1] == after[1]
            assert before[3] <= after[2]


@given(any_graphs, instants)
def test_stage_steps_are_told_in_order_of_time(graph: StepGraph, start_s: float) -> None:
    ends_s: list[float] = []
    simulate_steps(graph, start_s, lambda stage, step, begin_s, end_s: ends_s.append(end_s))
    assert ends_s == sorted(ends_s)


@given(any_graphs, instants, st.integers(-20, 20))
def test_scaling_all_times_scales_all_instants(
    graph: StepGraph, start_s: float, power: int
) -> None:
    scale = 2.0**power
    scaled = replace(
        graph,
        service_s=tuple(tuple(scale * time_s for time_s in row) for row in graph.service_s),
        transfer_s=tuple(tuple(scale * time_s for time_s in row) for row in graph.transfer_s),
    )
    expected_s = [scale * at_s for at_s in compute_steps(graph, start_s).sampled_s]
    assert compute_steps(scaled, scale * start_s).sampled_s == expected_s


@given(any_graphs, durations, st.data())
def test_a_longer_service_makes_nothing_earlier(
    graph: StepGraph, more_s: float, data: st.DataObject
) -> None:
    stage = data.draw(st.integers(0, len(graph.service_s) - 1))
    step = data.draw(st.integers(0, graph.steps - 1))
    service_s = [list(row) for row in graph.service_s]
    service_s[stage][step] += more_s
    longer = replace(graph, service_s=tuple(tuple(row) for row in service_s))
    before, after = compute_steps(graph), compute_steps(longer)
    assert all(was <= is_ for was, is_ in zip(before.sampled_s, after.sampled_s, strict=True))


@given(rings)
def test_one_stage_without_links_is_busy_throughout(graph: StepGraph) -> None:
    alone = replace(graph, service_s=graph.service_s[:1], transfer_s=((0.0,) * graph.steps,))
    assert compute_steps(alone).sampled_s == list(accumulate(graph.service_s[0]))


@st.composite
def servers(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    """Times of stages and hops for all steps alike: whole numbers, so that sums are exact."""
    stages = draw(st.integers(1, 6))
    times = st.lists(st.integers(0, 6).map(float), min_size=stages, max_size=stages)
    return draw(times), draw(times)


def graph_of_equal_steps(
    servers: tuple[list[float], list[float]], micro_batches: int, rounds: int
) -> StepGraph:
    stage_s, hop_s = servers
    return ring_graph(
        stages=len(stage_s),
        rows=micro_batches,
        prefill=1,
        decode=1,
        rounds=[rounds] * micro_batches,
        service_s=lambda stage, step: stage_s[stage],
        transfer_s=lambda hop, step: hop_s[hop],
    )


@given(servers(), st.integers(1, 12))
def test_equal_micro_batches_take_the_sum_and_turns_of_the_slowest(
    servers: tuple[list[float], list[float]], micro_batches: int
) -> None:
    stage_s, hop_s = servers
    graph = graph_of_equal_steps(servers, micro_batches, rounds=0)
    assert compute_steps(graph).end_s == pipeline_makespan_s(stage_s + hop_s[:-1], micro_batches)


@given(servers(), st.integers(1, 6))
def test_steady_decode_takes_the_ring_or_turns_of_the_slowest(
    servers: tuple[list[float], list[float]], groups: int
) -> None:
    """The line before a server almost as slow as the slowest takes many rounds to settle."""
    stage_s, hop_s = servers
    sampled_s = compute_steps(graph_of_equal_steps(servers, groups, rounds=100)).sampled_s
    before, last = sampled_s[-2 * groups : -groups], sampled_s[-groups:]
    took_s = {now - then for then, now in zip(before, last, strict=True)}
    assert took_s == {decode_round_s(stage_s + hop_s, groups)}
