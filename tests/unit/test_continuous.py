import numpy as np
import pytest

from llmpq_sim.simulator.continuous.mixed_costs import BatchLoad
from llmpq_sim.simulator.continuous.recurrence import compute_service
from llmpq_sim.simulator.continuous.service_times import service_result
from llmpq_sim.simulator.continuous.settings import ServiceObjectives
from tests.serving import ENGINES, Run, even_pipeline, limits, trace, with_batch_of

either_engine = pytest.mark.parametrize("run", ENGINES)


@either_engine
def test_a_request_alone_takes_the_sum_of_its_parts(run: Run) -> None:
    limit = limits()
    pipeline = even_pipeline(
        limit,
        stages=3,
        token_s=0.25,
        sample_s=0.5,
        prompt_s=0.125,
        context_s=0.0625,
        transfer_s=2.0,
    )
    times = run(pipeline, trace([0.0], [20], [3]), limit)
    loads = [
        BatchLoad(0, 0, ((start, chunk),), start == 16)
        for start, chunk in ((0, 8), (8, 8), (16, 4))
    ]
    loads += [BatchLoad(1, context, (), 1) for context in (21, 22)]
    round_s = [sum(pipeline.service_s(stage, load) + 2.0 for stage in range(3)) for load in loads]
    assert times.first_s[0] == sum(round_s[:3]) - 2.0
    assert times.last_s[0] == sum(round_s) - 2.0
    assert round_s[2] == 3 * (1 + 4 * 0.25 + 4 * 0.125 + 2) + 0.5
    assert round_s[3] == 3 * (1 + 0.25 + 21 * 0.0625 + 2) + 0.5


@either_engine
def test_decodes_come_first_and_a_prompt_gets_what_is_left_of_the_budget(run: Run) -> None:
    limit = limits(token_budget=4)
    times = run(even_pipeline(limit), trace([0.0, 0.5], [4, 6], [9, 1]), limit)
    # Batches end at 1, 2, ...: 4 of prompt 0; then one decode and 3 of prompt 1, twice.
    assert times.first_s.tolist() == [1.0, 3.0]
    assert times.last_s.tolist() == [9.0, 3.0]


@either_engine
def test_whole_prompts_come_before_decodes(run: Run) -> None:
    limit = limits(token_budget=64, chunked_prefill=False)
    times = run(even_pipeline(limit), trace([0.0, 0.5, 0.5], [4, 6, 9], [2, 1, 1]), limit)
    assert times.first_s.tolist() == [1.0, 2.0, 2.0]
    assert times.last_s.tolist() == [3.0, 2.0, 2.0]


@either_engine
def test_as_many_batches_are_under_way_as_there_are_stages(run: Run) -> None:
    limit = limits(token_budget=4)
    times = run(even_pipeline(limit, stages=2), trace([0.0] * 3, [4] * 3, [1] * 3), limit)
    assert times.first_s.tolist() == [2.0, 3.0, 4.0]


@either_engine
@pytest.mark.parametrize(("ahead", "second_s"), [(True, [22.0, 23.0]), (False, [22.0, 22.0])])
def test_batches_that_return_while_stage_0_works_stay_apart_only_if_formed_ahead(
    run: Run, ahead: bool, second_s: list[float]
) -> None:
    limit = limits(token_budget=4, sequence_limit=3, schedules_ahead=ahead)
    # The third prompt holds stage 0 from 2 to 19, while the others return.
    pipeline = with_batch_of(even_pipeline(limit, stages=3), 0, 3, 17.0)
    times = run(pipeline, trace([0.0, 0.5, 1.5], [4, 4, 3], [2, 2, 1]), limit)
    assert times.first_s[:2].tolist() == [3.0, 4.0]
    assert times.last_s[:2].tolist() == second_s


@either_engine
def test_the_last_one_admitted_gives_its_blocks_and_keeps_its_tokens(run: Run) -> None:
    limit = limits(longest_context_tokens=12)
    pipeline = even_pipeline(limit, blocks=3)
    times = run(pipeline, trace([0.0, 0.0], [4, 4], [6, 6]), limit)
    # At 1 both need a second block and one is left: request 1 is computed anew after 0 is done.
    assert times.preemptions == 1
    assert times.first_s.tolist() == [1.0, 1.0]
    assert times.last_s.tolist() == [6.0, 11.0]
    assert times.gaps.summary(0.0).p99 > 5.0


@either_engine
@pytest.mark.parametrize(("caches", "last_s", "reused"), [(False, 8.0, 0), (True, 7.0, 8)])
def test_who_is_evicted_finds_what_is_left_of_its_blocks_again(
    run: Run, caches: bool, last_s: float, reused: int
) -> None:
    limit = limits(longest_context_tokens=12, prefix_caching=caches)
    times = run(even_pipeline(limit, blocks=5), trace([0.0, 0.0], [4, 4], [6, 6]), limit)
    # At 5 both need a third block and one is left. Of the 9 tokens of request 1, 8 fill 2 blocks.
    assert (times.preemptions, times.reused_tokens) == (1, reused)
    assert times.last_s.tolist() == [6.0, last_s]


