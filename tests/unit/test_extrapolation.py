from llmpq_sim.core.plan import MicroBatching, Plan, Stage
from llmpq_sim.core.scenario import BatchWorkload, Scenario
from llmpq_sim.io.clusters import load_cluster
from llmpq_sim.io.models import load_model
from llmpq_sim.io.profiles import cluster_profiles
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.simulator.continuous.extrapolation import extrapolations, products_beyond

MODEL = load_model("llama-3.1-8b").with_layers(4)
CLUSTER = load_cluster("a100-l40s")


def said(prefill: int, kernels: str | None) -> list[str]:
    costs = LayerCosts(
        Scenario(MODEL, CLUSTER, BatchWorkload(1024, (8,) * 32)),
        cluster_profiles(CLUSTER, kernels, {}),
    )
    stages = (Stage("a100-sxm-0", ("int4", "int8")), Stage("l40s-0", ("int4", "int4")))
    return extrapolations(Plan(stages, MicroBatching(prefill, 8, 4)), costs)


def test_a_plan_within_the_profiled_sizes_says_nothing() -> None:
    assert said(8, None) == []


def test_products_beyond_the_profiled_tokens_are_counted_by_device() -> None:
    assert said(32, None) == [
        "a100-sxm: 8 of 16 sizes of matrix products in this plan are beyond the profiled range of "
        "a100-sxm/trtllm-1.0; they follow its fitted roofline",
        "l40s: 4 of 8 sizes of matrix products in this plan are beyond the profiled range of "
        "l40s/trtllm-1.0; they follow its fitted roofline",
    ]


def test_a_data_sheet_has_no_profiled_range() -> None:
    assert said(32, "spec") == []


def test_batches_of_a_service_are_judged_by_their_tokens() -> None:
    profiles = cluster_profiles(CLUSTER, None, {})
    plan = Plan((Stage("l40s-0", ("int4",) * 4),), MicroBatching(1, 1, 1))
    assert products_beyond(plan, MODEL, CLUSTER, profiles, (1, 256, 8192)) == []
    assert products_beyond(plan, MODEL, CLUSTER, profiles, (1, 256, 16384)) == [
        "l40s: 4 of 12 sizes of matrix products in this plan are beyond the profiled range of "
        "l40s/trtllm-1.0; they follow its fitted roofline"
    ]
