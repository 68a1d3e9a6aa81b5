"""Quantizers: codes and scales of a weight matrix, and the numbers that they mean.

One object for both uses: the runtime stores what ``quantize`` gives, and the damage that a format
does to a model is measured with ``dequantize`` of the same.

What is stored, with output rows N, input features K, and G groups of a row (K is padded to whole
groups, see ``padded``); scales are bfloat16, whose range is that of float32:

- int8: ``codes`` int8 (N, K), ``scales`` (N); a weight is ``code * scale``;
- int4: ``codes`` uint8 (N, K/2) as in int4_layout.py, ``affine`` (G, N, 2) with scale and zero; a
  weight is ``(code - 8) * scale + zero``, as in PyTorch's kernels;
- int3: ``two_bit`` (N, K/4) and ``one_bit`` (N, K/8) as in int3_planes.py, ``affine`` (G, N, 2); a
  weight is ``(code - 4) * scale + zero``;
- fp32, fp16, bf16: ``weight`` (N, K) in the dtype asked for, whatever the name: a runtime computes
  in one type and keeps in it what is not quantized.

A quantizer says how codes are chosen: "rtn" rounds to nearest between the least and the largest
weight of a group, and "hqq" moves the zeros of int4 and int3 as hqq_quantizer.py says. The layout
of what is stored, and with it the kernels, are the same for both.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS, WeightFormat, format_named
from runtimes.torch_pipeline.weights.hqq_quantizer import half_quadratic_zeros
from runtimes.torch_pipeline.weights.int3_planes import pack_planes, unpack_planes
from runtimes.torch_pipeline.weights.int4_layout import pack_nibbles, unpack_nibbles

Tensors = dict[str, Tensor]

QUANTIZER_VERSION = 1
"""Raised whenever the same weights would be stored differently."""

CHUNK_WEIGHTS = 1 << 19
"""Weights quantized at once: what is needed beside the result stays within some 16 MB (rtn) or
some 40 MB (hqq)."""

SCALE_DTYPE = torch.bfloat16

FLOAT32 = WeightFormat("fp32", 32, None, 0, None)
"""What plans do not offer, but a runtime that computes in float32 keeps."""


RTN, HQQ = "rtn", "hqq"

QUANTIZERS: Mapping[str, tuple[str, ...]] = {
    RTN: tuple(name for name in FORMATS if FORMATS[name].is_quantized),
    HQQ: ("int4", "int3"),
}
"""The formats that each quantizer knows."""


def weight_format(name: str) -> WeightFormat:
    """Return the format of this name, fp32 among them.

    Raises:
        InputError: there is none.
    """
    return FLOAT32 if name == FLOAT32.name else format_named(name, "weight format")


def parse_quantizers(text: str) -> dict[str, str]:
    """Return the quantizer of each quantized format, as an option says it.

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
        chosen = dict.fromkeys(QUANTIZERS[text], text)
    else:
        for part in text.split(","):
            format_name, _, quantizer = (each.strip() for each in part.partition("="))
            if format_name in chosen:
                raise InputError(f"{where}: expected each format once, got {format_name} twice")
            chosen[format_name] = quantizer or part
    check_quantizers(chosen, where)
    return dict.fromkeys(QUANTIZERS[RTN], RTN) | chosen


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
        format_name: one of ``llmpq_sim.core.formats.FORMATS``, or fp32.
        dtype: in which a format that does not quantize keeps its weights; they are shared with
            ``weight`` where that has the type already, so that tied embeddings are kept once.
        quantizer: how codes are chosen, one of ``QUANTIZERS``.

    Raises:
        InputError: there is no such format or quantizer, they do not go together, or some weight is
            not a finite number.
    """
    if not weight_format(format_name).is_quantized:
        return {"weight": weight.detach().to(dtype).contiguous()}
    check_quantizers({format_name: quantizer}, "weights to quantize")
    rows = max(1, CHUNK_WEIGHTS // weight.shape[1])
    stored = _STORED[format_name]
    parts = [stored(chunk.float(), quantizer) for chunk in weight.detach().split(rows)]
    return {
        name: torch.cat([part[name] for part in parts], dim=1 if name == "affine" else 0)
        for name in parts[0]
    }


def dequantize(
    stored: Mapping[str, Tensor], format_name: str, out_features: int, in_features: int
) -> Tensor:
    """Return the numbers that stored codes mean: float32 of shape (out_features, in_features).

    Raises:
        InputError: there is no such format, or what is stored is no matrix of this shape.
    """
    decoded = decode_rows(stored, format_name, slice(0, out_features))
    expected = (out_features, padded(in_features, format_name))
    if tuple(decoded.shape) != expected:
        raise InputError(
            f"{format_name} weights: expected a matrix of {expected} (out_features, in_features in "
            f"whole groups), found {tuple(decoded.shape)}; quantize it again"
        )
    return decoded[:, :in_features].contiguous()


def padded(in_features: int, format_name: str) -> int:
    """Return the input features of a row in whole groups."""
    group_size = weight_format(format_name).group_size or 1
    return -(-in_features // group_size) * group_size


def decode_rows(stored: Mapping[str, Tensor], format_name: str, rows: slice) -> Tensor:
    """Return some output rows of stored weights as float32 numbers, with the padding of each row.

    Raises:
        InputError: there is no such format.
    """
    if not weight_format(format_name).is_quantized:
        return stored["weight"][rows].float()
    if format_name == "int8":
        return stored["codes"][rows].float().mul_(stored["scales"][rows, None].float())
    if format_name == "int4":
        return affine_rows(unpack_nibbles(stored["codes"][rows]), stored["affine"][:, rows], 4)
    codes = unpack_planes(stored["two_bit"][rows], stored["one_bit"][rows])
    return affine_rows(codes, stored["affine"][:, rows], 3)


def group_scales(stored: Mapping[str, Tensor], format_name: str) -> Tensor:
    """Return the scales of quantized weights, bfloat16 of shape (out_features, groups of a row)."""
    return stored["scales"][:, None] if format_name == "int8" else stored["affine"][..., 0].t()


def affine_rows(codes: Tensor, affine: Tensor, bits: int) -> Tensor:
    """Return ``(code - 2**bits / 2) * scale + zero``; ``codes`` (uint8, rows x columns) is spent.

    Args:
        codes: of whole rows.
        affine: scale and zero of each group, of shape (groups, rows, 2).
        bits: of a code.
    """
    scales, zeros = affine.float().permute(2, 1, 0).unsqueeze(-1).contiguous()
    values = codes.view(torch.int8).sub_(1 << (bits - 1)).float()
    grouped = values.view(values.shape[0], scales.shape[1], -1)
    return grouped.mul_(scales).add_(zeros).flatten(1)


def _quantize_int8(weight: Tensor, _: str) -> Tensors:
    scales = _scale_that_covers(weight.abs().amax(dim=1) / 127)
    codes = (weight / scales[:, None]).round_().clamp_(-127, 127)
    return {"codes": codes.to(torch.int8), "scales": scales.to(SCALE_DTYPE)}


def _quantize_int4(weight: Tensor, quantizer: str) -> Tensors:
    codes, affine = _affine_codes(weight, "int4", quantizer)
    return {"codes": pack_nibbles(codes), "affine": affine}


def _quantize_int3(weight: Tensor, quantizer: str) -> Tensors:
    codes, affine = _affine_codes(weight, "int3", quantizer)
    two_bit, one_bit = pack_planes(codes)
    return {"two_bit": two_bit, "one_bit": one_bit, "affine": affine}


def _affine_codes(weight: Tensor, format_name: str, quantizer: str) -> tuple[Tensor, Tensor]:
    """Return codes (uint8, rows x padded columns) and the scale and zero of each group."""
    bits = FORMATS[format_name].bits
    rows, columns = weight.shape
    missing = padded(columns, format_name) - columns
    if missing:  # what pads a row must not widen its group
        weight = torch.cat((weight, weight[:, -1:].expand(rows, missing)), dim=1)
    groups = weight.view(rows, -1, FORMATS[format_name].group_size or columns)
    scales, zeros = _covering(groups, bits)
    if quantizer == HQQ:
        counted = groups if not missing else _without_padding(groups, columns)
        zeros = half_quadratic_zeros(counted, scales, zeros, bits)
    half = 1 << (bits - 1)
    steps = groups.sub(zeros[..., None]).div_(scales[..., None]).round_().clamp_(-half, half - 1)
    codes = steps.add_(half).to(torch.uint8).flatten(1)
    return codes, torch.stack((scales, zeros), dim=-1).transpose(0, 1).to(SCALE_DTYPE).contiguous()


def _without_padding(groups: Tensor, columns: int) -> Tensor:
    """Return a copy of groups with NaN for all but the first ``columns`` weights of a row."""
    counted = groups.clone()
    counted.flatten(1)[:, columns:] = torch.nan
    return counted


def _covering(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return scales and zeros (bfloat16 numbers) of groups such that no weight is cut off.

    The zero is rounded to 16 bits first and the scale then covers what is left on either side of
    it, rounded upwards: every weight lies within half a step of its code's number.
    """
    below, above = 1 << (bits - 1), (1 << (bits - 1)) - 1  # steps on either side of the zero
    low, high = groups.aminmax(dim=2)
    zeros = torch.lerp(low, high, below / (below + above)).to(SCALE_DTYPE).float()
    return _scale_that_covers(torch.maximum((high - zeros) / above, (zeros - low) / below)), zeros


def _scale_that_covers(step: Tensor) -> Tensor:
    """Return steps (float32, >= 0) rounded up to bfloat16; 1 where all weights are equal.

    Raises:
        InputError: a step is no finite number, and so neither is a weight.
    """
    wrong = step.numel() - int(step.isfinite().sum())
    if wrong:
        raise InputError(
            f"weights to quantize: expected finite numbers, found {wrong} groups with others; "
            "the checkpoint is damaged, or was saved in a type too narrow for it"
        )
    rounded = step.contiguous().view(torch.int32).add(0xFFFF).bitwise_and_(-0x10000)
    return torch.where(step > 0, rounded.view(torch.float32), torch.ones_like(step))


_STORED: dict[str, Callable[[Tensor, str], Tensors]] = {
    "int8": _quantize_int8,
    "int4": _quantize_int4,
    "int3": _quantize_int3,
}
