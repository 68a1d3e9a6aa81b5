"""Half-quadratic quantization: the zero of each group of weights.

HQQ (Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023) keeps
the scales of round to nearest and seeks zeros that lessen the sum of ``|error| ** 0.7``, in which
outliers weigh little. It alternates two closed forms, and needs no text.

The authors' library ``hqq`` is not used: where it is installed transformers imports it, and with it
PyTorch's compiler, whenever a process starts. It would also stop early by the mean error of all
groups of a call, so that a row's codes depended on the rows beside it.
"""

import torch
from torch import Tensor

NORM = 0.7
"""The p of the sum of ``|error| ** p`` that is lessened. This and what follows: Badri and Shaji."""

SHARPNESS, SHARPENING = 10.0, 1.01
"""The penalty beta that an error must outweigh at first, and its growth an iteration, kappa."""

ITERATIONS = 20


def half_quadratic_zeros(groups: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    """Return zeros with which codes mean the weights more nearly.

    Errors are counted in steps of their group, so that the penalty means the same for every matrix:
    twice the weights are stored as the same codes. Of all iterates, each rounded to bfloat16 as it
    is stored, a group keeps the one with the least squared error, which is what the error of an
    output grows with. The first is where it starts, so no group loses by it.

    Args:
        groups: weights, float32 of shape (rows, groups, weights of a group); what is NaN pads a row
            and does not count.
        scales: of each group, (rows, groups).
        zeros: of each group, where to start, (rows, groups): bfloat16 numbers.
        bits: of a code.

    Returns:
        float32 of shape (rows, groups), bfloat16 numbers.
    """
    half = 1 << (bits - 1)
    best, least, moved, beta = zeros, torch.full_like(zeros, torch.inf), zeros, SHARPNESS
    for _ in range(ITERATIONS):
        steps = groups.sub(moved[..., None]).div_(scales[..., None])
        errors = steps - steps.round().clamp_(-half, half - 1)
        squares = errors.square().nansum(dim=2)
        best = torch.where(squares < least, moved, best)
        least = torch.minimum(squares, least)
        shift = errors.sub_(_shrunk(errors, beta)).nanmean(dim=2)
        moved = (moved + shift * scales).bfloat16().float()
        beta *= SHARPENING
    return best


def _shrunk(errors: Tensor, beta: float) -> Tensor:
    """Return the errors that are taken for outliers: generalized soft thresholding."""
    size = errors.abs()
    return size.sub_(size.pow(NORM - 1).div_(beta)).clamp_min_(0).copysign_(errors)
