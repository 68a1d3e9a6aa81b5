import numpy as np

from llmpq_sim.latency.corrections import Correction
from llmpq_sim.latency.models import SHORTEST_S, AttentionModel, GemmModel, Roofline
from llmpq_sim.latency.trees import Trees
from llmpq_sim.latency.work import attention_sizes, gemm_sizes

BASE = Roofline(fixed_s=1e-6, flops_per_s=1e12, bytes_per_s=1e9)
DOUBLED = Trees(float(np.log(2)), (), (), ())
GEMM = GemmModel(16, BASE, Correction(DOUBLED, (1, 64, 64), (512, 4096, 4096)), 10)


def test_a_roofline_is_limited_by_the_slower_of_arithmetic_and_traffic() -> None:
    assert BASE.time_s(np.array(2e12), np.array(1e9)) == 1e-6 + 2
    assert BASE.time_s(np.array(1e12), np.array(3e9)) == 1e-6 + 3


def test_no_kernel_takes_no_time() -> None:
    free = Roofline(0.0, 1e18, 1e18)
    assert free.time_s(np.array(1.0), np.array(1.0)) == SHORTEST_S


def test_a_correction_multiplies_the_base() -> None:
    sizes = gemm_sizes([1, 100, 512], 64, 64)
    base_s = BASE.time_s(sizes.flops, sizes.moved_bytes(16))
    assert np.allclose(GEMM.time_s(sizes), 2 * base_s, rtol=1e-15)


def test_what_lies_outside_the_box_is_known() -> None:
    assert GEMM.beyond(gemm_sizes([1, 512, 513], 64, 64)).tolist() == [False, False, True]
    assert GEMM.beyond(gemm_sizes(1, [64, 5000, 64], [64, 64, 63])).tolist() == [False, True, True]
    assert not GemmModel(16, BASE, None, 10).beyond(gemm_sizes([1e9], 1, 1)).any()


def test_beyond_the_box_times_follow_the_base() -> None:
    split_on_tokens = Trees(0.0, (0,), (8.5,), ("<0 0 50000000",))  # log2 of 362 tokens
    model = GemmModel(16, BASE, Correction(split_on_tokens, (1, 64, 64), (512, 64, 64)), 10)
    far = gemm_sizes([512, 1024, 1e7], 64, 64)
    ratio = model.time_s(far) / BASE.time_s(far.flops, far.moved_bytes(16))
    assert np.allclose(ratio, np.exp(0.5), rtol=1e-12)


def test_a_damaged_correction_stays_finite() -> None:
    damaged = Correction(Trees(1e9, (), (), ()), (1, 1, 1), (9, 9, 9))
    assert np.isfinite(GemmModel(16, BASE, damaged, 10).time_s(gemm_sizes(1, 1, 1)))


def test_more_kv_heads_than_profiled_count_as_more_sequences() -> None:
    split_on_batch = Trees(0.0, (0,), (3.5,), ("<0 0 70000000",))  # log2 of 11 sequences
    box = Correction(split_on_batch, (1, 1, 1, 1, 128), (64, 4096, 64, 8, 128))
    model = AttentionModel("decode", (0, 1e-12, 0, 0, 0, 1e-6), box, 10)
    layouts = attention_sizes([2, 14], 100, [56, 8], [56, 8], 128)
    assert np.ptp(model.time_s(layouts)) == 0
