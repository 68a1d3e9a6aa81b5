from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_sim.core.cluster import RUNTIME_BYTES
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.memory import (
    StageMemory,
    available_bytes,
    embedding_bytes,
    ends_bytes,
    head_bytes,
    layer_cache_bytes,
    layer_weight_bytes,
    logits_bytes,
    plan_memory,
    reference_layer_bytes,
    temporaries_bytes,
)
from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.core.scenario import BatchWorkload, Scenario
from llmpq_sim.core.units import GIB, MIB
from llmpq_sim.io.models import load_model
from llmpq_sim.search.bound.problem import PlanningTask
from tests.builders import every_plan, plan_at, tiny_device, tiny_model, tiny_scenario, tiny_task
from tests.strategies import tasks

PAPER_BATCH = BatchWorkload(512, (100,) * 32)
ONE_WAVE = MicroBatching(8, 8, 4)


@pytest.mark.parametrize(("bits", "mib"), [(3, 756), (4, 830), (8, 1124), (16, 1712)])
def test_a_layer_of_opt_30b_takes_what_the_reference_says(bits: int, mib: int) -> None:
    """Source: LLM-PQ's reference implementation and its authors' log, in MiB."""
    assert round(reference_layer_bytes(load_model("opt-30b"), bits, 32, 612) / MIB) == mib


def test_opt_30b_takes_the_80_gib_of_the_authors_log() -> None:
    model = load_model("opt-30b")
    whole = model.layers * reference_layer_bytes(model, 16, 32, 612)
    assert whole / GIB == pytest.approx(80.2278, abs=5e-5)


@pytest.mark.parametrize(("name", "bits"), [("int3", 3), ("int4", 4), ("int8", 8), ("fp16", 16)])
def test_ours_exceeds_the_reference_by_scales_and_biases_only(name: str, bits: int) -> None:
    model, workload = load_model("opt-30b"), PAPER_BATCH
    ours = layer_weight_bytes(model.only_kind, FORMATS[name]) + layer_cache_bytes(
        model.only_kind, workload, ONE_WAVE
    )
    reference = reference_layer_bytes(model, bits, 32, 612)
    scale_bits = FORMATS[name].bits_per_weight() - bits
    expected = model.only_kind.formatted_weights * scale_bits / 8
    assert reference < ours == pytest.approx(reference + expected, rel=2e-3)


def test_grouped_queries_need_an_eighth_of_the_cache() -> None:
    grouped = load_model("llama-3.1-70b")
    kind = grouped.only_kind
    plain = replace(kind.attention, kv_heads=kind.attention.heads)
    every = replace(grouped, kinds=(replace(kind, mixer=plain),))
    assert every.cache_bytes(32, 612) == 8 * grouped.cache_bytes(32, 612)


def test_a_stage_counts_weights_cache_ends_and_temporaries() -> None:
    batching = MicroBatching(2, 4, 1)
    scenario = tiny_scenario(output_tokens=(5,) * 4)
    model, workload = scenario.model, scenario.workload
    plan = plan_at(scenario, ((0, 1), (1, 3)), ["int8", "int4", "fp16", "fp16"], batching)
    first, last = plan_memory(plan, scenario)
    temporaries = temporaries_bytes(model, workload, batching)
    assert first == StageMemory(
        weights_bytes=layer_weight_bytes(model.only_kind, FORMATS["int8"]),
        kv_bytes=4 * 21 * 2 * 256 * 2,
        ends_bytes=embedding_bytes(model),
        temporaries_bytes=temporaries,
        runtime_bytes=RUNTIME_BYTES,
        limit_bytes=scenario.cluster.devices[0].device.memory_bytes,
    )
    assert last.ends_bytes == head_bytes(model)
    assert last.kv_bytes == 3 * first.kv_bytes
    assert last.temporaries_bytes == temporaries + logits_bytes(model, batching)


