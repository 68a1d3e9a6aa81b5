"""Timed parts of every architecture, each with weights of its own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtimes.profiling.conditions import Conditions, needed_bytes
from runtimes.profiling.experts import ExpertsBench, balanced_choices
from runtimes.profiling.kernels import GemmBench, kernels_of
from runtimes.profiling.layers import LayerBench, share_of_a_layer
from runtimes.profiling.points import Point
from runtimes.profiling.processor import find_target
from runtimes.profiling.profiled_models import load_profiled
from runtimes.profiling.rotation import CACHES_FILLED
from runtimes.profiling.session import BENCHES
from runtimes.profiling.timing import ClockStopwatch, Effort, Timing, measure
from tests.runtimes.models import CONFIGS as MODELS

EFFORT = Effort(fewest_repeats=1, least_s=0.0, most_s=0.1, longest_call_s=1.0, attempts=1)
CPU = torch.device("cpu")

GATED = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 64,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": GATED,
    "qwen2": GATED | {"tie_word_embeddings": True},
    "mistral": GATED,
    "opt": {
        "hidden_size": 64,
        "ffn_dim": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "vocab_size": 96,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 64,
    },
    "bloom": {"hidden_size": 64, "n_layer": 4, "n_head": 4, "vocab_size": 96},
}


def conditions_of(folder: Path, family: str, **changes: Any) -> Conditions:
    content = {"model_type": family, **CONFIGS[family]}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    model = load_profiled(str(folder))
    target = replace(find_target("cpu", 1), cache_bytes=1 << 18, **changes)
    return Conditions(target, torch.float32, {model.spec.name: model}, {})


def points_of(conditions: Conditions) -> list[Point]:
    ((name, model),) = conditions.models.items()
    spec = model.spec
    mixer = spec.only_kind.attention
    heads = {"heads": mixer.heads, "kv_heads": mixer.kv_heads, "head_dim": mixer.key_dim}
    points = [
        Point("embedding", quant="fp16", model=name, m=3, n=64, k=96),
        Point("head", quant="fp16", model=name, m=3, n=96, k=64),
        Point("visit", model=name, batch=2),
    ]
    for phase in ("decode", "prefill"):
        points.append(Point("attention", phase, model=name, batch=2, seq=5, **heads))  # type: ignore[arg-type]
        points.append(Point("layer", phase, "int4", name, batch=2, seq=5, layers=2))
    return points


@pytest.mark.parametrize("family", CONFIGS)
def test_every_part_of_an_architecture_can_be_timed(family: str, tmp_path: Path) -> None:
    conditions = conditions_of(tmp_path, family)
    with torch.inference_mode():
        for point in points_of(conditions):
            bench = BENCHES[point.op]((point,), conditions)
            for call in bench.calls(point):
                assert measure(call, ClockStopwatch(), EFFORT).median_s > 0, point
            assert needed_bytes(point, conditions) > 0


@pytest.mark.parametrize("name", ["fp16", "int8", "int4", "int3"])
def test_the_copies_of_a_matrix_fill_the_cache_and_share_no_memory(
    name: str, tmp_path: Path
) -> None:
    conditions = conditions_of(tmp_path, "llama")
    bench = GemmBench((Point("gemm", "any", name, "llama", "dense", m=1, n=64, k=128),), conditions)
    linears = bench._linears
    assert len(linears) * linears[0].stored_bytes >= CACHES_FILLED * conditions.target.cache_bytes
    places = [tensor.data_ptr() for linear in linears for tensor in linear.buffers()]
    assert len(set(places)) == len(places)
    tokens = torch.randn(3, 128)
    assert all(torch.equal(linear(tokens), linears[0](tokens)) for linear in linears)


def test_both_kernels_of_a_format_are_the_ones_that_run(tmp_path: Path) -> None:
    conditions = replace(conditions_of(tmp_path, "llama"), dtype=torch.bfloat16)
    kernels = kernels_of("int8", (64, 128), CPU, torch.bfloat16)
    assert kernels_of("int8", (64, 128), CPU, torch.float32) == ("dense",)
    for kernel in kernels:
        point = Point("gemm", "any", "int8", "llama", kernel, m=500, n=64, k=128)
        (linear, *_) = GemmBench((point,), conditions)._linears
        assert {linear.is_dense(tokens) for tokens in (1, 500)} == {kernel == "dense"}


def test_weights_that_are_held_as_they_are_multiplied_have_one_kernel() -> None:
    assert kernels_of("fp16", (64, 128), CPU, torch.float32) == ("dense",)
    assert kernels_of("int3", (64, 128), CPU, torch.float32) == ("dense",)


def test_stages_that_take_turns_have_no_more_layers_than_the_model(tmp_path: Path) -> None:
    conditions = conditions_of(tmp_path, "llama")
    name = next(iter(conditions.models))
    point = Point("layer", "decode", "int3", name, batch=1, seq=5, layers=2)
    with torch.inference_mode():
        bench = LayerBench((point,), conditions)
    assert len(bench._stages) == 2


times = st.floats(1e-6, 10.0)


@given(times, times, st.integers(1, 8))
def test_layers_and_the_visit_add_up_to_what_was_measured(
    layer_s: float, empty_s: float, layers: int
) -> None:
    step = Timing(layers * layer_s + empty_s, 0.05, 9)
    share = share_of_a_layer(step, Timing(empty_s, 0.0, 9), layers)
    assert layers * share.median_s + empty_s == pytest.approx(step.median_s)
    assert layers * share.median_s * share.spread == pytest.approx(0.05 * step.median_s)


@given(times, times, st.integers(1, 8))
def test_a_layer_never_takes_nothing(step_s: float, empty_s: float, layers: int) -> None:
    share = share_of_a_layer(Timing(step_s, 0.1, 9), Timing(empty_s, 0.1, 9), layers)
    assert 0 < share.median_s <= step_s / layers


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_experts_are_timed_with_every_one_of_them_chosen_as_often(
    tmp_path: Path, name: str
) -> None:
    config = MODELS[name]
    (tmp_path / "config.json").write_text(config.to_json_string(), encoding="utf-8")
    model = load_profiled(str(tmp_path))
    target = replace(find_target("cpu", 1), cache_bytes=1 << 16)
    conditions = Conditions(target, torch.float32, {model.spec.name: model}, {})
    sizes = {"n": config.intermediate_size, "k": 64, "experts": 4, "chosen": 2}
    for quant in ("bf16", "int4"):
        series = tuple(
            Point("experts", "any", quant, model.spec.name, m=m, **sizes) for m in (1, 6)
        )
        bench = ExpertsBench(series, conditions)
        for point in series:
            (call,) = bench.calls(point)
            made = call()
            assert isinstance(made, torch.Tensor)
            assert made.shape == (point.m, point.k)
    counts = balanced_choices(6, 2, 4).flatten().bincount()
    assert counts.tolist() == [3, 3, 3, 3]
