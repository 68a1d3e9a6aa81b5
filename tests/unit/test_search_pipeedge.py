from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_sim.core.memory import available_bytes, plan_memory
from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.search.baselines import pipeedge
from llmpq_sim.search.baselines.pipeedge import pipeedge_layers
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.scoring import fits
from llmpq_sim.simulator.static.simulate import HIDDEN_BYTES
from tests.builders import (
    Placement,
    every_placement,
    plan_at,
    tiny_device,
    tiny_scenario,
    tiny_task,
)
from tests.strategies import tasks


def slowest_s(
    task: PlanningTask, placement: Placement, batching: MicroBatching, name: str
) -> float:
    """Return PipeEdge's cost of a plan: its slowest stage, decoding or sending."""
    costs, cluster = task.costs, task.costs.scenario.cluster
    message = batching.decode * HIDDEN_BYTES * costs.scenario.model.hidden_size
    hop_s = min((link.transfer_s(message) for link in cluster.links.values()), default=0.0)
    stages_s, placed = [], 0
    for number, (device, count) in enumerate(placement):
        kind = cluster.devices[device].device.name
        stage_s = sum(
            float(costs.decode_layer_s(kind, name, batching.decode, layer_kind).mean())
            for layer_kind in costs.scenario.model.kind_of_layer[placed : placed + count]
        )
        placed += count
        is_last = number == len(placement) - 1
        stages_s.append(
            stage_s + costs.head_s(kind, batching.decode) if is_last else max(stage_s, hop_s)
        )
    return max(stages_s)


@pytest.mark.parametrize("multisets", [256, 0], ids=["dynamic-program", "bisection"])
@settings(deadline=None, max_examples=40)
@given(tasks(), st.sampled_from([1, 2]))
def test_the_partition_is_the_best_of_all_by_pipeedges_measure(
    multisets: int, task: PlanningTask, decode: int
) -> None:
    scenario, name = task.costs.scenario, "fp16"
    batching = MicroBatching(decode, decode, 1)
    layers = scenario.model.layers

    def plan(placement: Placement) -> Plan:
        return plan_at(scenario, placement, [name] * layers, batching)

    fitting = [
        slowest_s(task, placement, batching, name)
        for placement in every_placement(len(scenario.cluster.devices), layers)
        if fits(plan(placement), task)
    ]
    with mock.patch.object(pipeedge, "MOST_MULTISETS", multisets):
        found = pipeedge_layers(task, batching, name)
    is_exact = multisets or len(scenario.model.kinds) == 1
    if found is None:
        assert not (fitting and is_exact)
        return
    placement = tuple(zip(*found, strict=True))
    assert fits(plan(placement), task)
    if is_exact:
        assert slowest_s(task, placement, batching, name) <= min(fitting) * (1 + 1e-9)


def test_a_slow_device_gets_fewer_layers() -> None:
    devices = [tiny_device("slow", bytes_per_s=1e9), tiny_device(bytes_per_s=3e9)]
    task = tiny_task(tiny_scenario(devices))
    found = pipeedge_layers(task, MicroBatching(1, 1, 1), "int8")
    assert found in (([0, 1], [1, 3]), ([1, 0], [3, 1]))


def test_there_is_no_partition_where_nothing_fits() -> None:
    scenario = tiny_scenario([tiny_device(room_mib=0.6)] * 2)
    task = tiny_task(scenario)
    batching = MicroBatching(1, 1, 1)
    device = scenario.cluster.devices[0].device
    assert available_bytes(device, scenario.model, scenario.workload, batching) < 2**20
    assert pipeedge_layers(task, batching, "fp16") is None


def test_the_memory_it_counts_is_the_memory_of_the_plan() -> None:
    task = tiny_task()
    order, counts = pipeedge_layers(task, MicroBatching(2, 2, 1), "int4") or ([], [])
    placement = tuple(zip(order, counts, strict=True))
    plan = plan_at(task.costs.scenario, placement, ["int4"] * 4, MicroBatching(2, 2, 1))
    assert all(stage.fits for stage in plan_memory(plan, task.costs.scenario))