def test_a_tied_matrix_is_held_once_by_one_stage_and_twice_by_two() -> None:
    model = replace(tiny_model(tied=True), position_rows=8)
    assert ends_bytes(model, True, True) == embedding_bytes(model)
    assert ends_bytes(model, True, False) + ends_bytes(model, False, True) == (
        embedding_bytes(model) + head_bytes(model)
    )
    assert ends_bytes(model, False, False) == 0


def test_a_wave_at_a_time_needs_the_cache_of_a_wave() -> None:
    model = tiny_model()
    whole = layer_cache_bytes(model.only_kind, PAPER_BATCH, MicroBatching(8, 8, 4))
    assert layer_cache_bytes(model.only_kind, PAPER_BATCH, MicroBatching(8, 8, 1)) == whole // 4


def test_a_device_smaller_than_the_runtime_has_less_than_nothing() -> None:
    device = replace(tiny_device(), memory_bytes=RUNTIME_BYTES // 2)
    batching = MicroBatching(1, 1, 1)
    assert available_bytes(device, tiny_model(), BatchWorkload(16, (4,)), batching) < 0


def test_what_a_runtime_takes_is_a_device_s_own() -> None:
    light = tiny_device("light", runtime_bytes=MIB)
    scenario = tiny_scenario([light, tiny_device("usual")])
    plan = plan_at(scenario, ((0, 2), (1, 2)), ["int4"] * 4, MicroBatching(1, 1, 1))
    stages = plan_memory(plan, scenario)
    assert [stage.runtime_bytes for stage in stages] == [MIB, RUNTIME_BYTES]
    batching, workload = plan.micro_batching, scenario.workload
    usual = replace(light, runtime_bytes=RUNTIME_BYTES)
    gained = available_bytes(light, scenario.model, workload, batching) - available_bytes(
        usual, scenario.model, workload, batching
    )
    assert gained == RUNTIME_BYTES - MIB


@settings(deadline=None, max_examples=30)
@given(tasks(), st.data())
def test_more_memory_never_makes_a_feasible_plan_infeasible(
    task: PlanningTask, data: st.DataObject
) -> None:
    scenario = task.costs.scenario
    plan = data.draw(st.sampled_from(list(every_plan(task, MicroBatching(1, 1, 1)))[:200]))
    for before, after in zip(
        plan_memory(plan, scenario), plan_memory(plan, _roomier(scenario)), strict=True
    ):
        assert after.total_bytes == before.total_bytes
        assert after.fits >= before.fits


def _roomier(scenario: Scenario) -> Scenario:
    members = tuple(
        replace(member, device=replace(member.device, memory_bytes=member.device.memory_bytes + 1))
        for member in scenario.cluster.devices
    )
    return replace(scenario, cluster=replace(scenario.cluster, devices=members))


sizes = st.integers(1, 8)


@given(sizes, sizes, sizes)
def test_larger_micro_batches_never_need_less(prefill: int, decode: int, groups: int) -> None:
    smaller = _total(MicroBatching(prefill, decode, groups))
    assert smaller <= _total(MicroBatching(prefill + 1, decode, groups))
    assert smaller <= _total(MicroBatching(prefill, decode, groups + 1))


@given(st.lists(st.sampled_from(["int3", "int4", "int8", "fp16"]), min_size=4, max_size=4))
def test_more_bits_always_need_more(formats: list[str]) -> None:
    higher = {"int3": "int4", "int4": "int8", "int8": "fp16"}
    for layer, name in enumerate(formats):
        if name in higher:
            raised = [*formats[:layer], higher[name], *formats[layer + 1 :]]
            assert _total(ONE_WAVE, formats) < _total(ONE_WAVE, raised)


def _total(batching: MicroBatching, formats: list[str] | None = None) -> int:
    task = tiny_task(tiny_scenario(output_tokens=(5,) * 32))
    scenario = task.costs.scenario
    plan: Plan = plan_at(scenario, ((0, 2), (1, 2)), formats or ["int4"] * 4, batching)
    return sum(stage.total_bytes for stage in plan_memory(plan, scenario))
