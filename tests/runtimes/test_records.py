"""Records of stages: measurements follow from the instants written down."""

from pathlib import Path

import numpy as np
import pytest

from llmpq_sim.core.execution import Execution, RequestTiming
from llmpq_sim.core.result import Summary
from runtimes.base import TokenRequest
from runtimes.torch_pipeline.engine.records import (
    RunRecord,
    StageRecord,
    read_records,
    write_records,
)
from runtimes.torch_pipeline.engine.step import Segment, Step

START_S = 100.0
REQUESTS = (
    TokenRequest("a", (1, 2, 3), 3),
    TokenRequest("b", (4, 5), 1, arrival_s=1.0),
)


def steps() -> list[Step]:
    """Return the steps of two prompts, the second in two chunks, and two decodes of the first."""
    return [
        Step(0, (), (Segment(0, 0, 0, 3, True), Segment(1, 1, 0, 1, False))),
        Step(1, (Segment(0, 0, 3, 1, True),), (Segment(1, 1, 1, 1, True),)),
        Step(2, (Segment(0, 0, 4, 1, True),)),
    ]


def made_run() -> tuple[RunRecord, list[StageRecord]]:
    """Return two stages that take 1 s and 0.5 s a step, seen by the clock of the first."""
    run = RunRecord(START_S, 7.0)
    for step in steps():
        run.note(step)
    first = StageRecord([100.0, 102.0, 104.0], [101.0, 103.0, 105.0], 1000)
    last = StageRecord([101.5, 103.5, 105.5], [102.0, 104.0, 106.0], 2000)
    return run, [first, last]


def execution() -> Execution:
    run, stages = made_run()
    return run.execution(REQUESTS, stages, "bf16")


def test_requests_have_the_instants_at_which_their_tokens_were_sampled() -> None:
    assert execution().requests == (
        RequestTiming("a", 3, 3, 0.0, 2.0, 6.0),
        RequestTiming("b", 2, 1, 1.0, 4.0, 4.0),
    )


def test_requests_of_a_closed_loop_arrive_when_they_are_let_in(tmp_path: Path) -> None:
    run, stages = made_run()
    run.take_back(1, 103.0)  # of an open loop: nobody is let in
    assert run.entered_s == []
    run.let_in(1, START_S)
    run.take_back(2, 103.5)  # there is but one more
    write_records(tmp_path / "run.json", run, stages)
    again, _ = read_records(tmp_path / "run.json")
    assert again == run
    found = again.execution(REQUESTS, stages, "bf16")
    assert [one.arrival_s for one in found.requests] == [0.0, 3.5]
    assert found.result.ttft_s == Summary.of([2.0, 0.5])


def test_metrics_are_those_of_these_instants() -> None:
    result = execution().result
    assert (result.requests, result.finished, result.output_tokens) == (2, 2, 4)
    assert result.makespan_s == 6.0
    assert result.ttft_s == Summary.of([2.0, 3.0])
    assert result.tpot_s == Summary.of([2.0])
    assert result.latency_s == Summary.of([6.0, 3.0])
    assert result.itl_s == Summary.of([2.0, 2.0])
    assert result.stage_busy_s == (3.0, 1.5)
    assert result.stage_busy_fraction == (0.5, 0.25)
    assert result.stage_steps == 6


def test_visits_tell_what_each_stage_computed_when() -> None:
    steps = execution().steps
    assert [step.ended_s for step in steps] == sorted(step.ended_s for step in steps)
    of_last = [step for step in steps if step.stage == 1]
    assert [(v.step, v.decodes, v.prompt_tokens, v.began_s, v.ended_s) for v in of_last] == [
        (0, 0, 4, 1.5, 2.0),
        (1, 1, 1, 3.5, 4.0),
        (2, 1, 0, 5.5, 6.0),
    ]
    assert execution().stage_peak_bytes == (1000, 2000)
    assert execution().loading_s == 7.0


def test_numbers_of_a_stage_are_read_by_the_clock_of_the_first() -> None:
    record = StageRecord([12.5, 14.0], [13.0, 15.0], 2**40 + 1)
    numbers = np.array(record.numbers()).tolist()  # as they are sent: 64-bit floats
    assert len(numbers) == 2 * 2 + 1
    assert StageRecord.of(numbers, 2.5) == StageRecord([10.0, 11.5], [10.5, 12.5], 2**40 + 1)
    assert StageRecord.of(StageRecord().numbers(), 1.0) == StageRecord()


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    run, stages = made_run()
    write_records(tmp_path / "measured.json", run, stages)
    assert read_records(tmp_path / "measured.json") == (run, stages)


def test_a_stage_with_fewer_steps_than_entered_is_no_record() -> None:
    run, stages = made_run()
    stages[1].ended_s.pop()
    with pytest.raises(ValueError, match="argument"):
        run.execution(REQUESTS, stages, "bf16")
