from dataclasses import replace

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llmpq_sim.core.caches import keeps_all_tokens
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.latency.models import Overhead
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.rate import rate_certificate
from llmpq_sim.search.bound.rate_certificate import proven_per_s
from llmpq_sim.search.bound.rate_problem import rate_problem
from llmpq_sim.simulator.continuous.compilation import ServingCosts, stage_blocks
from llmpq_sim.simulator.continuous.recurrence import simulate_continuous
from llmpq_sim.simulator.continuous.service_times import can_be_served
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from tests.builders import every_placement, plan_at
from tests.serving import trace
from tests.strategies import tasks

ONE = MicroBatching(1, 1, 1)
seconds = st.sampled_from([0.0, 1e-6, 1e-4, 1e-3])


@st.composite
def profiles(draw: st.DrawFn, profile: DeviceProfile) -> DeviceProfile:
    """Return a profile with whatever may cost a step, a layer or an end beside its kernels."""
    curve = draw(st.lists(st.floats(0.5, 3.0), min_size=2, max_size=2))
    return replace(
        profile,
        step_overhead_s=draw(seconds),
        layer_overhead_s=draw(seconds),
        head_overhead=draw(st.none() | st.just(Overhead(1e-4, 1e-9))),
        embedding_overhead=draw(st.none() | st.just(Overhead(1e-4, 1e-9))),
        no_gain_tokens=draw(st.sampled_from([None, 40.0, 300.0])),
        pipeline_factors={"fp16": ((4.0, curve[0]), (90.0, curve[1]))},
    )


@st.composite
def saturated(draw: st.DrawFn) -> TraceWorkload:
    """Return requests that are all there at once, alike or not, some with common prefixes."""
    requests = draw(st.integers(1, 30))
    longest = draw(st.sampled_from([4, 60, 400]))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    prompts = rng.integers(1, longest, requests, endpoint=True)
    outputs = rng.integers(1, draw(st.sampled_from([1, 5, 40])), requests, endpoint=True)
    if draw(st.booleans()):
        return trace(np.zeros(requests), prompts, outputs)
    unit = 16
    common = rng.integers(0, 8, requests)
    names = tuple(
        tuple(place if place < same else 1000 * (number + 1) + place for place in range(blocks))
        for number, (same, blocks) in enumerate(
            zip(common.tolist(), (-(-prompts // unit)).tolist(), strict=True)
        )
    )
    return trace(np.zeros(requests), prompts, outputs, names, unit)


@st.composite
def limits(draw: st.DrawFn) -> ContinuousSettings:
    """Return any settings of the scheduler."""
    budget = draw(st.sampled_from([1, 7, 40, 300, 700]))
    return ContinuousSettings(
        token_budget=budget if (cut := draw(st.booleans())) else 2048,
        sequence_limit=draw(st.integers(1, min(budget, 40))),
        longest_context_tokens=2048,
        chunked_prefill=cut,
        prefix_caching=draw(st.booleans()),
        schedules_ahead=draw(st.booleans()),
        admission=draw(st.sampled_from(["evict", "evict", "no-evict"])),
        chunk_tokens=draw(st.sampled_from([None, 3, 50])) if cut else None,
        batches_in_flight=draw(st.sampled_from([None, 1])),
    )


@st.composite
def services(
    draw: st.DrawFn,
) -> tuple[PlanningTask, TraceWorkload, ContinuousSettings, float]:
    """Return a task, requests, settings, and the rate at which some plan serves them all."""
    task = draw(tasks(most_kinds=1))
    scenario = task.costs.scenario
    changed = {kind: draw(profiles(each)) for kind, each in task.costs.profiles.items()}
    task = replace(task, costs=LayerCosts(scenario, changed))
    costs = ServingCosts(scenario.model, scenario.cluster, changed)
    placements = list(every_placement(len(scenario.cluster.devices), scenario.model.layers))
    placement = draw(st.sampled_from(placements))
    kinds = [scenario.cluster.devices[at].device for at, count in placement for _ in range(count)]
    runs = [[name for name in task.formats if name in each.formats] or ["fp16"] for each in kinds]
    plan = plan_at(scenario, placement, [draw(st.sampled_from(names)) for names in runs], ONE)
    loss = task.quality.plan_loss(plan.layer_formats)
    assume(np.isfinite(loss))
    formats = tuple(name for name in FORMATS if name in {*task.formats, *plan.layer_formats})
    task = replace(task, formats=formats, budget=max(task.budget, loss))
    workload = draw(saturated())
    chosen = draw(limits())
    if not keeps_all_tokens(scenario.model, chosen.longest_context_tokens):
        chosen = replace(chosen, prefix_caching=False)
    blocks = min(stage_blocks(plan, scenario.model, scenario.cluster, chosen))
    served = can_be_served(workload, chosen, blocks)
    assume(served.any())
    workload = only(workload, served)
    return task, workload, chosen, simulate_continuous(plan, costs, workload, chosen).requests_per_s


def only(workload: TraceWorkload, kept: NDArray[np.bool_]) -> TraceWorkload:
    """Return the requests that are kept."""
    names = workload.prefix_blocks
    return replace(
        workload,
        arrival_s=workload.arrival_s[kept],
        prompt_tokens=workload.prompt_tokens[kept],
        output_tokens=workload.output_tokens[kept],
        prefix_blocks=names and tuple(each for each, keep in zip(names, kept, strict=True) if keep),
    )


@settings(max_examples=30)
@given(services(), st.data())
def test_no_plan_serves_faster_than_the_limit_that_any_multipliers_give(
    case: tuple[PlanningTask, TraceWorkload, ContinuousSettings, float], data: st.DataObject
) -> None:
    task, workload, chosen, requests_per_s = case
    certificate = rate_certificate(task, workload, is_cached=chosen.prefix_caching)
    assert certificate is not None
    assert requests_per_s <= certificate.requests_per_s
    factors = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 3.0, 100.0])

    def changed(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(data.draw(factors) * value for value in values)

    intervals = tuple(
        replace(
            each,
            busy=changed(each.busy),
            held=changed((each.held,))[0],
            loss_price_s=changed((each.loss_price_s,))[0],
            byte_price_s=changed(each.byte_price_s),
            held_price_s=changed(each.held_price_s),
            attended_price_s=changed(each.attended_price_s),
        )
        for each in certificate.intervals
    )
    problem = rate_problem(task, certificate.workload)
    assert requests_per_s <= proven_per_s(problem, intervals)
