"""Indicators: the theorem's formula on stored scales; rounding adds no more."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS
from runtimes.quality.indicators import (
    INDICATORS,
    Method,
    Rounding,
    hessian_indicator,
    layer_indicators,
    read_matrices,
    variance_indicator,
)
from runtimes.quality.input_statistics import InputStatistics, observed
from runtimes.quality.layer_stages import LayerSource, run_windows
from runtimes.torch_pipeline.weights.formats.registry import stored_format
from runtimes.torch_pipeline.weights.loading import stored_linears
from runtimes.torch_pipeline.weights.quantizers import (
    QUANTIZERS,
    dequantize,
    quantize,
)
from tests.runtimes.linears_of_tests import stored_tensors
from tests.runtimes.models import LAYERS, VOCABULARY, save_model
from tests.runtimes.test_quantizers import gaussian

QUANTIZED = ("int8", "int4", "int3")
CHOICES = [(name, quantizer) for quantizer, known in QUANTIZERS.items() for name in known]
ROUNDINGS: tuple[Rounding, ...] = ("deterministic", "stochastic")
METHODS: tuple[Method, ...] = ("variance", "variance-stochastic", "hessian")


def statistics_of(*batches: Tensor) -> InputStatistics:
    statistics = InputStatistics(batches[0].shape[-1])
    for batch in batches:
        statistics.add(batch)
    return statistics


def inputs_of(tokens: int, features: int, seed: int = 7) -> Tensor:
    """Return inputs whose mean is not zero."""
    return gaussian(tokens, features, seed) * 1.5 + 0.4


# ---- statistics


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_samples_count_alike_however_they_are_batched(
    splits: list[int], features: int, seed: int
) -> None:
    inputs = inputs_of(sum(splits) + 1, features, seed)
    whole, split = statistics_of(inputs), statistics_of(*inputs.split([*splits, 1]))
    assert split.tokens == whole.tokens == len(inputs)
    for name in ("mean", "mean_square", "variance", "gram_trace"):
        assert getattr(split, name) == pytest.approx(getattr(whole, name), rel=1e-12, abs=1e-14)


def test_statistics_are_those_of_all_tokens_and_features() -> None:
    inputs = inputs_of(3000, 5).double()
    found = statistics_of(inputs.view(3, 1000, 5))
    assert found.mean == pytest.approx(float(inputs.mean()), rel=1e-12)
    assert found.variance == pytest.approx(float(inputs.var(unbiased=False)), rel=1e-12)
    assert found.gram_trace == pytest.approx(float((inputs.t() @ inputs).trace()) / 3000, rel=1e-12)


def test_equal_inputs_have_no_variance() -> None:
    assert statistics_of(torch.full((7, 3), 0.1)).variance == pytest.approx(0, abs=1e-15)


# ---- formulas


def variance_by_hand(
    weight: Tensor, format_name: str, quantizer: str, inputs: Tensor, rounding: str
) -> float:
    """Return Theorem 1, weight by weight and input by input."""
    stored = quantize(weight, format_name, torch.float32, quantizer)
    values = [float(value) for token in inputs for value in token]
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    of_inputs = variance / 4 if rounding == "deterministic" else (mean**2 + variance) / 6
    total = 0.0
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            if format_name == "int8":
                scale = stored["scales"][row]
            else:
                scale = stored["affine"][column // (FORMATS[format_name].group_size or 1), row, 0]
            total += float(scale) ** 2 * of_inputs
    return total


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(
    ("format_name", "quantizer"), [each for each in CHOICES if each[0] in ("int8", "int4", "int3")]
)
@pytest.mark.parametrize("columns", [5, 130])
def test_the_variance_is_the_theorem_s_weight_by_weight(
    columns: int, format_name: str, quantizer: str, rounding: Rounding
) -> None:
    weight, inputs = gaussian(3, columns), inputs_of(4, columns)
    found = variance_indicator(weight, format_name, quantizer, statistics_of(inputs), rounding)
    by_hand = variance_by_hand(weight, format_name, quantizer, inputs, rounding)
    assert found == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize(("format_name", "quantizer"), CHOICES)
def test_the_hessian_is_the_trace_times_the_squared_error(format_name: str, quantizer: str) -> None:
    weight, inputs = gaussian(3, 70), inputs_of(4, 70)
    numbers = dequantize(
        quantize(weight, format_name, torch.float32, quantizer), format_name, 3, 70
    )
    error = sum(float(e) ** 2 for e in (numbers - weight).flatten())
    gram = sum(float(x) ** 2 for x in inputs.flatten()) / 4
    found = hessian_indicator(weight, format_name, quantizer, statistics_of(inputs))
    assert found == pytest.approx(gram * error, rel=1e-6)


@pytest.mark.parametrize("format_name", ["fp32", "fp16", "bf16"])
def test_what_is_not_quantized_loses_exactly_nothing(format_name: str) -> None:
    weight, statistics = gaussian(3, 70), statistics_of(inputs_of(4, 70))
    for rounding in ROUNDINGS:
        assert variance_indicator(weight, format_name, "rtn", statistics, rounding) == 0
    assert hessian_indicator(weight, format_name, "rtn", statistics) == 0


@pytest.mark.parametrize(("format_name", "quantizer"), CHOICES)
def test_twice_the_weights_or_the_inputs_are_four_times_the_variance(
    format_name: str, quantizer: str
) -> None:
    weight, inputs = gaussian(4, 200), inputs_of(6, 200)
    once, twice = statistics_of(inputs), statistics_of(inputs * 2)
    for rounding in ROUNDINGS:
        one = variance_indicator(weight, format_name, quantizer, once, rounding)
        assert variance_indicator(weight * 2, format_name, quantizer, once, rounding) == 4 * one
        other = variance_indicator(weight, format_name, quantizer, twice, rounding)
        assert other == pytest.approx(4 * one)
    one = hessian_indicator(weight, format_name, quantizer, once)
    assert hessian_indicator(weight * 2, format_name, quantizer, once) == 4 * one
    assert hessian_indicator(weight, format_name, quantizer, twice) == pytest.approx(4 * one)


def test_fewer_bits_lose_more_and_hqq_less_weight_error() -> None:
    weight, statistics = gaussian(16, 256), statistics_of(inputs_of(6, 256))
    for indicator in (variance_indicator, hessian_indicator):
        int8, int4, int3 = (indicator(weight, name, "rtn", statistics) for name in QUANTIZED)
        assert 0 < int8 < int4 < int3
    for name in ("int4", "int3"):
        nearest, moved = (hessian_indicator(weight, name, q, statistics) for q in ("rtn", "hqq"))
        assert moved < nearest


@pytest.mark.parametrize("format_name", QUANTIZED)
def test_groups_that_are_met_exactly_add_nothing(format_name: str) -> None:
    statistics = statistics_of(inputs_of(6, 192))
    weight = gaussian(2, 192)
    alone = variance_indicator(weight, format_name, "rtn", statistics)
    with_zeros = torch.cat((weight, torch.zeros(5, 192)))  # whose scale is stored as 1
    assert variance_indicator(with_zeros, format_name, "rtn", statistics) == alone


# ---- what rounding does to outputs


def steps_of(weight: Tensor, format_name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the scale of each weight, the number below it and how far up it is to the next."""
    stored = quantize(weight, format_name, torch.float32)
    scales = stored_format(format_name).scales(stored).float()
    size = FORMATS[format_name].group_size or weight.shape[1]
    scales = scales.repeat_interleave(size, dim=1)[:, : weight.shape[1]]
    nearest = dequantize(stored, format_name, *weight.shape)
    below = torch.where(nearest > weight, nearest - scales, nearest)
    return scales, below, (weight - below) / scales


