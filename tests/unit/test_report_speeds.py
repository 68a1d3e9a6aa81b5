"""Speeds of prefill and decode, memory by purpose: laws, and one answer from every source."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.api.prediction import predict_requests
from llmpq_sim.core.plan import Plan
from llmpq_sim.report.json_reports import predicted_content, replay_content
from llmpq_sim.report.memory import memory_table
from llmpq_sim.report.speeds import Speeds, batch_speeds, service_speeds, speeds_row, steps_speeds
from llmpq_sim.search.scoring import score_plan
from llmpq_sim.simulator.continuous.engine import simulate_service
from llmpq_sim.simulator.continuous.recurrence import compute_service
from llmpq_sim.simulator.continuous.watch import Watch
from llmpq_sim.simulator.phases import PassedStep, phases_of
from tests.executions import saved_plan, served
from tests.reports import GOOD, paper, plan_of, small_task, written
from tests.services import made_replay, made_service
from tests.serving import Case, cases


def covered_s(intervals: list[tuple[float, float]]) -> float:
    """Return the length of the union of some intervals, piece by piece between all their ends."""
    ends = sorted({end for interval in intervals for end in interval})
    return sum(
        after - before
        for before, after in itertools.pairwise(ends)
        if any(began <= before and after <= ended for began, ended in intervals)
    )


@st.composite
def passed_steps(draw: st.DrawFn) -> list[PassedStep]:
    """Steps that enter and end in order, of prompts, decodes or both."""
    counts, steps = st.integers(0, 3), list[PassedStep]()
    began_s = ended_s = 0
    for _ in range(draw(st.integers(1, 8))):
        began_s += draw(st.integers(0, 4))
        ended_s = max(ended_s, began_s) + draw(st.integers(0, 4))
        steps.append(PassedStep(began_s, ended_s, draw(counts), draw(counts)))
    return steps


@given(passed_steps())
def test_a_phase_lasts_as_long_as_any_of_its_steps_is_under_way(steps: list[PassedStep]) -> None:
    phases, ends = phases_of(steps), [0.0, *(step.ended_s for step in steps)]
    prompts = [(step.began_s, step.ended_s) for step in steps if step.prompt_tokens]
    decodes = [
        (min(step.began_s, before_s), step.ended_s)
        for step, before_s in zip(steps, ends, strict=False)
        if step.decodes
    ]
    assert phases.prefill_s == covered_s(prompts)
    assert phases.decode_s == covered_s(decodes)
    assert phases.prefill_tokens == sum(step.prompt_tokens for step in steps)
    assert phases.decode_tokens == sum(step.decodes for step in steps)


@given(cases(shared=False))
def test_every_token_of_a_service_is_prefilled_or_decoded(case: Case) -> None:
    times, workload = compute_service(*case), case[1]
    served = times.last_s == times.last_s
    prompts, outputs = workload.prompt_tokens[served], workload.output_tokens[served]
    phases, makespan_s = times.phases, max(times.last_s[served], default=0.0)
    if times.preemptions == 0:
        assert phases.prefill_tokens == prompts.sum()
        assert phases.decode_tokens == (outputs - 1).sum()
    assert phases.prefill_tokens >= prompts.sum()
    assert phases.decode_tokens <= (outputs - 1).sum()
    assert max(phases.prefill_s, phases.decode_s) <= makespan_s


ONE_STAGE = plan_of(("v100-32g-0", "FF8888884444"), batching=(1, 1, 1))
TWO_STAGES = plan_of(("v100-32g-0", "FF888888"), ("p100-12g-0", "8844"), batching=(1, 1, 1))


@pytest.mark.parametrize("plan", [ONE_STAGE, TWO_STAGES])
def test_one_request_prefills_for_its_ttft_and_decodes_at_the_users_speed(plan: Plan) -> None:
    task = small_task(output_tokens=(10,))
    score = score_plan(plan, task)
    speeds, result = batch_speeds(score, task), score.result
    assert speeds is not None
    assert result is not None
    assert speeds.prefill_tokens_per_s == pytest.approx(32 / result.ttft_s.mean)
    assert speeds.decode_tokens_per_s == pytest.approx(speeds.tokens_per_s_per_user)
    assert speeds.tokens_per_s_per_user == pytest.approx(1 / result.tpot_s.mean)


def test_the_batch_of_a_plan_has_the_speeds_of_its_steps() -> None:
    saved = saved_plan()
    prediction = predict_requests(saved, [served(32, 10)] * 8, "static", None)
    score = score_plan(GOOD, saved.task)
    assert steps_speeds(prediction.steps, 2, prediction.result) == batch_speeds(score, saved.task)


def test_a_service_has_the_speeds_of_its_steps() -> None:
    service, loads, steps = made_service(), list[tuple[int, int]](), list[PassedStep]()
    began: dict[int, float] = {}

    def on_step(stage: int, step: int, began_s: float, ended_s: float) -> None:
        if stage == 0:
            began[step] = began_s
        if stage == 1:
            steps.append(PassedStep(began[step], ended_s, *loads[step]))

    watch = Watch(on_step, lambda _, decodes, prompts, *__: loads.append((decodes, prompts)))
    simulate_service(service.pipeline, service.workload, service.settings, watch)
    assert phases_of(steps) == service.times.phases
    assert service.times.phases.prefill_tokens == service.workload.total_prompt_tokens


def of_batch() -> dict[str, object]:
    task = small_task()
    return predicted_content(score_plan(GOOD, task), task)


def of_a_plan_too_large() -> dict[str, object]:
    task = small_task(model="opt-30b")
    return predicted_content(score_plan(plan_of(("p100-12g-0", "F" * 48)), task), task)


@pytest.mark.parametrize(
    "content", [of_batch, of_a_plan_too_large, lambda: replay_content(made_replay(made_service()))]
)
def test_memory_by_purpose_is_all_that_the_device_has(
    content: Callable[[], dict[str, list[object]]],
) -> None:
    answer = content()
    by_purpose = zip(
        answer["memory"],
        answer["stage_memory_bytes"],
        answer["stage_memory_limit_bytes"],
        strict=True,
    )
    for memory, total, limit in by_purpose:
        assert isinstance(memory, dict)
        assert sum(memory.values()) == limit
        assert limit - memory["free_bytes"] == total


def test_a_plan_too_large_has_negative_room_and_no_speeds() -> None:
    answer = of_a_plan_too_large()
    assert answer["speeds"] is None
    task = small_task(model="opt-30b")
    score = score_plan(plan_of(("p100-12g-0", "F" * 48)), task)
    console = paper()
    console.print(memory_table(score.plan, score.memory))
    assert written(console).splitlines()[-1].split()[-1].startswith("-")
    assert speeds_row(batch_speeds(score, task), score.result) == []


def test_where_nothing_decodes_there_is_no_speed_of_it() -> None:
    task = small_task(output_tokens=(1,) * 8)
    score = score_plan(GOOD, task)
    speeds = batch_speeds(score, task)
    assert speeds is not None
    assert speeds.prefill_tokens_per_s is not None
    assert speeds == Speeds(speeds.prefill_tokens_per_s, None, None)
    ((label, parts),) = speeds_row(speeds, score.result)
    assert label == "tokens/s"
    assert [part.split()[0] for part in parts] == ["prefill", "TTFT"]


def test_a_service_says_its_speeds_in_json() -> None:
    service = made_service()
    speeds = replay_content(made_replay(service))["speeds"]
    assert speeds == service_speeds(service).content()
    assert list(speeds) == ["prefill_tokens_per_s", "decode_tokens_per_s", "tokens_per_s_per_user"]