@either_engine
def test_who_would_take_the_blocks_of_others_waits_until_they_are_done(run: Run) -> None:
    limit = limits(longest_context_tokens=12, admission="no-evict")
    pipeline = even_pipeline(limit, blocks=6)
    times = run(pipeline, trace([0.0] * 3, [4] * 3, [6, 2, 6]), limit)
    # 3, 2 and 3 blocks until the last tokens: request 2 begins when 1 is done, at 2.
    assert times.preemptions == 0
    assert times.first_s.tolist() == [1.0, 1.0, 3.0]
    assert times.last_s.tolist() == [6.0, 2.0, 8.0]


@either_engine
def test_blocks_of_a_shared_prefix_are_promised_once(run: Run) -> None:
    limit = limits(longest_context_tokens=12, admission="no-evict", prefix_caching=True)
    workload = trace([0.0, 0.5], [5, 5], [6, 6], ((1, 2), (1, 3)), 4)
    apart = trace([0.0, 0.5], [5, 5], [6, 6], ((1, 2), (4, 3)), 4)
    pipeline = even_pipeline(limit, blocks=5)
    assert run(pipeline, workload, limit).first_s.tolist() == [1.0, 2.0]
    assert run(pipeline, apart, limit).first_s.tolist() == [1.0, 7.0]


@either_engine
def test_long_prompts_leave_room_beside_them_where_they_are_cut_smaller(run: Run) -> None:
    limit = limits(chunk_tokens=6)
    times = run(even_pipeline(limit), trace([0.0, 0.0], [18, 4], [1, 1]), limit)
    # Batches: 6 + 2, 6 + 2, 6 tokens.
    assert times.first_s.tolist() == [3.0, 2.0]


@either_engine
def test_fewer_batches_may_be_under_way_than_there_are_stages(run: Run) -> None:
    limit = limits(token_budget=4, batches_in_flight=1)
    times = run(even_pipeline(limit, stages=2), trace([0.0] * 3, [4] * 3, [1] * 3), limit)
    assert times.first_s.tolist() == [2.0, 4.0, 6.0]


@either_engine
def test_requests_that_can_never_fit_are_refused(run: Run) -> None:
    limit = limits(longest_context_tokens=40)
    pipeline = even_pipeline(limit, blocks=5)
    times = run(pipeline, trace([0.0] * 3, [39, 18, 17], [2, 3, 3]), limit)
    assert np.isnan(times.first_s).tolist() == [True, True, False]


@either_engine
def test_a_prompt_seen_before_is_not_computed_again(run: Run) -> None:
    limit = limits(prefix_caching=True)
    workload = trace([0.0, 9.0], [16, 18], [1, 1], ((1, 2), (1, 2)), 8)
    times = run(even_pipeline(limit, token_s=1.0), workload, limit)
    assert times.reused_tokens == 16
    assert times.first_s[1] - 18.0 == 1.0 + 2.0


def test_metrics_are_those_of_the_instants() -> None:
    limit = limits()
    pipeline = even_pipeline(limit, blocks=4)
    workload = trace([0.0, 1.0, 2.0], [4, 4, 400], [3, 1, 1])
    times = compute_service(pipeline, workload, limit)
    result = service_result(times, workload, pipeline, ServiceObjectives(ttft_s=1.0, tpot_s=1.0))
    assert (result.requests, result.finished, result.refused) == (3, 2, 1)
    assert (result.output_tokens, result.makespan_s) == (4, 3.0)
    assert (result.ttft_s.mean, result.tpot_s.mean, result.itl_s.mean) == (1.0, 1.0, 1.0)
    assert result.kv_peak_fraction == (0.75,)
    assert (result.good, result.goodput_per_s) == (2, 2 / 3)


@pytest.mark.parametrize(
    ("objectives", "good"),
    [
        (ServiceObjectives(), 2),
        (ServiceObjectives(ttft_s=2.0), 2),
        (ServiceObjectives(ttft_s=1.5), 1),
        (ServiceObjectives(tpot_s=0.5), 1),
        (ServiceObjectives(latency_s=2.5), 1),
    ],
)
def test_a_request_is_good_if_it_meets_every_objective(
    objectives: ServiceObjectives, good: int
) -> None:
    limit = limits(token_budget=4)
    pipeline, workload = even_pipeline(limit), trace([0.0, 0.0], [4, 3], [3, 1])
    times = compute_service(pipeline, workload, limit)
    assert service_result(times, workload, pipeline, objectives).good == good
    assert service_result(times, workload, pipeline, None).goodput_per_s is None


def test_where_nothing_can_be_served_rates_are_zero() -> None:
    limit = limits()
    pipeline, workload = even_pipeline(limit, blocks=0), trace([0.0], [4], [3])
    result = service_result(compute_service(pipeline, workload, limit), workload, pipeline, None)
    assert (result.refused, result.makespan_s) == (1, 0.0)
    assert (result.tokens_per_s, result.requests_per_s, result.stage_busy_fraction) == (0, 0, (0,))
    assert result.kv_peak_fraction == (0.0,)
