"""Laws of every search for a service, and of every change of one."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_sim.core.plan import Stage, check_plan
from llmpq_sim.search.online.operators import (
    ServiceOperators,
    longest_room,
    mean_room,
    serving_plan,
)
from llmpq_sim.search.online.settings_genes import grid
from llmpq_sim.search.online.task import OBJECTIVES, Objective
from llmpq_sim.simulator.continuous.compilation import stage_blocks
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from tests.online import found, is_allowed, online_task, tiny_trace
from tests.serving import trace

TASK = online_task()
OBJECTIVES_WITHOUT_PRICES = [name for name in OBJECTIVES if name != "cost"]


@given(st.sampled_from(list(grid(TASK.defaults))), st.integers(0, 10**6))
@settings(max_examples=40)
def test_changes_keep_to_the_genes_the_budget_and_the_room_for_the_longest_request(
    limits: ContinuousSettings, seed: int
) -> None:
    rng, room = np.random.default_rng(seed), longest_room(TASK)
    operators = ServiceOperators(room)
    members = TASK.costs.cluster.devices
    one = operators.repair(serving_plan(_even(members[0].name, members[1].name), limits))
    assert one is not None
    for _ in range(6):
        other = operators.mutate(one, rng)
        changed = operators.repair(operators.cross(other, one, rng))
        if changed is None:
            continue
        one = changed
        assert is_allowed(one.settings, len(one.plan.stages))
        check_plan(one.plan, room.costs.scenario)
        assert TASK.loss(one.plan) <= TASK.batch.allowed_loss
        assert min(stage_blocks(one.plan, TASK.costs.model, TASK.costs.cluster, one.settings)) > 0


@given(st.integers(0, 10**6), st.sampled_from(OBJECTIVES_WITHOUT_PRICES), st.floats(0.001, 0.1))
@settings(max_examples=8)
def test_a_search_is_never_worse_than_its_baselines(
    seed: int, objective: Objective, gap_s: float
) -> None:
    task = online_task(tiny_trace(12, gap_s=gap_s, seed=seed), objective=objective)
    outcome = found(task, seed=seed, generations=1)
    for baseline in outcome.baselines:
        if baseline.served is not None:
            assert not baseline.served.fitness > outcome.best.fitness
            assert outcome.best.value <= baseline.served.value


def test_where_no_plan_holds_the_longest_request_only_that_is_refused() -> None:
    arrivals = [float(number) for number in range(9)]
    requests = trace(arrivals, [10] * 7 + [1900, 10], [5] * 7 + [100, 5])
    task = online_task(requests, room_mib=4.2, objective="mean-latency")
    assert mean_room(task).costs.scenario.workload.context_tokens < 1000
    outcome = found(task, generations=1)
    assert outcome.best.result.refused == 1
    assert outcome.offered_per_s is None


def _even(first: str, second: str) -> tuple[Stage, ...]:
    return Stage(first, ("int4",) * 2), Stage(second, ("int4",) * 2)
