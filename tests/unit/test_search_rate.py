from dataclasses import replace

import numpy as np
import pytest

from llmpq_sim.core.errors import CertificateError
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.rate import rate_certificate
from llmpq_sim.search.bound.rate_certificate import check_rate
from llmpq_sim.search.bound.rate_problem import rate_problem, workload_of
from llmpq_sim.search.bound.rate_workload import rate_workload
from llmpq_sim.simulator.continuous.compilation import ServingCosts
from llmpq_sim.simulator.continuous.recurrence import simulate_continuous
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from tests.builders import plan_at, tiny_device, tiny_scenario, tiny_task
from tests.serving import trace


def one_device(room_mib: float = 64.0) -> PlanningTask:
    """Return the tiny model on one device, in 16 bits."""
    return tiny_task(tiny_scenario([tiny_device(room_mib=room_mib)]), formats=("fp16",))


def saturated(requests: int, prompt: int, output: int) -> TraceWorkload:
    """Return equal requests that are all there at once."""
    return trace(np.zeros(requests), np.full(requests, prompt), np.full(requests, output))


def best_rate_per_s(task: PlanningTask, workload: TraceWorkload) -> float:
    """Return the highest rate of all layers on the first device, of some settings."""
    scenario = task.costs.scenario
    costs = ServingCosts(scenario.model, scenario.cluster, task.costs.profiles)
    layers = scenario.model.layers
    plan = plan_at(scenario, ((0, layers),), ["fp16"] * layers, MicroBatching(1, 1, 1))
    return max(
        simulate_continuous(
            plan, costs, workload, ContinuousSettings(budget, sequences, 2048)
        ).requests_per_s
        for budget in (64, 128, 256, 1024)
        for sequences in (4, 16, 64, 256)
        if sequences <= budget
    )


@pytest.mark.parametrize(
    ("prompt", "output", "room_mib"), [(400, 2, 64.0), (16, 200, 64.0), (200, 100, 24.0)]
)
def test_a_saturated_device_approaches_the_limit(prompt: int, output: int, room_mib: float) -> None:
    task, workload = one_device(room_mib=room_mib), saturated(300, prompt, output)
    certificate = rate_certificate(task, workload)
    assert certificate is not None
    share = best_rate_per_s(task, workload) / certificate.requests_per_s
    assert 0.85 <= share <= 1.0


def test_the_sums_are_those_of_the_requests_one_by_one() -> None:
    workload = trace([0, 0, 0], [3, 5, 900], [4, 1, 8])
    found = rate_workload(workload, 100)
    assert found is not None
    known = [[3, 4, 5, 6], [5]]  # tokens known when each token is sampled; the last is too long
    decodes = [contexts[1:] for contexts in known]
    assert found.requests == 2
    assert found.prompt_tokens == found.attended_prompts == 8
    assert found.attended_squares == 9 + 25
    assert found.held_tokens == sum(map(sum, known))
    assert found.decode_steps == found.attending_steps == 3
    assert found.attended_contexts == sum(map(sum, decodes))
    assert (found.shortest_context, found.longest_context) == (4, 6)
    assert (found.longest_prompt, found.longest_request_tokens) == (5, 7)


def test_a_common_prefix_counts_once_and_its_attention_not_at_all() -> None:
    names = ((1, 2), (1, 3), (7,))
    found = rate_workload(trace([0, 0, 0], [9, 8, 3], [2, 1, 2], names, 4), 100)
    assert found is not None
    assert found.prompt_tokens == 20 - 4
    assert found.held_tokens == (5 + 6) + 4 + (3 + 4)
    assert found.attended_prompts == 3
    assert found.attending_steps == found.attended_contexts == 0


def test_nothing_is_proven_of_requests_that_no_plan_can_hold() -> None:
    assert workload_of(one_device(), saturated(3, 4000, 2)) is None
    assert rate_certificate(one_device(room_mib=1.0), saturated(3, 40, 2)) is None


def test_a_certificate_may_claim_less_but_not_more() -> None:
    task, workload = one_device(), saturated(50, 100, 20)
    certificate = rate_certificate(task, workload)
    assert certificate is not None
    problem = rate_problem(task, certificate.workload)
    assert check_rate(problem, certificate) == certificate.requests_per_s
    weaker = replace(certificate, requests_per_s=2 * certificate.requests_per_s)
    assert check_rate(problem, weaker) == 2 * certificate.requests_per_s
    with pytest.raises(CertificateError, match="its multipliers prove"):
        check_rate(problem, replace(certificate, requests_per_s=certificate.requests_per_s / 2))
    least = certificate.intervals[0]
    with pytest.raises(CertificateError, match="says nothing of plans whose KV cache holds"):
        check_rate(problem, replace(certificate, intervals=certificate.intervals[1:]))
    short = replace(least, busy=())
    with pytest.raises(CertificateError, match="expected 1 multipliers of a kind, got 0"):
        check_rate(problem, replace(certificate, intervals=(short,)))
