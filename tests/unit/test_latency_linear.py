import numpy as np

from llmpq_sim.latency.fitting.linear import fit_linear, linear_features, predict_linear

BATCH = np.array([1.0, 2, 4, 8, 1, 2, 4, 8])
TOKENS = np.array([128.0, 128, 128, 128, 512, 512, 256, 64])


def test_prefill_is_linear_in_the_paper_s_features() -> None:
    time_s = 1e-3 * BATCH + 1e-6 * BATCH * TOKENS + 1e-9 * BATCH * TOKENS**2 + 1e-4
    features = linear_features("prefill", BATCH, TOKENS)
    assert np.allclose(predict_linear(fit_linear(features, time_s), features), time_s, rtol=1e-9)


def test_decode_is_linear_in_the_paper_s_features() -> None:
    time_s = 1e-7 * BATCH * (1 + TOKENS) + 1e-5 * BATCH + 1e-6 * TOKENS + 1e-4
    features = linear_features("decode", BATCH, TOKENS)
    assert np.allclose(predict_linear(fit_linear(features, time_s), features), time_s, rtol=1e-9)
