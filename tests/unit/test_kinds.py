"""Models of layers of several kinds: their memory, their times, and their files."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.layers import Attention, Experts, LayerKind
from llmpq_sim.core.memory import (
    batch_temporaries_bytes,
    layer_weight_bytes,
    layers_weight_bytes,
    plan_memory,
)
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.plan import MicroBatching, Plan, Stage
from llmpq_sim.core.scenario import Scenario
from llmpq_sim.io.files import json_text, parse_json
from llmpq_sim.io.model_records import model_from_dict, model_to_dict
from llmpq_sim.latency.costs import LayerCosts, elementwise_bytes_per_token, mixer_s, products_s
from llmpq_sim.latency.spec import spec_profile
from llmpq_sim.simulator.continuous.compilation import ServingCosts, compile_pipeline
from llmpq_sim.simulator.continuous.engine import simulate_service
from llmpq_sim.simulator.continuous.extrapolation import extrapolations
from llmpq_sim.simulator.continuous.mixed_costs import Pipeline
from llmpq_sim.simulator.continuous.service import Service, serve
from llmpq_sim.simulator.continuous.settings import (
    ContinuousSettings,
    default_settings,
    uncached,
)
from llmpq_sim.simulator.static.engine import simulate_steps
from llmpq_sim.simulator.static.simulate import StageCosts, pipeline_links, simulate_static
from tests.builders import tiny_costs, tiny_device, tiny_scenario
from tests.kinds import (
    DENSE,
    EVERY_KIND,
    EXPERTS,
    LATENT,
    MIXER_ALONE,
    MLP_ALONE,
    RECURRENT,
    WINDOW,
    in_twos,
    mixed_model,
)
from tests.serving import trace

MIXED = mixed_model((DENSE, WINDOW, RECURRENT, EXPERTS, WINDOW, LATENT, MLP_ALONE, MIXER_ALONE))
PROFILE = spec_profile(tiny_device())
SETTINGS = ContinuousSettings(token_budget=64, sequence_limit=8, longest_context_tokens=256)


def plan_of(*counts: int, formats: Sequence[str] = ("int4", "int8", "fp16")) -> Plan:
    """Return stages of so many layers on the fast and the slow device, in formats in turn."""
    names, first = ("fast-0", "slow-1"), 0
    stages = []
    for name, count in zip(names, counts, strict=False):
        every = tuple(formats[layer % len(formats)] for layer in range(first, first + count))
        stages.append(Stage(name, every))
        first += count
    return Plan(tuple(stages), MicroBatching(2, 4, 1))


def costs_of(model: ModelSpec, **lengths: int | tuple[int, ...]) -> LayerCosts:
    """Return block times of a model on a fast and a slow device."""
    return tiny_costs(tiny_scenario(model=model, **lengths))  # type: ignore[arg-type]


def serving_costs_of(model: ModelSpec) -> ServingCosts:
    """Return block times of a service of a model on the same devices."""
    costs = costs_of(model)
    return ServingCosts(model, costs.scenario.cluster, costs.profiles)


def pipeline_of(model: ModelSpec, plan: Plan) -> Pipeline:
    """Return a plan compiled for a service."""
    return compile_pipeline(plan, serving_costs_of(model), SETTINGS)


def service_of(model: ModelSpec, plan: Plan) -> Service:
    """Return how a plan serves some requests, of which SimPy and the recurrence say the same."""
    rng = np.random.default_rng(3)
    arrival_s = np.sort(rng.integers(0, 4, 40) / 100.0)
    prompts, outputs = rng.integers(1, 90, 40), rng.integers(1, 30, 40)
    workload = trace(arrival_s - arrival_s[0], prompts, outputs)
    return serve(plan, serving_costs_of(model), workload, SETTINGS)


# ---- files


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_model_of_any_kinds_is_read_back_as_it_was_written(kind: LayerKind) -> None:
    for model in (mixed_model((kind,)), mixed_model((DENSE, kind, DENSE), extra_first_bytes=7)):
        content = parse_json(json_text(model_to_dict(model)), "plan.json")
        assert model_from_dict(Fields(content, "plan.json.model")) == model


def test_only_models_of_one_plain_kind_are_flat_records() -> None:
    assert "kinds" not in model_to_dict(mixed_model((DENSE, DENSE)))
    for layers in ((WINDOW,), (DENSE, EXPERTS), (MLP_ALONE,), (replace(DENSE, mixer=None),)):
        assert "kinds" in model_to_dict(mixed_model(layers))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind_of_layer": [0, 2]}, r"expected the numbers of 2 kinds, .* got \[0, 2\]"),
        ({"kind_of_layer": [0, 0]}, r"each of them somewhere, got \[0\]"),
        ({"hidden_size": 128}, "layers of the model's hidden size, 128, got 256"),
    ],
)
def test_numbers_of_a_model_fit_each_other(changes: dict[str, object], message: str) -> None:
    content = model_to_dict(mixed_model((DENSE, WINDOW))) | changes
    with pytest.raises(InputError, match=message):
        model_from_dict(Fields(content, "plan.json.model"))


def test_who_knows_one_kind_of_layer_is_told_of_others() -> None:
    with pytest.raises(InputError, match="expected layers that are all alike, got 7 kinds"):
        _ = MIXED.only_kind
    with pytest.raises(InputError, match="got layers with another mixer"):
        _ = RECURRENT.attention
    with pytest.raises(InputError, match="got layers with experts or without"):
        _ = EXPERTS.dense


# ---- memory


def test_stages_hold_what_the_model_holds() -> None:
    model = replace(MIXED, extra_first_bytes=12345)
    costs = costs_of(model)
    for split in range(1, model.layers):
        plan = plan_of(split, model.layers - split)
        first, last = plan_memory(plan, costs.scenario)
        kept = model.cache_bytes(4, costs.scenario.workload.context_tokens)
        assert first.kv_bytes + last.kv_bytes == kept
        weights = layers_weight_bytes(model, 0, plan.layer_formats)
        assert first.weights_bytes + last.weights_bytes == weights
        assert first.ends_bytes == 2 * model.embedding_weights + 12345
        assert last.ends_bytes == 2 * model.head_weights
    whole = layers_weight_bytes(MIXED, 0, ("fp16",) * MIXED.layers) / 2
    assert whole == MIXED.parameters - MIXED.embedding_weights - MIXED.head_weights


def test_what_has_no_format_stays_at_16_bits() -> None:
    router = 8 * 256
    for name in ("int4", "int8"):
        experts = layer_weight_bytes(EXPERTS, FORMATS[name])
        bare = replace(EXPERTS, bias_elements=EXPERTS.bias_elements - router)
        assert experts == layer_weight_bytes(bare, FORMATS[name]) + 2 * router
    assert EXPERTS.plain_elements == router


def test_temporaries_are_those_of_the_widest_kind() -> None:
    tokens = 100
    alone = [batch_temporaries_bytes(mixed_model((kind,)), tokens) for kind in EVERY_KIND]
    workspace = [
        2 * max(part.out_features * part.in_features for part in kind.linears)
        for kind in EVERY_KIND
    ]
    widths = [whole - own for whole, own in zip(alone, workspace, strict=True)]
    mixed = batch_temporaries_bytes(mixed_model(EVERY_KIND), tokens)
    assert mixed == max(widths) + max(workspace)


# ---- times


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_window_that_no_context_fills_changes_nothing(phase: str) -> None:
    wide = replace(DENSE, mixer=Attention(4, 4, 64, 64, window=256))
    tokens, batch = np.arange(1.0, 257.0), np.full(256, 3.0)
    expected_s = mixer_s(DENSE, PROFILE, phase, batch, tokens)
    assert mixer_s(wide, PROFILE, phase, batch, tokens).tolist() == expected_s.tolist()
    plain, windowed = (mixed_model((each,) * 4) for each in (DENSE, wide))
    plan = plan_of(3, 1)
    assert pipeline_of(plain, plan).blocks == pipeline_of(windowed, plan).blocks
    assert not pipeline_of(windowed, plan).bounded_blocks
    assert simulate_static(plan, costs_of(plain)) == simulate_static(plan, costs_of(windowed))
    plain_service, windowed_service = service_of(plain, plan), service_of(windowed, plan)
    assert plain_service.result == windowed_service.result
    assert plain_service.memory == windowed_service.memory


def test_decode_within_a_full_window_costs_as_much_whatever_the_context() -> None:
    batch = np.full(3, 5.0)
    contexts = np.array([8.0, 80.0, 8000.0])
    windowed_s = mixer_s(WINDOW, PROFILE, "decode", batch, contexts)
    assert (
        windowed_s.tolist()
        == [float(mixer_s(DENSE, PROFILE, "decode", batch[:1], contexts[:1])[0])] * 3
    )
    prefill_s = [
        mixer_s(each, PROFILE, "prefill", batch, contexts).tolist() for each in (WINDOW, DENSE)
    ]
    assert prefill_s[0][0] == prefill_s[1][0]
    assert prefill_s[0][2] < prefill_s[1][2]


def test_one_expert_of_one_is_an_mlp_and_a_router() -> None:
    alone = replace(DENSE, feed_forward=Experts(1, 1, DENSE.dense.inner_size, is_gated=False))
    assert alone.parameters == alone.active_parameters == DENSE.parameters + 256
    assert layer_weight_bytes(alone, FORMATS["int4"]) == 512 + layer_weight_bytes(
        DENSE, FORMATS["int4"]
    )
    up = DENSE.dense.inner_size
    moved = elementwise_bytes_per_token(DENSE) - elementwise_bytes_per_token(alone)
    assert moved == 2 * (2 * up - 2)  # the activation is the experts' own, the router's are two


def test_experts_cost_by_the_tokens_of_the_step() -> None:
    """Few tokens read few experts: a step of one costs less than one that reads all of them."""
    tokens = np.array([1.0, 4.0, 64.0])
    one_s, some_s, all_s = products_s(EXPERTS, PROFILE, "fp16", tokens).tolist()
    assert one_s < some_s < all_s
    dense_s = products_s(DENSE, PROFILE, "fp16", tokens)
    assert dense_s[2] / dense_s[0] < all_s / one_s


def test_a_layer_of_one_part_costs_no_more_than_that_part() -> None:
    tokens = np.array([1.0, 7.0, 300.0])
    profile = replace(PROFILE, layer_overhead_s=1e-3)
    parts_s = [products_s(kind, profile, "int8", tokens) for kind in (MIXER_ALONE, MLP_ALONE)]
    assert sum(parts_s) == pytest.approx(products_s(DENSE, profile, "int8", tokens))


def test_kinds_listed_twice_say_the_same() -> None:
    twice = in_twos(MIXED)
    plan = plan_of(5, 3)
    one, two = costs_of(MIXED), costs_of(twice)
    assert plan_memory(plan, one.scenario) == plan_memory(plan, two.scenario)
    single, double = simulate_static(plan, one), simulate_static(plan, two)
    assert double.makespan_s == pytest.approx(single.makespan_s, rel=1e-12)
    tables, others = pipeline_of(MIXED, plan), pipeline_of(twice, plan)
    assert (tables.blocks, tables.bounded_blocks) == (others.blocks, others.bounded_blocks)
    for stage, other in zip(tables.stages, others.stages, strict=True):
        assert other.tokens_s == pytest.approx(stage.tokens_s, rel=1e-12)
        assert other.prompt_s == pytest.approx(stage.prompt_s, rel=1e-12)
        assert other.decode_s == pytest.approx(stage.decode_s, rel=1e-12)
    assert twice.cache_bytes_per_token == MIXED.cache_bytes_per_token
    assert twice.active_parameters == MIXED.active_parameters


@pytest.mark.parametrize("split", [1, 3, 6])
def test_a_batch_in_one_piece_takes_the_sum_of_its_layers(split: int) -> None:
    """One group in flight: nothing overlaps, so all times of layers, ends and links add up."""
    costs = costs_of(MIXED, prompt_tokens=40, output_tokens=(5, 5))
    plan = replace(plan_of(split, MIXED.layers - split), micro_batching=MicroBatching(2, 2, 1))
    expected_s = 0.0
    for layer, (name, kind) in enumerate(zip(plan.layer_formats, MIXED.kind_of_layer, strict=True)):
        device = "fast" if layer < split else "slow"
        expected_s += costs.prefill_layer_s(device, name, 2, kind)
        expected_s += float(costs.decode_layer_s(device, name, 2, kind).sum())
    rounds = 1 + costs.rounds
    expected_s += costs.embedding_s("fast", 80) + costs.rounds * costs.embedding_s("fast", 2)
    expected_s += rounds * (costs.head_s("slow", 2) + costs.step_s("fast") + costs.step_s("slow"))
    forth, back = pipeline_links(plan, costs)
    assert forth is not None
    assert back is not None
    hidden = 2 * MIXED.hidden_size
    expected_s += forth.transfer_s(80 * hidden) + costs.rounds * forth.transfer_s(2 * hidden)
    expected_s += costs.rounds * back.transfer_s(2 * 8)
    result = simulate_static(plan, costs)
    assert result.makespan_s == pytest.approx(expected_s, rel=1e-12)
    assert result == simulate_static(plan, costs, simulate_steps)


def test_stages_count_layers_by_kind_and_format() -> None:
    costs = costs_of(MIXED)
    stage = StageCosts(costs, plan_of(3, 5), 1)
    assert sum(stage.layers.values()) == 5
    assert {kind for kind, _ in stage.layers} == set(MIXED.kind_of_layer[3:])


# ---- services


@pytest.mark.parametrize(
    "layers",
    [
        (DENSE, WINDOW, RECURRENT, EXPERTS),
        (WINDOW,) * 4,
        (RECURRENT, MLP_ALONE, RECURRENT, MLP_ALONE),
        (LATENT, EXPERTS, MIXER_ALONE, MLP_ALONE),
    ],
)
def test_services_of_any_kinds_are_simulated_alike_and_keep_their_memory(
    layers: tuple[LayerKind, ...],
) -> None:
    model = mixed_model(layers)
    service = service_of(model, plan_of(3, 1))
    again = simulate_service(service.pipeline, service.workload, SETTINGS)
    assert np.array_equal(again.last_s, service.times.last_s)
    assert again.peak_blocks == service.times.peak_blocks
    assert service.result.finished == 40
    assert all(need.fits for need in service.memory)
    assert [need.kv_bytes > 0 for need in service.memory] == [True, layers[3].mixer is not None]


def test_parts_that_no_profile_timed_are_told() -> None:
    scenario = costs_of(MIXED).scenario
    timed = {name: replace(PROFILE, device=name, status="measured") for name in ("fast", "slow")}
    said = extrapolations(plan_of(3, 5), LayerCosts(scenario, timed))
    by_profile = dict(sentence.split(": not timed", 1) for sentence in said)
    assert set(by_profile) == {"fast/spec", "slow/spec", "fast/spec, slow/spec"}
    assert "attention within a window in decode" in by_profile["fast/spec, slow/spec"]
    assert "gated-delta in prefill" in by_profile["fast/spec"]
    for part in ("a mixture of experts in int4", "latent attention in decode"):
        assert part in by_profile["slow/spec"]
    plain = costs_of(mixed_model((DENSE,) * 8)).scenario
    assert extrapolations(plan_of(3, 5), LayerCosts(plain, timed)) == []


def test_prefixes_are_not_cached_where_layers_forget() -> None:
    model, plan = mixed_model((DENSE, RECURRENT)), plan_of(1, 1)
    shared = replace(trace([0.0], [32], [4]), prefix_blocks=((1, 2),), block_tokens=16)
    assert default_settings(mixed_model((DENSE, LATENT, MLP_ALONE)), shared).prefix_caching
    assert not default_settings(model, shared).prefix_caching
    assert "windows and recurrent states" in uncached(model, shared)[0]
    assert uncached(mixed_model((DENSE, LATENT)), shared) == ()
    assert uncached(model, trace([0.0], [32], [4])) == ()
    asked = replace(SETTINGS, prefix_caching=True)
    with pytest.raises(InputError, match="a window or a recurrent state"):
        compile_pipeline(plan, serving_costs_of(model), asked)


def test_a_scenario_of_a_batch_keeps_windows_and_states() -> None:
    """A batch with twice the context needs more of what grows alone."""
    for kind, grows in ((DENSE, True), (WINDOW, False), (RECURRENT, False), (LATENT, True)):
        model = mixed_model((kind,))
        short, long = (
            plan_memory(plan_of(1), _scenario(model, tokens))[0].kv_bytes for tokens in (16, 64)
        )
        assert (long > short) is grows


def _scenario(model: ModelSpec, prompt_tokens: int) -> Scenario:
    return costs_of(model, prompt_tokens=prompt_tokens).scenario
