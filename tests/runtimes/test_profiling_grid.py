"""Grid of a profile: it grows as it says, and covers what a model computes."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.models import load_model
from runtimes.profiling.grid import (
    FULL_GRID,
    QUICK_GRID,
    Grid,
    attention_series,
    check_timed,
    end_series,
    expert_series,
    gemm_series,
    half_powers,
    head_gemm_series,
    layer_series,
    powers,
    without_repeats,
)

SPEC = load_model("qwen2.5-0.5b")
GRIDS = pytest.mark.parametrize("grid", [FULL_GRID, QUICK_GRID], ids=("full", "quick"))


def both_kernels(_: str, __: tuple[int, int]) -> tuple[str, ...]:
    return ("fused", "dense")


@given(st.integers(1, 1 << 20))
def test_half_powers_are_all_powers_of_two_and_one_and_a_half_times_them(most: int) -> None:
    expected = {size for size in range(1, most + 1) if size.bit_count() == 1} if most < 5000 else {}
    sizes = half_powers(most)
    odd_parts = {size // (size & -size) for size in sizes}
    assert odd_parts <= {1, 3}
    assert set(expected) <= set(sizes)
    assert list(sizes) == sorted(set(sizes))
    assert sizes[-1] <= most < 2 * sizes[-1]


@given(st.integers(1, 1000), st.integers(1, 1 << 20), st.integers(2, 8))
def test_powers_grow_by_their_factor_up_to_the_most(least: int, most: int, factor: int) -> None:
    sizes = powers(least, most, factor)
    assert sizes[0] == least
    assert all(after == factor * before for before, after in pairwise(sizes))
    assert sizes[-1] * factor > most


@GRIDS
def test_all_sizes_grow(grid: Grid) -> None:
    for name in ("tokens", "contexts", "prompts", "rows", "step_rows", "message_bytes"):
        sizes = getattr(grid, name)
        assert all(before < after for before, after in pairwise(sizes)), name


def test_experts_are_timed_in_every_format_and_layers_that_differ_are_not_timed_whole() -> None:
    spec = load_model("qwen3-30b-a3b")
    series = expert_series(spec, ("bf16", "int4"), QUICK_GRID)
    assert [each[0].quant for each in series] == ["bf16", "int4"]
    for point in series[0]:
        assert (point.experts, point.chosen, point.n, point.k) == (128, 8, 768, 2048)
    assert tuple(point.m for point in series[0]) == QUICK_GRID.tokens
    gemms = gemm_series(spec, ("bf16",), both_kernels, QUICK_GRID)
    assert {(each[0].n, each[0].k) for each in gemms} == {(5120, 2048), (2048, 4096)}
    assert layer_series(spec, ("bf16",), QUICK_GRID) == []


def test_windows_are_timed_beside_attention_to_everything() -> None:
    spec = load_model("gemma-3-27b")
    series = attention_series(spec, QUICK_GRID)
    assert {point.window for each in series for point in each} == {0, 1024}
    with pytest.raises(InputError, match="deepseek-v3: has LatentAttention layers, which"):
        check_timed(load_model("deepseek-v3"))


@GRIDS
def test_every_weight_of_a_layer_is_timed_with_every_kernel_and_format(grid: Grid) -> None:
    series = gemm_series(SPEC, ("bf16", "int4"), both_kernels, grid)
    found = {(p.quant, p.kernel, p.n, p.k) for points in series for p in points}
    shapes = {(linear.out_features, linear.in_features) for linear in SPEC.only_kind.linears}
    assert found == {
        (quant, kernel, n, k)
        for quant in ("bf16", "int4")
        for kernel in ("fused", "dense")
        for n, k in shapes
    }
    assert all(tuple(point.m for point in points) == grid.tokens for points in series)


def test_the_head_is_timed_in_the_unquantized_format_alone() -> None:
    (points, *_) = head_gemm_series(SPEC, "bf16", both_kernels, QUICK_GRID)
    assert {(p.quant, p.n, p.k) for p in points} == {("bf16", SPEC.vocab_size, SPEC.hidden_size)}


@GRIDS
def test_no_context_is_longer_than_the_models_positions(grid: Grid) -> None:
    short = replace(SPEC, max_positions=100)
    for points in attention_series(short, grid):
        spare = points[0].phase == "decode"
        assert all(point.seq + spare <= 100 for point in points)
    for points in layer_series(short, ("bf16",), grid):
        assert all(point.seq < 100 for point in points)


@GRIDS
def test_a_series_grows_in_tokens(grid: Grid) -> None:
    series = [
        *gemm_series(SPEC, ("int8",), both_kernels, grid),
        *layer_series(SPEC, ("int8",), grid),
        *attention_series(SPEC, grid),
        *end_series(SPEC, "bf16", grid),
    ]
    for points in series:
        work = [(point.tokens, point.batch * point.seq) for point in points]
        assert work == sorted(work)
        assert len({(p.op, p.phase, p.quant, p.kernel, p.n, p.k) for p in points}) == 1


def test_what_two_models_share_is_timed_once() -> None:
    twin = replace(SPEC, name="twin")
    one = gemm_series(SPEC, ("bf16",), both_kernels, QUICK_GRID)
    both = without_repeats([*one, *gemm_series(twin, ("bf16",), both_kernels, QUICK_GRID)])
    assert both == one
    layers = layer_series(SPEC, ("bf16",), QUICK_GRID), layer_series(twin, ("bf16",), QUICK_GRID)
    assert without_repeats([*layers[0], *layers[1]]) == [*layers[0], *layers[1]]


def test_both_sides_of_a_kernel_switch_are_dense_in_the_quick_grid() -> None:
    below = [m for m in QUICK_GRID.tokens if m <= 256]
    assert max(after / before for before, after in pairwise(below)) <= 2
    assert QUICK_GRID.tokens[-1] == 2048
