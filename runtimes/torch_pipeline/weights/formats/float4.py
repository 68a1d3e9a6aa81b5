"""The formats mxfp4 and nvfp4: E2M1 numbers with a scale for a few of them.

E2M1 has a sign, 2 bits of exponent and 1 of fraction (OCP Microscaling Formats 1.0). Two codes lie
in a byte, the first in its low half, as checkpoints have them.
"""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from llmpq_sim.core.formats import FORMATS
from runtimes.torch_pipeline.weights.formats.base import (
    CHUNK_WEIGHTS,
    QuantizedFormat,
    StoredFormat,
    Tensors,
    scale_that_covers,
)
from runtimes.torch_pipeline.weights.formats.float8 import LARGEST, from_e4m3, to_e4m3

NUMBERS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""E2M1's, without sign, by code; a fourth bit is the sign."""

LARGEST_EXPONENT = 2
"""Of E2M1: a group's power of two is that of its largest weight less this (OCP, section 6.3)."""

EXPONENT_BIAS = 127


def to_e2m1(scaled: Tensor) -> Tensor:
    """Return the nearest codes, two a byte, of (rows, columns), columns even."""
    steps = torch.tensor(NUMBERS, device=scaled.device)
    codes = torch.bucketize(scaled.abs(), (steps[1:] + steps[:-1]) / 2).to(torch.uint8)
    codes |= (scaled < 0).to(torch.uint8) << 3
    return codes[:, ::2] | codes[:, 1::2] << 4


def from_e2m1(packed: Tensor) -> Tensor:
    """Return the float32 numbers of bytes, two each."""
    signed = torch.tensor((*NUMBERS, *(-number for number in NUMBERS)), device=packed.device)
    halves = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)
    return signed[halves.int()]


class _Groups(StoredFormat):
    """``codes`` uint8 (N, K/2) and a scale for each group."""

    def decode(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Return scaled numbers."""
        scales = self.group_scales(stored, rows)
        numbers = from_e2m1(stored["codes"][rows])
        return numbers.view(*scales.shape, -1).mul_(scales[..., None]).flatten(1)

    def scales(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return the scale of each group, (N, G)."""
        return self.group_scales(stored, slice(0, stored["codes"].shape[0]))

    @abstractmethod
    def group_scales(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Return the float32 scales of the groups of some rows, (rows, G)."""

    def groups_of(self, weight: Tensor) -> Tensor:
        """Return weights by group, float32 (rows, G, weights), zeros in what pads a row."""
        missing = self.padded(weight.shape[1]) - weight.shape[1]
        padded = functional.pad(weight.float(), (0, missing))
        return padded.unflatten(1, (-1, self.record.group_size or 1))


class MxFp4(_Groups, QuantizedFormat):
    """``scales`` uint8 (N, K/32): biased exponents of powers of two."""

    record = FORMATS["mxfp4"]

    def quantize_rows(self, weight: Tensor, _: str) -> Tensors:
        """Return codes of weights over the power of two that the largest of a group asks for."""
        groups = self.groups_of(weight)
        largest = scale_that_covers(groups.abs().amax(dim=2))
        _, exponents = torch.frexp(largest)  # of numbers from 1/2 to 1
        biased = (exponents - 1 - LARGEST_EXPONENT + EXPONENT_BIAS).clamp_(0, 254)
        powers = _power(biased.to(torch.uint8))
        codes = to_e2m1((groups / powers[..., None]).flatten(1))
        return {"codes": codes, "scales": biased.to(torch.uint8)}

    def group_scales(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Return powers of two."""
        return _power(stored["scales"][rows])


def _power(biased: Tensor) -> Tensor:
    return torch.ldexp(torch.ones_like(biased, dtype=torch.float32), biased.int() - EXPONENT_BIAS)


class NvFp4(_Groups):
    """``scales`` uint8 (N, K/16), E4M3 numbers, and ``tensor_scale`` float32 (1)."""

    record = FORMATS["nvfp4"]
    quantizers = QuantizedFormat.quantizers

    def quantize(self, weight: Tensor, _dtype: torch.dtype, _: str) -> Tensors:
        """Return codes under the scale that lets the largest group scale be the largest E4M3."""
        whole = weight.detach()
        largest = whole.abs().amax().float().view(1) / (NUMBERS[-1] * LARGEST)
        tensor_scale = scale_that_covers(largest)
        rows = max(1, CHUNK_WEIGHTS // weight.shape[1])
        parts = [self._quantized(each, tensor_scale) for each in whole.split(rows)]
        stored = {name: torch.cat([part[name] for part in parts]) for name in ("codes", "scales")}
        return {**stored, "tensor_scale": tensor_scale}

    def _quantized(self, weight: Tensor, tensor_scale: Tensor) -> Tensors:
        groups = self.groups_of(weight)
        scales = to_e4m3(groups.abs().amax(dim=2) / (NUMBERS[-1] * tensor_scale))
        means = from_e4m3(scales).mul_(tensor_scale)
        covered = torch.where(means > 0, means, torch.ones_like(means))
        return {"codes": to_e2m1((groups / covered[..., None]).flatten(1)), "scales": scales}

    def group_scales(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Return the products of both scales."""
        return from_e4m3(stored["scales"][rows]).mul_(stored["tensor_scale"])