@pytest.mark.parametrize("format_name", QUANTIZED)
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_stochastic_rounding_adds_the_variance_that_the_theorem_says(
    format_name: str, factor: float
) -> None:
    weight, inputs = gaussian(24, 384) * factor, inputs_of(64, 384)
    scales, below, share = steps_of(weight, format_name)
    generator = torch.Generator().manual_seed(1)
    added = []
    for _ in range(100):
        rounds_up = torch.rand(weight.shape, generator=generator) < share
        rounded = below + scales * rounds_up
        added.append((inputs @ (rounded - weight).t()).double())
    # over roundings, of each token's output; summed over outputs, averaged over tokens
    measured = float(torch.stack(added).var(0).sum(1).mean())
    predicted = variance_indicator(weight, format_name, "rtn", statistics_of(inputs), "stochastic")
    assert measured == pytest.approx(predicted, rel=0.05)  # weights lie evenly between steps
    bound = predicted * 6 / 4  # the variance of one rounding is at most S^2 / 4
    assert measured < bound


@pytest.mark.parametrize("format_name", QUANTIZED)
def test_deterministic_rounding_adds_no_more_variance_than_the_theorem_says(
    format_name: str,
) -> None:
    weight, inputs = gaussian(24, 384), inputs_of(4000, 384)
    numbers = dequantize(quantize(weight, format_name, torch.float32), format_name, 24, 384)
    measured = float((inputs @ (numbers - weight).t()).double().var(0).sum())
    bound = variance_indicator(weight, format_name, "rtn", statistics_of(inputs))
    assert measured < bound
    assert measured == pytest.approx(bound / 3, rel=0.1)  # errors lie evenly within half a step


