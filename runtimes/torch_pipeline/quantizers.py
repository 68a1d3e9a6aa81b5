"""Which codes and scales stand for a weight matrix, and which numbers do they mean?

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
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from llmpq_sim.errors import InputError
from llmpq_sim.formats import FORMATS, WeightFormat, format_named
from runtimes.torch_pipeline.int3_planes import pack_planes, unpack_planes
from runtimes.torch_pipeline.int4_layout import pack_nibbles, unpack_nibbles

Tensors = dict[str, Tensor]

QUANTIZER_VERSION = 1
"""Raised whenever the same weights would be stored differently."""

CHUNK_WEIGHTS = 1 << 20
"""Weights quantized at once: what is needed beside the result stays within some 16 MB."""

SCALE_DTYPE = torch.bfloat16

FLOAT32 = WeightFormat("fp32", 32, None, 0, None)
"""What plans do not offer, but a runtime that computes in float32 keeps."""


def weight_format(name: str) -> WeightFormat:
    """Return the format of this name, fp32 among them.

    Raises:
        InputError: there is none.
    """
    return FLOAT32 if name == FLOAT32.name else format_named(name, "weight format")


def quantize(weight: Tensor, format_name: str, dtype: torch.dtype) -> Tensors:
    """Return a matrix as a format stores it; the same weights always give the same bits.

    Args:
        weight: of shape (out_features, in_features), any floating-point type.
        format_name: one of ``llmpq_sim.formats.FORMATS``, or fp32.
        dtype: in which a format that does not quantize keeps its weights; they are shared with
            ``weight`` where that has the type already, so that tied embeddings are kept once.

    Raises:
        InputError: there is no such format, or some weight is not a finite number.
    """
    if not weight_format(format_name).is_quantized:
        return {"weight": weight.detach().to(dtype).contiguous()}
    rows = max(1, CHUNK_WEIGHTS // weight.shape[1])
    parts = [_QUANTIZERS[format_name](chunk.float()) for chunk in weight.detach().split(rows)]
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


def _quantize_int8(weight: Tensor) -> Tensors:
    scales = _scale_that_covers(weight.abs().amax(dim=1) / 127)
    codes = (weight / scales[:, None]).round_().clamp_(-127, 127)
    return {"codes": codes.to(torch.int8), "scales": scales.to(SCALE_DTYPE)}


def _quantize_int4(weight: Tensor) -> Tensors:
    codes, affine = _affine_codes(weight, "int4")
    return {"codes": pack_nibbles(codes), "affine": affine}


def _quantize_int3(weight: Tensor) -> Tensors:
    codes, affine = _affine_codes(weight, "int3")
    two_bit, one_bit = pack_planes(codes)
    return {"two_bit": two_bit, "one_bit": one_bit, "affine": affine}


def _affine_codes(weight: Tensor, format_name: str) -> tuple[Tensor, Tensor]:
    """Return codes and the scale and zero of each group, such that no weight is cut off.

    The zero is rounded to 16 bits first and the scale then covers what is left on either side of
    it, rounded upwards: every weight lies within half a step of its code's number.
    """
    bits = FORMATS[format_name].bits
    below, above = 1 << (bits - 1), (1 << (bits - 1)) - 1  # steps on either side of the zero
    rows, columns = weight.shape
    missing = padded(columns, format_name) - columns
    if missing:  # what pads a row must not widen its group
        weight = torch.cat((weight, weight[:, -1:].expand(rows, missing)), dim=1)
    groups = weight.view(rows, -1, FORMATS[format_name].group_size or columns)
    low, high = groups.aminmax(dim=2)
    zeros = torch.lerp(low, high, below / (below + above)).to(SCALE_DTYPE).float()
    scales = _scale_that_covers(torch.maximum((high - zeros) / above, (zeros - low) / below))
    steps = groups.sub(zeros[..., None]).div_(scales[..., None]).round_().clamp_(-below, above)
    codes = steps.add_(below).to(torch.uint8).flatten(1)
    return codes, torch.stack((scales, zeros), dim=-1).transpose(0, 1).to(SCALE_DTYPE).contiguous()


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


_QUANTIZERS: dict[str, Callable[[Tensor], Tensors]] = {
    "int8": _quantize_int8,
    "int4": _quantize_int4,
    "int3": _quantize_int3,
}
