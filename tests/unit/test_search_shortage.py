"""Reasons why plans do not fit, and that the advice with them is true."""

import re
from dataclasses import replace

import pytest

from llmpq_sim.core.memory import plan_memory
from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.core.units import GIB
from llmpq_sim.io.models import load_model
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.scoring import fits, score_plan
from llmpq_sim.search.shortage import why_infeasible
from tests.builders import plan_at, tiny_device, tiny_scenario, tiny_task

RUNS = ("fp16", "int8", "int4")


def planned(
    room_gib: float, batching: MicroBatching, *, requests: int = 1, prompt_tokens: int = 2900
) -> tuple[Plan, PlanningTask]:
    """Return OPT-13b in int8 on one device with so much room beside the runtime."""
    scenario = tiny_scenario(
        [tiny_device(room_mib=room_gib * 1024, formats=RUNS)],
        model=load_model("opt-13b"),
        prompt_tokens=prompt_tokens,
        output_tokens=(8,) * requests,
    )
    plan = plan_at(scenario, ((0, 40),), ["int8"] * 40, batching)
    return plan, tiny_task(scenario, formats=("int8", "int4"), budget=10.0)


def reason(plan: Plan, task: PlanningTask) -> str:
    return why_infeasible(score_plan(plan, task), task) or ""


def test_smaller_chunks_come_first() -> None:
    plan, roomy = planned(40.0, MicroBatching(1, 1, 1))
    (memory,) = plan_memory(plan, roomy.costs.scenario)
    needed_gib = (memory.total_bytes - memory.runtime_bytes) / GIB
    plan, task = planned(needed_gib - 0.05, MicroBatching(1, 1, 1))
    text = reason(plan, task)
    held = re.search(
        r"needs (.*) GiB, has .* \((.*) GiB of weights, (.*) of embedding and LM head, "
        r"(.*) of KV cache, (.*) of temporaries, (.*) of runtime\); chunks of (\d+) prompt tokens "
        r"would fit \(prefill_chunk_tokens\)$",
        text,
    )
    assert held is not None, text
    needed, *parts = [float(figure) for figure in held.groups()[:6]]
    assert sum(parts) == pytest.approx(needed, abs=0.25)
    cut = replace(plan.micro_batching, chunk_tokens=int(held[7]))
    assert fits(replace(plan, micro_batching=cut), task)


def test_fewer_requests_come_second() -> None:
    plan, task = planned(21.0, MicroBatching(4, 4, 2), requests=8)
    text = reason(plan, task)
    assert text.endswith("; 2 requests at once in chunks of 512 prompt tokens would fit")
    fewer = replace(plan, micro_batching=MicroBatching(1, 2, 1, 512))
    more = replace(plan, micro_batching=MicroBatching(1, 4, 1, 512))
    assert fits(fewer, task)
    assert not fits(more, task)


def test_fewer_bits_come_last() -> None:
    plan, task = planned(13.0, MicroBatching(1, 1, 1))
    text = reason(plan, task)
    assert text.endswith(
        "; one request at a time in chunks of 512 prompt tokens would fit at int4 or less"
    )
    short, short_task = planned(11.0, MicroBatching(1, 1, 1), prompt_tokens=64)
    assert reason(short, short_task).endswith("; one request at a time would fit at int4 or less")


def test_where_nothing_helps_there_is_no_advice() -> None:
    assert reason(*planned(2.0, MicroBatching(1, 1, 1))).endswith(" of runtime)")


def test_what_is_no_matter_of_memory_is_said_as_it_is() -> None:
    plan, task = planned(40.0, MicroBatching(1, 1, 1))
    assert why_infeasible(score_plan(plan, task), task) is None
    strict = replace(task, budget=0.0)
    score = score_plan(plan, strict)
    assert why_infeasible(score, strict) == score.infeasible_reason()
