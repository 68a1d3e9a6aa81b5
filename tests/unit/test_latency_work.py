import numpy as np
import pytest

from llmpq_sim.latency.work import (
    ATTENTION_FEATURES,
    ATTENTION_TERMS,
    GEMM_FEATURES,
    attention_sizes,
    gemm_sizes,
)


def test_a_product_multiplies_and_adds_once_per_weight_and_token() -> None:
    assert gemm_sizes(3, 5, 7).flops == 2 * 3 * 5 * 7


def test_a_product_moves_packed_weights_and_16_bit_activations() -> None:
    assert gemm_sizes(3, 16, 8).moved_bytes(4) == 16 * 8 / 2 + 2 * (3 * 8 + 3 * 16)


def test_sizes_take_one_shape() -> None:
    assert gemm_sizes([1, 2], 8, 8).in_features.tolist() == [8, 8]
    assert gemm_sizes([[1], [2]], [8, 9], 8).flops.shape == (2, 2)


def test_features_have_the_names_they_are_listed_under() -> None:
    tokens = np.array([1.0, 129.0])
    products = gemm_sizes(tokens, 256, 128).features(16, 4)
    assert products.shape == (2, len(GEMM_FEATURES))
    assert products[:, GEMM_FEATURES.index("tiles_128x128")].tolist() == [1, 2]
    assert products[:, GEMM_FEATURES.index("waste_128x128")].tolist() == [1, 0]
    sizes = attention_sizes(2, tokens, 8, 4, 64)
    assert sizes.features("decode", 4).shape == (2, len(ATTENTION_FEATURES))
    assert sizes.features("decode", 4)[:, ATTENTION_FEATURES.index("all_heads")].tolist() == [4, 4]


def test_prefill_attends_to_each_earlier_token_once() -> None:
    batch, prompt, heads, head_dim = 2, 3, 4, 8
    pairs = sum(range(1, prompt + 1))
    terms = attention_sizes(batch, prompt, heads, heads, head_dim).terms("prefill", 10)
    assert terms[ATTENTION_TERMS.index("flops")] == 4 * batch * heads * head_dim * pairs


def test_decode_reads_the_cache_once() -> None:
    batch, context, heads, kv_heads, head_dim = 2, 7, 4, 2, 8
    cache = 2 * kv_heads * head_dim * (context + 1) * 2
    queries = 2 * heads * head_dim * 2
    terms = attention_sizes(batch, context, heads, kv_heads, head_dim).terms("decode", 10)
    assert terms[ATTENTION_TERMS.index("bytes")] == batch * (cache + queries)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_more_sequences_of_fewer_kv_heads_are_the_same_work(phase: str) -> None:
    few = attention_sizes(2, 100, 32, 8, 128).terms(phase, 10)
    many = attention_sizes(4, 100, 16, 4, 128).terms(phase, 10)
    assert few.tolist() == many.tolist()
