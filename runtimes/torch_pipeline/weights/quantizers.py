"""Quantizers: codes and scales of a weight matrix, and the numbers that they mean.

One function for both uses: the runtime stores what ``quantize`` gives, and the damage that a format
does to a model is measured with ``dequantize`` of the same. What is stored is said by the classes
in ``formats``, and how codes are chosen by a quantizer.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from llmpq_sim.core.errors import InputError
from runtimes.torch_pipeline.weights.formats.base import HQQ, RTN, Tensors
from runtimes.torch_pipeline.weights.formats.registry import (
    QUANTIZED_FORMATS,
    STORED_FORMATS,
    USUAL_FORMATS,
    stored_format,
)

QUANTIZER_VERSION = 1
"""Raised whenever the same weights would be stored differently."""

QUANTIZERS: Mapping[str, tuple[str, ...]] = {
    quantizer: tuple(
        name for name in QUANTIZED_FORMATS if quantizer in STORED_FORMATS[name].quantizers
    )
    for quantizer in (RTN, HQQ)
}
"""The formats that each quantizer knows."""


def parse_quantizers(text: str) -> dict[str, str]:
    """Return the quantizers that an option says; what is missing is rounded to nearest.

    Args:
        text: a quantizer for all formats it knows, such as ``hqq``, or formats with theirs, such as
            ``int4=hqq,int3=rtn``; every other format is rounded to nearest.

    Raises:
        InputError: a format or a quantizer is unknown, they do not go together, or a format is
            there twice.
    """
    where, chosen = "--quantizer", {}
    if "=" not in text:
        _check_quantizer_name(text, where)
        chosen = {name: text for name in QUANTIZERS[text] if text != RTN}
    else:
        for part in text.split(","):
            format_name, _, quantizer = (each.strip() for each in part.partition("="))
            if format_name in chosen:
                raise InputError(f"{where}: expected each format once, got {format_name} twice")
            chosen[format_name] = quantizer or part
    check_quantizers(chosen, where)
    return dict.fromkeys(USUAL_FORMATS, RTN) | chosen


def check_quantizers(quantizers: Mapping[str, str], where: str) -> None:
    """Check that weights can be quantized so here.

    Args:
        quantizers: by format.
        where: what said so, for the error.

    Raises:
        InputError: they cannot: see ``parse_quantizers``.
    """
    for format_name, quantizer in quantizers.items():
        _check_quantizer_name(quantizer, where)
        if format_name not in QUANTIZERS[RTN]:
            raise InputError(
                f"{where}: expected a quantized format ({', '.join(QUANTIZERS[RTN])}), "
                f"got {format_name!r}"
            )
        if format_name not in QUANTIZERS[quantizer]:
            raise InputError(
                f"{where}: {quantizer} seeks zeros, and {format_name} has none; "
                f"it quantizes {' and '.join(QUANTIZERS[quantizer])}, leave {format_name} to {RTN}"
            )


def _check_quantizer_name(name: str, where: str) -> None:
    if name not in QUANTIZERS:
        raise InputError(
            f"{where}: expected a quantizer ({', '.join(QUANTIZERS)}) or formats with theirs, "
            f"such as int4=hqq,int3=rtn, got {name!r}"
        )


def quantize(weight: Tensor, format_name: str, dtype: torch.dtype, quantizer: str = RTN) -> Tensors:
    """Return a matrix as a format stores it; the same weights always give the same bits.

    Args:
        weight: of shape (out_features, in_features), any floating-point type.
        format_name: one of ``STORED_FORMATS``.
        dtype: in which a format that does not quantize keeps its weights; they are shared with
            ``weight`` where that has the type already, so that tied embeddings are kept once.
        quantizer: how codes are chosen, one of ``QUANTIZERS``.

    Raises:
        InputError: there is no such format or quantizer, they do not go together, or some weight is
            not a finite number.
    """
    stored = stored_format(format_name, "weights to quantize")
    if stored.record.is_quantized:
        check_quantizers({format_name: quantizer}, "weights to quantize")
    return stored.quantize(weight, dtype, quantizer)


def dequantize(
    stored: Mapping[str, Tensor], format_name: str, out_features: int, in_features: int
) -> Tensor:
    """Return the numbers that stored codes mean: float32 of shape (out_features, in_features).

    Raises:
        InputError: there is no such format, or what is stored is no matrix of this shape.
    """
    known = stored_format(format_name, "weights")
    decoded = known.decode(stored, slice(0, out_features))
    expected = (out_features, known.padded(in_features))
    if tuple(decoded.shape) != expected:
        raise InputError(
            f"{format_name} weights: expected a matrix of {expected} (out_features, in_features in "
            f"whole groups), found {tuple(decoded.shape)}; quantize it again"
        )
    return decoded[:, :in_features].contiguous()
