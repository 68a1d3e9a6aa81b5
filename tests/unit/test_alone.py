"""Requests each alone: their times, and what is said of limits that they miss."""

from dataclasses import replace

import numpy as np
import pytest

from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.report.alone import alone_sentences
from llmpq_sim.simulator.continuous.alone import AloneLimit, alone_limits, best_alone
from llmpq_sim.simulator.continuous.recurrence import simulate_continuous
from llmpq_sim.simulator.continuous.settings import ServiceObjectives
from llmpq_sim.workloads.shaping import selected
from tests.builders import plan_at
from tests.online import online_task


def test_a_request_alone_takes_as_long_as_in_a_trace_of_its_own() -> None:
    task = online_task()
    plan = plan_at(
        task.batch.costs.scenario, ((0, 2), (1, 2)), ["int4"] * 4, MicroBatching(1, 1, 1)
    )
    apart = [
        simulate_continuous(plan, task.costs, selected(task.workload, np.array([row])), settings)
        for settings in [task.defaults]
        for row in range(task.workload.requests)
    ]
    ttft_s = np.array([each.ttft_s.mean for each in apart])
    middle_s = float(np.median(ttft_s))
    asked = ServiceObjectives(ttft_s=middle_s + 1e-9, latency_s=1e-9)
    ttft, latency = alone_limits(plan, task.costs, task.workload, task.defaults, asked)
    assert (ttft.name, latency.name) == ("ttft_s", "latency_s")
    assert ttft.least_s == pytest.approx(ttft_s.min(), rel=1e-9)
    assert ttft.median_s == pytest.approx(middle_s, rel=1e-9)
    assert ttft.met_share == np.mean(ttft_s <= middle_s + 1e-9) >= 0.5
    assert latency.met_share == 0.0
    assert latency.least_s == pytest.approx(min(each.latency_s.mean for each in apart), rel=1e-9)
    assert alone_limits(plan, task.costs, task.workload, task.defaults, None) == ()


def test_what_is_missed_is_named_with_the_least_of_any_plan() -> None:
    slow = AloneLimit("ttft_s", 0.1, 0.2, 0.09, 0.3)
    fast = AloneLimit("tpot_s", 0.05, 1.0, 0.01, 0.02)
    found = best_alone([[slow, replace(fast, met_share=0.5)], [replace(slow, least_s=0.08), fast]])
    assert found == (replace(slow, least_s=0.08), fast)
    assert alone_sentences(found, 0.9, "With the plans found") == [
        "Even alone on idle devices only 20.0 % of requests meet the TTFT of 100 ms (least 80.0 "
        "ms, half within 300 ms). With the plans found no lower rate brings 90 % there: allow more "
        "time, fewer bits, or faster devices."
    ]
    assert alone_sentences(found, 0.2, "With this plan") == []