# ---- a layer


def source(folder: Path, window_tokens: int = 6) -> LayerSource:
    cpu = torch.device("cpu")
    return LayerSource(folder, LAYERS, torch.float32, cpu, {}, window_tokens, 2)


def windows(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (2, 6), generator=generator)


PRODUCTS = {
    "llama": ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"),
    "opt": ("self_attn.k_proj", "self_attn.out_proj", "fc1", "fc2"),
    "bloom": (
        "self_attention.query_key_value",
        "self_attention.dense",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
    ),
}
"""One of each group as transformers calls them."""


def inputs_in_transformers(folder: Path, name: str, tokens: Tensor) -> list[Tensor]:
    """Return what enters each product of layer 0 of the whole model."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    layer = model.model.decoder if name == "opt" else model.base_model
    layer = (layer.h if name == "bloom" else layer.layers)[0]
    seen: list[Tensor] = []
    for product in PRODUCTS[name]:
        hook = layer.get_submodule(product)
        hook.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    with torch.no_grad():
        model(tokens)
    return seen


@pytest.mark.parametrize("name", PRODUCTS)
def test_what_is_observed_is_what_transformers_computes(tmp_path: Path, name: str) -> None:
    folder = save_model(name, tmp_path)
    layers = source(folder)
    entering = run_windows(layers.embedding(), windows())
    stage = layers.layer(0, "bf16")
    with observed(stage) as statistics:
        run_windows(stage, entering)
    run_windows(stage, entering)  # is no longer observed
    expected = inputs_in_transformers(folder, name, windows())
    assert len(statistics) == len(expected) == 4
    for found, inputs in zip(statistics.values(), expected, strict=True):
        other = statistics_of(inputs)
        assert found.tokens == other.tokens == 12
        torch.testing.assert_close(found.sums, other.sums, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.squares, other.squares, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", PRODUCTS)
def test_matrices_are_those_that_the_runtime_loads(tmp_path: Path, name: str) -> None:
    folder = save_model(name, tmp_path)
    stage = source(folder).layer(2, "int4")
    matrices = dict(read_matrices(folder, 2))
    linears = dict(stored_linears(stage.named_modules()))
    assert matrices.keys() == linears.keys()
    for group, linear in linears.items():
        stored = quantize(matrices[group], "int4", torch.float32)
        assert all(torch.equal(stored[n], t) for n, t in stored_tensors(linear).items())


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_s_indicator_is_the_sum_over_its_products(tmp_path: Path, method: Method) -> None:
    folder = save_model("llama", tmp_path)
    layers = source(folder)
    entering = run_windows(layers.embedding(), windows())
    stage = layers.layer(0, "bf16")
    with observed(stage) as statistics:
        run_windows(stage, entering)
    formats, quantizers = ("bf16", "int8", "int4", "int3"), {"int4": "hqq"}
    matrices = list(read_matrices(folder, 0))
    found = layer_indicators(matrices, formats, quantizers, statistics, method)
    assert tuple(found) == formats
    assert found["bf16"] == 0
    one = INDICATORS[method]
    for name in QUANTIZED:
        each = [one(w, name, quantizers.get(name, "rtn"), statistics[g]) for g, w in matrices]
        assert len(each) == 4
        assert found[name] == pytest.approx(sum(each), rel=1e-12)


def test_inputs_that_are_no_numbers_are_refused() -> None:
    statistics = {"mlp.fc1": statistics_of(torch.tensor([[1.0, float("nan")]]))}
    with pytest.raises(InputError, match=r"inputs of mlp\.fc1: expected finite numbers"):
        layer_indicators([("mlp.fc1", gaussian(2, 2))], ("int4",), {}, statistics, "hessian")
