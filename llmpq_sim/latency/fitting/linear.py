"""LLM-PQ's linear latency model, the baseline of fits.

Source: LLM-PQ, arXiv:2403.01136, sec. 4; features as in its reference implementation.
"""

import numpy as np

from llmpq_sim.latency.work import FloatArray


def linear_features(phase: str, batch: FloatArray, tokens: FloatArray) -> FloatArray:
    """Return the features of one layer in a phase: (rows, 5) in prefill, (rows, 4) in decode."""
    one = np.ones_like(batch)
    if phase == "prefill":
        return np.stack([batch, tokens, batch * tokens, batch * tokens**2, one], axis=-1)
    return np.stack([batch * (1 + tokens), batch, tokens, one], axis=-1)


def fit_linear(features: FloatArray, time_s: FloatArray) -> FloatArray:
    """Return the coefficients of ordinary least squares.

    The columns are scaled first, because their sizes differ by eight orders of magnitude.
    """
    scale = np.abs(features).max(axis=0)
    coefficients, *_ = np.linalg.lstsq(features / scale, time_s, rcond=None)
    return np.asarray(coefficients / scale, np.float64)


def predict_linear(coefficients: FloatArray, features: FloatArray) -> FloatArray:
    """Return the predicted times; nothing keeps them above zero."""
    times_s: FloatArray = features @ coefficients
    return times_s
