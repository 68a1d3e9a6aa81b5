"""Indicators of a format's harm to a layer, from its inputs and scales or weight errors.

Both indicators need no more than a pass of a text through the 16-bit model. They rank layers and
formats; they are no losses in nats. Where weights are not quantized both are exactly zero.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from llmpq_sim.core.errors import InputError
from runtimes.quality.input_statistics import InputStatistics
from runtimes.torch_pipeline.engine.architecture import Shard, read_config, shard_model
from runtimes.torch_pipeline.weights.checkpoint import open_checkpoint
from runtimes.torch_pipeline.weights.formats.base import RTN, Tensors
from runtimes.torch_pipeline.weights.formats.registry import stored_format
from runtimes.torch_pipeline.weights.layer_matrices import layer_matrices
from runtimes.torch_pipeline.weights.quantizers import dequantize, quantize

Method = Literal["variance", "variance-stochastic", "hessian"]
Rounding = Literal["deterministic", "stochastic"]


def variance_indicator(
    weight: Tensor,
    format_name: str,
    quantizer: str,
    statistics: InputStatistics,
    rounding: Rounding = "deterministic",
) -> float:
    """Return the variance that rounding adds to the outputs of a matrix, summed over outputs.

    ``D_W S_W^2 / 4 Var[X]`` for deterministic rounding and ``D_W S_W^2 / 6 (E[X]^2 + Var[X])`` for
    stochastic rounding (LLM-PQ, arXiv:2403.01136, Theorem 1), where each scale S_W that is stored
    counts with its weights D_W; padding is no weight. X is the whole input, all its tokens and
    features alike. A group whose weights are all met exactly is not rounded and adds nothing.

    Only scales count: a quantizer that moves zeros and keeps scales, as hqq, changes nothing.

    Args:
        weight: of shape (out_features, in_features).
        format_name: of the weight.
        quantizer: that chooses its codes.
        statistics: of its inputs.
        rounding: how weights are rounded; the runtime rounds deterministically.

    Raises:
        InputError: see ``quantize``.
    """
    known = stored_format(format_name)
    if not known.record.is_quantized:
        return 0.0
    stored, errors = _rounded(weight, format_name, quantizer)
    groups = errors.split(known.record.group_size or errors.shape[1], dim=1)
    weights = torch.stack([group.any(dim=1) * group.shape[1] for group in groups], dim=1)
    scale_squares = known.scales(stored).double().square()
    weighted = float((weights * scale_squares).sum())
    if rounding == "stochastic":
        return weighted / 6 * statistics.mean_square  # E[X]^2 + Var[X]
    return weighted / 4 * statistics.variance


def hessian_indicator(
    weight: Tensor, format_name: str, quantizer: str, statistics: InputStatistics
) -> float:
    """Return the trace of the input's Gram matrix, per token, times the squared weight error.

    X^T X is, but for a factor, the Hessian of the squared error of the outputs in each row of
    weights; its trace times ``|W - dequantize(quantize(W))|^2`` (Frobenius) is the indicator that
    LLM-PQ compares its own with (arXiv:2403.01136, after HAWQ).

    Args:
        weight: of shape (out_features, in_features).
        format_name: of the weight.
        quantizer: that chooses its codes.
        statistics: of its inputs.

    Raises:
        InputError: see ``quantize``.
    """
    if not stored_format(format_name).record.is_quantized:
        return 0.0
    _, errors = _rounded(weight, format_name, quantizer)
    return statistics.gram_trace * float(errors.double().square().sum())


INDICATORS: dict[Method, Callable[[Tensor, str, str, InputStatistics], float]] = {
    "variance": variance_indicator,
    "variance-stochastic": partial(variance_indicator, rounding="stochastic"),
    "hessian": hessian_indicator,
}


def layer_indicators(
    matrices: Iterable[tuple[str, Tensor]],
    formats: Sequence[str],
    quantizers: Mapping[str, str],
    statistics: Mapping[str, InputStatistics],
    method: Method,
) -> dict[str, float]:
    """Return the indicator of a layer in each format: the sum over its matrix products.

    Source of the sum: LLM-PQ, arXiv:2403.01136, Proposition 1.

    Args:
        matrices: the layer's, by name, see ``read_matrices``; one is looked at at a time.
        formats: in question.
        quantizers: by format; one that is missing is rounded to nearest.
        statistics: of the inputs, by the same names, see ``observed``.
        method: which indicator; ``variance`` is that of deterministic rounding, the runtime's.

    Raises:
        InputError: an input or a weight was no finite number.
    """
    indicator = INDICATORS[method]
    totals = dict.fromkeys(formats, 0.0)
    for name, weight in matrices:
        if not math.isfinite(statistics[name].gram_trace):
            raise InputError(
                f"inputs of {name}: expected finite numbers, found others in the 16-bit model; "
                "--dtype fp32 has a wider range"
            )
        for format_name in formats:
            quantizer = quantizers.get(format_name, RTN)
            totals[format_name] += indicator(weight, format_name, quantizer, statistics[name])
    return totals


def read_matrices(folder: Path, layer: int) -> Iterable[tuple[str, Tensor]]:
    """Return the matrices of a layer of a model folder, one after another, as they are stored.

    Those that share an input are one. The runtime quantizes just these.

    Raises:
        InputError: the folder does not hold the model.
    """
    shard = shard_model(read_config(folder), Shard(layer, 1, False, False), torch.float32)
    return layer_matrices(shard, layer, open_checkpoint(folder))


def _rounded(weight: Tensor, format_name: str, quantizer: str) -> tuple[Tensors, Tensor]:
    """Return a matrix as it is stored, and by how much each weight is off, in float32."""
    stored = quantize(weight, format_name, weight.dtype, quantizer)
    out_features, in_features = weight.shape
    numbers = dequantize(stored, format_name, out_features, in_features)
    return stored, numbers.sub_(weight.float())
