"""The reference's objective with its known defects, and the program that minimizes it."""

from itertools import product

import numpy as np
import pytest

from llmpq_sim.core.memory import embedding_bytes, head_bytes, reference_layer_bytes
from llmpq_sim.paper.measurements import LOGGED_PLANS, LoggedPlan
from llmpq_sim.paper.reference import device_orders, reference_plan
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.grid import paper_micro_batchings
from tests.builders import tiny_device, tiny_model, tiny_scenario, tiny_task
from tests.oracles.closed_form import (
    decode_round_s,
    pipeline_makespan_s,
    reference_objective_ms,
)

GROUPS = (4, 4)
OBJECTIVE_S = {"llm-pq-ilp": 58.8, "adabits": 68.4}
CORRECTED_S = {"llm-pq-ilp": 74.2, "adabits": 86.9}
"""What the objective gives for the logged stage costs, and with the turn it leaves out: published
arithmetic; 80.6 and 94.3 s were measured."""


@pytest.mark.parametrize("logged", LOGGED_PLANS, ids=lambda logged: logged.method)
def test_the_objective_is_a_turn_short_of_what_the_pipeline_takes(logged: LoggedPlan) -> None:
    found_s = reference_objective_ms(logged.prefill_s, logged.decode_s, GROUPS, 100, 0.0) / 1e3
    assert found_s == pytest.approx(OBJECTIVE_S[logged.method], abs=0.1)
    corrected_s = found_s + 99 * max(logged.decode_s)
    assert corrected_s == pytest.approx(CORRECTED_S[logged.method], abs=0.1)
    closed_s = pipeline_makespan_s(logged.prefill_s, 4) + 99 * decode_round_s(logged.decode_s, 4)
    assert closed_s == pytest.approx(corrected_s, rel=0.01)


def test_one_micro_batch_decodes_for_nothing() -> None:
    assert reference_objective_ms([1.0], [0.1], (1, 1), 100, 0.0) == pytest.approx(1100.0)


@pytest.fixture(name="task")
def _task() -> PlanningTask:
    devices = [tiny_device(runtime_bytes=0), tiny_device("slow", bytes_per_s=1e9, runtime_bytes=0)]
    scenario = tiny_scenario(devices, model=tiny_model(3))
    return tiny_task(scenario)


@pytest.mark.parametrize("theta", [0.0, 1.0, 1e4])
def test_the_program_finds_the_least_objective(task: PlanningTask, theta: float) -> None:
    found = reference_plan(task, theta)
    assert found is not None
    assert found.objective_ms == pytest.approx(_least_objective_ms(task, theta), rel=1e-3)


def test_a_larger_theta_loses_no_more_quality(task: PlanningTask) -> None:
    losses = []
    for theta in (0.0, 10.0, 1e3, 1e6):
        found = reference_plan(task, theta)
        assert found is not None
        losses.append(task.quality.plan_loss(found.plan.layer_formats))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == 0.0


def test_every_device_has_a_layer_and_nothing_fits_without_memory() -> None:
    devices = [tiny_device(runtime_bytes=0), tiny_device("slow", runtime_bytes=0)]
    found = reference_plan(tiny_task(tiny_scenario(devices)), 1.0)
    assert found is not None
    assert sorted(stage.device for stage in found.plan.stages) == ["fast-0", "slow-1"]
    small = [tiny_device(room_mib=0.25, runtime_bytes=0)] * 2
    assert reference_plan(tiny_task(tiny_scenario(small)), 1.0) is None


def test_kinds_are_permuted_and_devices_are_not() -> None:
    devices = [tiny_device(), tiny_device("slow"), tiny_device()]
    assert device_orders(tiny_task(tiny_scenario(devices))) == [[0, 2, 1], [1, 0, 2]]


def _least_objective_ms(task: PlanningTask, theta: float) -> float:
    """Return the least objective over every number of layers per device and format."""
    scenario = task.costs.scenario
    best = np.inf
    layers, formats = scenario.model.layers, len(task.formats)
    vectors = [v for v in product(range(layers + 1), repeat=formats) if 1 <= sum(v) < layers]
    for order, batching in product(device_orders(task), paper_micro_batchings(4, 2)):
        for counts in product(vectors, repeat=2):
            if sum(map(sum, counts)) == layers and _fits(task, counts[0], order[0]):
                best = min(best, _objective_ms(task, order, batching, counts, theta))
    return best


def _fits(task: PlanningTask, counts: tuple[int, ...], device: int) -> bool:
    """Return whether the first stage fits: here memory is never short by less than its half."""
    model = task.costs.scenario.model
    bits = {"int4": 4, "int8": 8, "fp16": 16}
    used = sum(
        count * reference_layer_bytes(model, bits[name], 4, 21)
        for count, name in zip(counts, task.formats, strict=True)
    )
    room = task.costs.scenario.cluster.devices[device].device.memory_bytes
    return used + embedding_bytes(model) + head_bytes(model) < room / 2


def _objective_ms(task, order, batching, counts, theta) -> float:  # type: ignore[no-untyped-def]
    costs, scenario = task.costs, task.costs.scenario
    kinds = [scenario.cluster.devices[device].device.name for device in order]
    prefills = -(-4 // batching.prefill)
    first = kinds[0]
    ends_s = prefills * (
        costs.embedding_s(first, batching.prefill * 16) + costs.head_s(first, batching.prefill)
    )
    prefill_s, decode_s, loss = [], [], 0.0
    for number, (kind, of_stage) in enumerate(zip(kinds, counts, strict=True)):
        pairs = list(zip(of_stage, task.formats, strict=True))
        layer_s = [(n, costs.prefill_layer_s(kind, f, batching.prefill, 0)) for n, f in pairs]
        prefill_s.append(sum(n * (time_s + (number == 0) * ends_s) for n, time_s in layer_s))
        decode_s.append(
            sum(
                n * float(costs.decode_layer_s(kind, f, batching.decode, 0).mean())
                for n, f in pairs
            )
        )
        loss += sum(n * task.quality.losses[f][0] for n, f in pairs)
    groups = -(-4 // batching.decode)
    return reference_objective_ms(prefill_s, decode_s, (prefills, groups), 5, theta * loss)
