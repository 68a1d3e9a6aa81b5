"""Layers by kind: parameters of published layers, caches, and the experts that a step reads."""

import pytest

from llmpq_sim.core.layers import Attention, Dense, Experts, LatentAttention, LayerKind


def test_a_mixtral_layer_has_its_published_parameters() -> None:
    """mistralai/Mixtral-8x7B-v0.1: 46.7 B parameters, of which 12.9 B are active."""
    kind = LayerKind(4096, Attention(32, 8, 128, 128), Experts(8, 2, 14336), 0, 2 * 4096)
    ends = 2 * 32000 * 4096 + 4096
    assert 32 * kind.parameters + ends == 46_702_792_704
    assert 32 * kind.active_parameters + ends == 12_879_925_248


def test_a_layer_of_deepseek_v3_keeps_one_vector_a_token() -> None:
    """DeepSeek-V3 (arXiv:2412.19437): 512 + 64 elements a token and layer, whatever the heads."""
    mixer = LatentAttention(128, 1536, 512, 128, 64, 128)
    kind = LayerKind(7168, mixer, Dense(18432), 0, 2 * 7168 + 1536 + 512)
    assert kind.cache_bytes(3, 100) == 3 * 100 * 1152
    assert kind.parameters == 187_107_328 + 3 * 7168 * 18432 + 2 * 7168


def test_a_window_bounds_the_cache_and_an_absent_mixer_keeps_nothing() -> None:
    windowed = LayerKind(8, Attention(2, 1, 4, 4, window=16), Dense(8), 0, 0)
    assert windowed.cache_bytes(1, 16) == windowed.cache_bytes(1, 1000) == 2 * 16 * 8
    assert LayerKind(8, None, Dense(8), 0, 0).cache_bytes(9, 9) == 0


@pytest.mark.parametrize("tokens", [1, 2, 7, 1000])
def test_a_step_reads_as_many_experts_as_its_tokens_choose(tokens: int) -> None:
    """One token reads those it chose; very many read all; each reads more than fewer tokens do."""
    experts = Experts(64, 6, 8)
    assert experts.distinct(1) == pytest.approx(6)
    assert 6 <= experts.distinct(tokens) + 1e-9 <= 64 + 1e-6
    assert experts.distinct(tokens) < experts.distinct(tokens + 1) or tokens == 1000
