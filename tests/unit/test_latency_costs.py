from dataclasses import replace

import numpy as np
import pytest

from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.latency.costs import CONTEXT_KNOTS, LayerCosts, decode_contexts
from llmpq_sim.latency.models import Overhead
from llmpq_sim.latency.spec import spec_profile
from tests.builders import tiny_costs, tiny_device, tiny_model, tiny_scenario


def test_a_layer_takes_its_products_its_attention_and_its_elementwise_kernels() -> None:
    costs, model = tiny_costs(tiny_scenario()), tiny_model()
    profile = costs.profiles["fast"]
    products_s = sum(
        float(profile.gemm_s("int8", 32, linear.out_features, linear.in_features))
        for linear in model.only_kind.linears
    )
    # Two hidden vectors read and written twice, 768 projected read and written, 1024 up and down.
    moved = 32 * 2 * (8 * 256 + 2 * 768 + 1024 + 1024)
    attention_s = float(profile.prefill_attention_s(2, 16, 4, 4, 64))
    assert costs.prefill_layer_s("fast", "int8", 2, 0) == pytest.approx(
        products_s + float(profile.elementwise_s(moved)) + attention_s
    )


def test_decode_attends_to_one_token_more_each_round() -> None:
    workload = BatchWorkload(16, (5, 2))
    assert decode_contexts(workload).tolist() == [17, 18, 19, 20]


def test_a_batch_of_single_tokens_has_a_context_but_no_round() -> None:
    costs = tiny_costs(tiny_scenario(output_tokens=(1, 1)))
    assert costs.rounds == 0
    assert decode_contexts(costs.scenario.workload).tolist() == [17]


def test_attention_between_knots_is_what_the_profile_says_for_linear_models() -> None:
    scenario = tiny_scenario(output_tokens=(10 * CONTEXT_KNOTS,))
    costs = tiny_costs(scenario)
    contexts = decode_contexts(scenario.workload)
    profile = costs.profiles["fast"]
    exact_s = profile.decode_attention_s(np.full_like(contexts, 3), contexts, 4, 4, 64)
    first_s = costs.decode_layer_s("fast", "fp16", 3, 0)
    assert len(first_s) == costs.rounds == 10 * CONTEXT_KNOTS - 1
    assert first_s - first_s[0] == pytest.approx(exact_s - exact_s[0], abs=1e-12)


def test_the_head_reads_its_matrix_and_samples_from_the_logits() -> None:
    costs = tiny_costs(tiny_scenario())
    profile = costs.profiles["fast"]
    product_s = float(profile.gemm_s("fp16", 3, 1024, 256))
    assert costs.head_s("fast", 3) == pytest.approx(product_s + 8 * 3 * 1024 / 2e9)
    assert costs.embedding_s("fast", 48) == pytest.approx(48 * 2 * 2 * 256 / 2e9)


def test_costs_are_computed_once_and_always_the_same() -> None:
    costs = tiny_costs(tiny_scenario())
    assert costs.prefill_layer_s("fast", "int4", 2, 0) == costs.prefill_layer_s(
        "fast", "int4", 2, 0
    )
    again = tiny_costs(tiny_scenario())
    assert (
        costs.decode_layer_s("slow", "int4", 2, 0) == again.decode_layer_s("slow", "int4", 2, 0)
    ).all()


def test_a_constant_overhead_is_paid_by_every_visit_of_a_layer() -> None:
    scenario = tiny_scenario([tiny_device()])
    profile = replace(spec_profile(tiny_device()), layer_overhead_s=0.25)
    plain, burdened = tiny_costs(scenario), LayerCosts(scenario, {"fast": profile})
    assert burdened.prefill_layer_s("fast", "int4", 1, 0) == pytest.approx(
        plain.prefill_layer_s("fast", "int4", 1, 0) + 0.25
    )
    assert burdened.decode_layer_s("fast", "int4", 1, 0) == pytest.approx(
        plain.decode_layer_s("fast", "int4", 1, 0) + 0.25
    )


def test_ends_that_were_timed_cost_what_was_found() -> None:
    scenario = tiny_scenario([tiny_device()])
    profile = replace(
        spec_profile(tiny_device()),
        embedding_overhead=Overhead(0.125, 0.0),
        head_overhead=Overhead(0.5, 1e-9),
        step_overhead_s=0.25,
    )
    costs = LayerCosts(scenario, {"fast": profile})
    product_s = float(profile.gemm_s("fp16", 3, 1024, 256))
    assert costs.head_s("fast", 3) == pytest.approx(product_s + 0.5 + 8 * 3 * 1024 * 1e-9)
    assert costs.embedding_s("fast", 48) == 0.125
    assert costs.step_s("fast") == 0.25
