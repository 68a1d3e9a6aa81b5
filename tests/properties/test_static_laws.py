"""Laws of every simulated plan."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings

from llmpq_sim.core.cluster import Link
from llmpq_sim.core.plan import Plan, check_plan
from llmpq_sim.core.scenario import Scenario
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.latency.models import AttentionModel, GemmModel
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.simulator.static.engine import simulate_steps
from llmpq_sim.simulator.static.simulate import simulate_static
from tests.strategies import tasks_and_plans

Drawn = tuple[PlanningTask, Plan]

laws = settings(deadline=None, max_examples=60)


@laws
@given(tasks_and_plans())
def test_the_recurrence_says_exactly_what_the_simpy_model_says(drawn: Drawn) -> None:
    task, plan = drawn
    check_plan(plan, task.costs.scenario)
    fast = simulate_static(plan, task.costs)
    assert fast == simulate_static(plan, task.costs, simulate_steps)


@laws
@given(tasks_and_plans())
def test_tokens_are_those_asked_for_and_instants_are_in_order(drawn: Drawn) -> None:
    task, plan = drawn
    result, workload = simulate_static(plan, task.costs), task.costs.scenario.workload
    assert result.finished == result.requests == workload.requests
    assert result.output_tokens == sum(workload.output_tokens)
    for summary in (result.ttft_s, result.tpot_s, result.latency_s):
        assert all(low <= high for low, high in pairwise((summary.p50, summary.p90, summary.p99)))
    assert 0 < result.ttft_s.p50 <= result.latency_s.p50 <= result.makespan_s
    assert result.ttft_s.mean <= result.latency_s.mean * (1 + 1e-12)
    assert result.latency_s.p99 <= result.makespan_s


@laws
@given(tasks_and_plans())
def test_no_stage_is_busy_for_longer_than_the_batch_takes(drawn: Drawn) -> None:
    task, plan = drawn
    result = simulate_static(plan, task.costs)
    assert len(result.stage_busy_s) == len(plan.stages)
    assert all(0 < busy <= 1 + 1e-9 for busy in result.stage_busy_fraction)


@laws
@given(tasks_and_plans())
def test_twice_the_latencies_take_exactly_twice_as_long(drawn: Drawn) -> None:
    task, plan = drawn
    once, twice = (simulate_static(plan, costs) for costs in (task.costs, doubled(task.costs)))
    assert twice.makespan_s == 2 * once.makespan_s
    assert twice.stage_busy_s == tuple(2 * busy_s for busy_s in once.stage_busy_s)
    assert twice.ttft_s.p50 == 2 * once.ttft_s.p50
    assert twice.tpot_s.mean == 2 * once.tpot_s.mean


def doubled(costs: LayerCosts) -> LayerCosts:
    """Return costs where every kernel and every link takes twice as long."""
    scenario = costs.scenario
    links = {
        pair: Link(2 * link.latency_s, link.bytes_per_s / 2)
        for pair, link in scenario.cluster.links.items()
    }
    cluster = replace(scenario.cluster, links=links)
    profiles = {name: _slower(profile) for name, profile in costs.profiles.items()}
    return LayerCosts(Scenario(scenario.model, cluster, scenario.workload), profiles)


def _slower(profile: DeviceProfile) -> DeviceProfile:
    def gemm(model: GemmModel) -> GemmModel:
        base = model.base
        slower = replace(
            base,
            fixed_s=2 * base.fixed_s,
            flops_per_s=base.flops_per_s / 2,
            bytes_per_s=base.bytes_per_s / 2,
        )
        return replace(model, base=slower)

    def attention(model: AttentionModel) -> AttentionModel:
        return replace(model, seconds=tuple(2 * seconds for seconds in model.seconds))

    assert profile.elementwise_bytes_per_s is not None
    return replace(
        profile,
        gemms={name: gemm(model) for name, model in profile.gemms.items()},
        prefill_attention=attention(profile.prefill_attention),
        decode_attention=attention(profile.decode_attention),
        elementwise_bytes_per_s=profile.elementwise_bytes_per_s / 2,
        layer_overhead_s=2 * profile.layer_overhead_s,
    )
