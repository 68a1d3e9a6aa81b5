from dataclasses import replace

import numpy as np
import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.search.online.task import OnlineTask, representative_batch
from llmpq_sim.simulator.continuous.recurrence import simulate_continuous
from llmpq_sim.simulator.continuous.service import usd_per_million_tokens
from llmpq_sim.simulator.continuous.settings import ServiceObjectives
from tests.builders import plan_at
from tests.online import SOON, online_task, priced, tiny_trace
from tests.serving import trace


def even_plan(task: OnlineTask) -> Plan:
    scenario = task.batch.costs.scenario
    return plan_at(scenario, ((0, 2), (1, 2)), ["int4"] * 4, MicroBatching(1, 1, 1))


def test_goodput_needs_to_know_what_is_good() -> None:
    with pytest.raises(InputError) as caught:
        online_task(objectives=None)
    assert str(caught.value) == (
        "--objective goodput: expected what a good request meets: --slo-ttft-ms, --slo-tpot-ms "
        "or --slo-e2e-ms"
    )


def test_cost_needs_prices() -> None:
    with pytest.raises(InputError) as caught:
        online_task(objective="cost")
    assert str(caught.value) == (
        "--objective cost: fast has no known price; give its price_usd_per_hour in a cluster "
        "file of your own"
    )


def test_the_cheapest_service_is_one_that_attains_the_slo() -> None:
    task = online_task(objective="mean-latency")
    plan, costs = even_plan(task), priced(task, 1.8)
    result = simulate_continuous(plan, costs, task.workload, task.defaults, objectives=SOON)
    usd = usd_per_million_tokens(plan, costs.cluster, result)
    assert usd is not None
    assert usd == pytest.approx(2 * 1.8 / 3600 / result.tokens_per_s * 1e6, rel=1e-12)
    assert usd_per_million_tokens(plan, task.costs.cluster, result) is None
    by_cost = replace(task, costs=costs, objective="cost")
    share = result.slo_attainment
    assert share
    attained = replace(by_cost, attainment=share)
    assert attained.value(plan, result) == pytest.approx(-1e6 / usd)
    assert replace(attained, objectives=None).value(plan, replace(result, good=None)) < 0
    lacking = replace(by_cost, attainment=share + 0.01)
    assert lacking.value(plan, result) == pytest.approx(0.01)
    assert (attained.attains(result), lacking.attains(result)) == (True, False)


def test_goodput_is_large_where_its_value_is_small() -> None:
    task = online_task()
    plan = even_plan(task)
    result = simulate_continuous(plan, task.costs, task.workload, task.defaults, objectives=SOON)
    assert task.value(plan, result) == -(result.goodput_per_s or 0.0)
    assert replace(task, objective="p99-latency").value(plan, result) == result.latency_s.p99
    assert replace(task, objective="mean-latency").value(plan, result) == result.latency_s.mean


def test_the_representative_batch_has_mean_lengths_and_what_is_in_flight() -> None:
    requests = trace(np.arange(101) / 2.0, [100] * 101, [10] * 101)
    slow = ServiceObjectives(ttft_s=5.0, tpot_s=1.0)
    batch = representative_batch(requests, slow)  # 15 s at 2 a second
    assert (batch.prompt_tokens, batch.requests, batch.output_tokens[0]) == (100, 32, 10)
    assert representative_batch(requests, ServiceObjectives(latency_s=1e-3)).requests == 8
    assert representative_batch(requests, ServiceObjectives(latency_s=1e6)).requests == 64
    assert representative_batch(tiny_trace(5), None).requests == 5
    assert representative_batch(trace([0.0] * 80, [9] * 80, [2] * 80), None).requests == 64
