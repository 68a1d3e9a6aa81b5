"""Cases of the paper: its facts, and logged plans as the pipeline puts them."""

import pytest

from llmpq_sim.core.cluster import Link
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.memory import plan_memory
from llmpq_sim.core.plan import check_plan
from llmpq_sim.core.units import MIB
from llmpq_sim.io.clusters import load_cluster
from llmpq_sim.paper.assumptions import (
    COPY_BYTES_PER_S,
    GLOO_BYTES_PER_S,
    MESSAGE_S,
    through_cpu_memory,
    usable,
)
from llmpq_sim.paper.case_cache import case_sha256
from llmpq_sim.paper.cases import KERNEL_SETS, Case, all_cases
from llmpq_sim.paper.logged import (
    LOGGED_CASE,
    LoggedPrediction,
    makespan_of_stage_costs_s,
    predict_logged_plans,
)
from llmpq_sim.paper.measurements import CLUSTERS, LOGGED_PLANS, MEASURED_TOKENS_PER_S, LoggedPlan
from llmpq_sim.paper.methods import METHODS
from llmpq_sim.paper.reproduction import checked_gamma
from tests.oracles.closed_form import decode_round_s, pipeline_makespan_s


@pytest.fixture(name="predicted", scope="module")
def _predicted() -> list[LoggedPrediction]:
    return predict_logged_plans()


def test_both_logged_plans_are_within_ten_percent_by_their_own_stage_costs(
    predicted: list[LoggedPrediction],
) -> None:
    for one in predicted:
        assert one.from_stage_costs == pytest.approx(one.logged.tokens_per_s, rel=0.10)


def test_from_kernels_alone_both_are_predicted_a_quarter_too_fast(
    predicted: list[LoggedPrediction],
) -> None:
    """A known failure: see docs of the evaluation."""
    for one in predicted:
        assert 1.20 < one.from_kernels / one.logged.tokens_per_s < 1.27


def test_the_logged_plans_are_predicted_in_the_measured_order(
    predicted: list[LoggedPrediction],
) -> None:
    ours, adabits = predicted
    assert ours.from_kernels > adabits.from_kernels
    assert ours.from_stage_costs > adabits.from_stage_costs


@pytest.mark.parametrize("logged", LOGGED_PLANS, ids=lambda logged: logged.method)
def test_a_logged_plan_is_a_plan_of_its_cluster_and_fits(logged: LoggedPlan) -> None:
    scenario = LOGGED_CASE.real_task().costs.scenario
    check_plan(logged.plan, scenario)
    assert all(stage.fits for stage in plan_memory(logged.plan, scenario))


@pytest.mark.parametrize("logged", LOGGED_PLANS, ids=lambda logged: logged.method)
def test_the_stage_costs_pass_a_correct_pipeline(logged: LoggedPlan) -> None:
    """Embedding, LM head, messages and Python add 1 to 2 % to the closed form."""
    closed_s = pipeline_makespan_s(logged.prefill_s, 4) + 99 * decode_round_s(logged.decode_s, 4)
    found_s = makespan_of_stage_costs_s(logged, LOGGED_CASE.task())
    assert closed_s < found_s < 1.02 * closed_s


def test_a_message_is_copied_twice_and_sent_once() -> None:
    fast, slow = Link(1e-5, 1e12), Link(1e-3, 1e9)
    for link, rate in ((fast, GLOO_BYTES_PER_S), (slow, 1e9)):
        expected_s = MESSAGE_S + link.latency_s + 1e6 / rate + 2e6 / COPY_BYTES_PER_S
        assert through_cpu_memory(link).transfer_s(1e6) == pytest.approx(expected_s)


@pytest.mark.parametrize("number", CLUSTERS)
def test_every_cluster_has_less_memory_to_plan_with_than_it_has(number: int) -> None:
    for member in load_cluster(CLUSTERS[number].name).devices:
        planned = usable(member.device)
        assert planned.runtime_bytes == 0
        assert 0.7 < planned.memory_bytes / member.device.memory_bytes < 0.95


def test_the_usable_memory_is_that_of_the_reference() -> None:
    v100 = load_cluster("paper-1").devices[0].device
    assert usable(v100).memory_bytes == 28_947 * MIB


def test_measurements_belong_to_one_workload_share_and_kernel_set() -> None:
    assert Case(3, "main", 0.8, "gptq-2023").measured_tokens_per_s("adabits") == 29.93
    for other in (
        Case(3, "lat", 0.8, "gptq-2023"),
        Case(3, "main", 1.0, "gptq-2023"),
        Case(3, "main", 0.8, "spec"),
        Case(6, "main", 0.8, "gptq-2023"),
    ):
        assert other.measured_tokens_per_s("adabits") is None
    assert {name for own in MEASURED_TOKENS_PER_S.values() for name in own} <= set(METHODS)


def test_plans_are_made_for_all_of_the_output_and_judged_by_the_share_generated() -> None:
    case = Case(1, "lat", 0.8, "gptq-2023")
    assert case.task().costs.scenario.workload.longest_output_tokens == 200
    assert case.real_task().costs.scenario.workload.longest_output_tokens == 160


def test_cases_are_every_combination_once() -> None:
    cases = all_cases((1, 2), ("main", "lat"), 0.8, KERNEL_SETS)
    assert len(set(cases)) == len(cases) == 8
    assert len({case.label for case in cases}) == 8
    assert len({case_sha256(case) for case in cases}) == 8


@pytest.mark.parametrize("gamma", [0.0, 1.01, float("nan")])
def test_a_share_that_generates_nothing_is_refused(gamma: float) -> None:
    with pytest.raises(InputError, match="--gamma: expected a share"):
        checked_gamma(gamma)
