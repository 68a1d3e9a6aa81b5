"""KL divergence and cross-entropy of next-token predictions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_NATS = 10.0
"""Mean KL per token from which on a model is of no use: its perplexity grows 20,000-fold."""


@dataclass(frozen=True)
class Estimate:
    """A mean over windows.

    Attributes:
        mean: of them.
        standard_error: sample standard deviation over the square root of their number; 0 for one.
    """

    mean: float
    standard_error: float


def log_probabilities(logits: Tensor) -> Tensor:
    """Return the logarithms of the softmax in float64. Shape: as given, (tokens, vocabulary)."""
    return logits.double().log_softmax(-1)


def divergence_nats(reference: Tensor, candidate: Tensor) -> Tensor:
    """Return KL(reference || candidate) of each token, from log-probabilities. Shape: (tokens,)."""
    return reference.exp().mul_(reference - candidate).sum(-1)


def cross_entropy_nats(predicted: Tensor, following: Tensor) -> Tensor:
    """Return ``-ln q`` of each token that followed, from log-probabilities. Shape: (tokens,)."""
    return -predicted.gather(-1, following[:, None]).squeeze(-1)


def estimate(windows: Sequence[float]) -> Estimate:
    """Return the mean over windows and its standard error."""
    count = len(windows)
    mean = math.fsum(windows) / count
    if count == 1:
        return Estimate(mean, 0.0)
    variance = math.fsum((value - mean) ** 2 for value in windows) / (count - 1)
    return Estimate(mean, math.sqrt(variance / count))


def has_diverged(nats: Sequence[float]) -> bool:
    """Return whether the KL of windows is no finite number, or above ``MOST_NATS``."""
    return not all(map(math.isfinite, nats)) or math.fsum(nats) / len(nats) > MOST_NATS


def all_finite(values: Tensor) -> bool:
    """Return whether every value is a finite number."""
    return bool(torch.isfinite(values).all())
