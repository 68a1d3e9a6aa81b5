"""Execution files: nothing is lost, and what is damaged is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.execution import Execution, RequestTiming, StageStep
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.core.records import to_dict
from llmpq_sim.core.result import SimulationResult, Summary
from llmpq_sim.io.executions import (
    Policy,
    SavedExecution,
    execution_from_dict,
    load_execution,
    plan_sha256,
)
from llmpq_sim.io.files import json_text, parse_json, write_json
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from tests.executions import LIMITS, executed, poisson, saved_plan, served, stating

Content = dict[str, Any]

TIMES = st.floats(0, 1e18)
COUNTS = st.integers(0, 10**18)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
WORDS = st.text(st.characters(categories=["L", "N", "P"]), min_size=1)
SUMMARIES = st.builds(Summary, TIMES, TIMES, TIMES, TIMES, TIMES)
SETTINGS = st.builds(
    ContinuousSettings,
    token_budget=st.integers(4096, 10**6),
    sequence_limit=st.integers(1, 4096),
    longest_context_tokens=st.integers(2, 4096),
    chunked_prefill=st.booleans(),
    block_tokens=st.integers(1, 64),
    prefix_caching=st.booleans(),
    schedules_ahead=st.booleans(),
    admission=st.sampled_from(("evict", "no-evict")),
    batches_in_flight=st.none() | st.integers(1, 8),
)


@st.composite
def requests(draw: st.DrawFn) -> RequestTiming:
    instants = sorted(draw(st.tuples(TIMES, TIMES, TIMES)))
    return RequestTiming(
        draw(TEXTS), draw(st.integers(1, 10**18)), draw(st.integers(1, 10**18)), *instants
    )


@st.composite
def steps(draw: st.DrawFn, stages: int) -> StageStep:
    began_s, ended_s = sorted(draw(st.tuples(TIMES, TIMES)))
    stage = draw(st.integers(0, stages - 1))
    return StageStep(stage, draw(COUNTS), draw(COUNTS), draw(COUNTS), began_s, ended_s)


@st.composite
def results(draw: st.DrawFn, finished: int, stages: int) -> SimulationResult:
    return SimulationResult(
        requests=draw(COUNTS),
        finished=finished,
        output_tokens=draw(COUNTS),
        makespan_s=draw(TIMES),
        ttft_s=draw(SUMMARIES),
        tpot_s=draw(SUMMARIES),
        latency_s=draw(SUMMARIES),
        stage_busy_s=tuple(draw(TIMES) for _ in range(stages)),
        stage_steps=draw(COUNTS),
        itl_s=draw(SUMMARIES),
        refused=draw(COUNTS),
        preemptions=draw(COUNTS),
        reused_prompt_tokens=draw(COUNTS),
        kv_peak_fraction=tuple(draw(st.lists(st.floats(0, 1), max_size=3))),
        good=draw(st.none() | COUNTS),
    )


@st.composite
def executions(draw: st.DrawFn) -> SavedExecution:
    stages = draw(st.integers(1, 4))
    finished = draw(st.lists(requests(), max_size=4))
    execution = Execution(
        result=draw(results(len(finished), stages)),
        requests=tuple(finished),
        steps=tuple(draw(st.lists(steps(stages), max_size=6))),
        stage_peak_bytes=tuple(draw(COUNTS) for _ in range(stages)),
        loading_s=draw(TIMES),
        dtype=draw(WORDS),
        notes=tuple(draw(st.lists(WORDS, max_size=3))),
    )
    settings = draw(st.none() | SETTINGS)
    policy: Policy = "static" if settings is None else "continuous"
    return SavedExecution(
        llmpq_version=draw(WORDS),
        seed=draw(COUNTS),
        plan_sha256=draw(WORDS),
        model=draw(WORDS),
        policy=policy,
        settings=settings,
        concurrency=draw(st.none() | st.integers(1, 9)),
        execution=execution,
    )


@given(executions())
def test_what_is_written_is_read_back_exactly(saved: SavedExecution) -> None:
    text = json_text(to_dict(saved))
    again = execution_from_dict(Fields(parse_json(text, "result.json"), "result.json"))
    assert again == saved
    assert json_text(to_dict(again)) == text


def test_a_file_gives_back_a_run_of_each_policy(tmp_path: Path) -> None:
    saved, path = saved_plan(), tmp_path / "result.json"
    for loaded in (
        executed(saved, [served(32, 10)] * 9, 1.1),
        executed(saved, poisson(12), 0.9, LIMITS),
    ):
        write_json(path, to_dict(loaded))
        assert load_execution(path) == loaded
        assert loaded.plan_sha256 == plan_sha256(saved)


def test_visits_are_columns_of_one_line_each() -> None:
    loaded = executed(saved_plan(), [served(32, 10)] * 8)
    lines = json_text(to_dict(loaded)).splitlines()
    assert len(lines) < 80
    assert len(loaded.execution.steps) > 40


def test_the_hash_is_of_what_is_carried_out_and_not_of_what_predicts() -> None:
    saved = saved_plan()
    batching = replace(saved.plan, micro_batching=MicroBatching(1, 4, 2))
    refitted = replace(saved, task=stating(saved.task, 0.123))
    assert plan_sha256(refitted) == plan_sha256(saved)
    assert plan_sha256(replace(saved, plan=batching)) != plan_sha256(saved)
    assert plan_sha256(saved_plan((10,) * 7 + (9,))) != plan_sha256(saved)


# ---- damage

Change = Callable[[Content], object]

DAMAGES: list[tuple[Change, str]] = [
    (
        lambda c: c.update(schema="llmpq/plan"),
        ".schema: expected llmpq/execution, got 'llmpq/plan'",
    ),
    (
        lambda c: c.update(version=2),
        ".version: expected 1, got 2; the file was written by another version of llmpq",
    ),
    (lambda c: c.pop("plan_sha256"), ".plan_sha256: expected a text, but it is missing"),
    (lambda c: c.update(policy="fifo"), ".policy: expected one of static, continuous, got 'fifo'"),
    (
        lambda c: c.update(policy="continuous"),
        ".settings: expected those of the scheduler for the continuous policy, got none",
    ),
    (
        lambda c: c.update(settings={}),
        ".settings: expected none for the static policy, got some",
    ),
    (
        lambda c: c["visits"]["began_s"].__setitem__(3, -1.0),
        ".visits.began_s[3]: expected a number of at least 0, got -1.0",
    ),
    (
        lambda c: c["visits"]["stage"].__setitem__(0, 2),
        ".visits.stage[0]: expected a stage below 2, got 2",
    ),
    (
        lambda c: c["visits"]["decodes"].__setitem__(1, 1.5),
        ".visits.decodes[1]: expected a whole number of at least 0, got 1.5",
    ),
    (
        lambda c: c["visits"]["visit"].pop(),
        ".visits: expected columns of as many visits each, got [43, 44]",
    ),
    (
        lambda c: c["visits"]["ended_s"].__setitem__(1, 0),
        ".visits: expected visit 1 to end after it began at {began} s, got 0.0",
    ),
    (
        lambda c: c["requests"]["output_tokens"].__setitem__(2, 0),
        ".requests.output_tokens[2]: expected a whole number of at least 1, got 0",
    ),
    (
        lambda c: c["requests"]["name"].__setitem__(0, 7),
        ".requests.name[0]: expected a text, got 7",
    ),
    (
        lambda c: c["requests"]["arrival_s"].__setitem__(0, 1e6),
        ".requests: expected request 0 to arrive, have its first and its last token in this order, "
        "got 1000000.0, {first} and {last} s",
    ),
    (
        lambda c: c["result"].update(finished=7),
        ".requests: expected 7 (result.finished), got 8",
    ),
    (
        lambda c: c["stage_peak_bytes"].pop(),
        ".stage_peak_bytes: expected 2 stages (result.stage_busy_s), got 1",
    ),
    (
        lambda c: c["result"]["ttft_s"].pop("p99"),
        ".result.ttft_s.p99: expected a number of at least 0, but it is missing",
    ),
    (
        lambda c: c["requests"].update(tokens=[]),
        ".requests: unknown keys ['tokens']; known are: arrival_s, first_s, last_s, name, "
        "output_tokens, prompt_tokens",
    ),
]


@pytest.mark.parametrize(("change", "message"), DAMAGES)
def test_a_damaged_file_says_what_and_where(tmp_path: Path, change: Change, message: str) -> None:
    loaded = executed(saved_plan(), [served(32, 10)] * 8)
    content = json.loads(json_text(to_dict(loaded)))
    change(content)
    path = tmp_path / "result.json"
    write_json(path, content)
    with pytest.raises(InputError) as caught:
        load_execution(path)
    request, step = loaded.execution.requests[0], loaded.execution.steps[1]
    told = message.replace("{first}", str(request.first_s)).replace("{last}", str(request.last_s))
    assert str(caught.value) == "result.json" + told.replace("{began}", str(step.began_s))
