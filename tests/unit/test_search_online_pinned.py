"""Searches for a trace that keep layers where the user wants them."""

from dataclasses import replace

import pytest

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.report.online import online_content
from llmpq_sim.search.frame import SearchProgress
from llmpq_sim.search.online.pinned import search_online_pinned
from llmpq_sim.search.pins import Pins
from llmpq_sim.search.planner import SearchSettings
from tests.online import online_task, tiny_trace


def test_a_search_for_a_trace_keeps_the_pins_and_states_what_they_cost() -> None:
    task, pins = online_task(tiny_trace(30)), Pins(("slow-1", "fast-0"), (3, 1))
    steps: list[str] = []

    def note(progress: SearchProgress) -> None:
        steps.append(progress.step)

    outcome = search_online_pinned(task, pins, SearchSettings(generations=1), note)
    plan = outcome.best.serving.plan
    assert pins.keeps(plan)
    assert outcome.service.plan == plan
    assert outcome.batch.best.plan.stages == plan.stages
    assert outcome.batch.best.is_feasible
    assert outcome.service.result == outcome.best.result
    assert outcome.unpinned is not None
    assert outcome.unpinned.value < outcome.best.value
    assert {"pinned layers", "improving the service"} <= set(steps)
    content = online_content(outcome, {}, None)
    assert content["pins"]["layers"] == [3, 1]
    assert content["without_pins"]["goodput_per_s"] > content["predicted"]["goodput_per_s"]

    kept = replace(pins, formats=("int8", "int4", "int4", "int8"))
    hurried = search_online_pinned(task, kept, SearchSettings(budget_s=0.0))
    assert hurried.best.serving.plan.layer_formats == kept.formats
    assert hurried.ended == "budget"


def test_pins_without_room_for_a_request_are_refused() -> None:
    task = online_task(tiny_trace(12), room_mib=4.0)
    with pytest.raises(InfeasibleError, match=r"^--layers: slow-1 has no room for 4 layers"):
        search_online_pinned(task, Pins(("slow-1",), (4,), ("fp16",) * 4), SearchSettings())
