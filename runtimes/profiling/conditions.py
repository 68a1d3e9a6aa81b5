"""Conditions under which a profile times its kernels."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from runtimes.profiling.points import Point
from runtimes.profiling.processor import Target
from runtimes.profiling.profiled_models import ProfiledModel
from runtimes.profiling.rotation import copies_needed

MEMORY_FRACTION = 0.25
"""Share of the free memory that the copies of one thing may take together."""


@dataclass(frozen=True)
class Conditions:
    """What all measurements share.

    Attributes:
        target: the device.
        dtype: of activations, and of everything that is not quantized.
        models: by name.
        dense_from_tokens: by format, tokens from which whole layers decode weights beforehand.
        uses_cuda_graphs: whether stages replay decode steps that they have recorded.
    """

    target: Target
    dtype: torch.dtype
    models: Mapping[str, ProfiledModel]
    dense_from_tokens: Mapping[str, int]
    uses_cuda_graphs: bool = False

    @property
    def device(self) -> torch.device:
        """The device, as PyTorch calls it."""
        return self.target.device

    def copies(self, copy_bytes: int) -> int:
        """Return how many copies of something must take turns to be cold."""
        most_bytes = int(MEMORY_FRACTION * self.target.free_bytes())
        return copies_needed(copy_bytes, self.target.cache_bytes, most_bytes)

    def random(self, *shape: int) -> torch.Tensor:
        """Return normal numbers in the computing type."""
        return torch.randn(shape, device=self.device).to(self.dtype)


def needed_bytes(point: Point, conditions: Conditions) -> int:
    """Return about how much memory a measurement needs beside weights.

    Inputs and outputs count twice: some kernels convert them.
    """
    item_bytes = 2 * conditions.dtype.itemsize
    if point.op == "gemm":
        return item_bytes * point.m * (point.n + point.k)
    if point.op in {"head", "embedding"}:
        return item_bytes * point.m * point.n
    if point.op == "link":
        return 2 * point.bytes
    if point.op == "experts":
        return item_bytes * point.m * point.chosen * (3 * point.n + 2 * point.k)
    spec = conditions.models[point.model].spec
    if point.op == "attention":
        kept = min(point.seq, point.window or point.seq)
        kv_bytes = item_bytes * point.kv_heads * point.head_dim * point.batch * kept
        return 2 * kv_bytes + item_bytes * point.tokens * spec.hidden_size
    kind = spec.only_kind
    mixer = kind.attention
    kv_bytes = item_bytes * mixer.kv_heads * mixer.key_dim * point.batch * point.seq
    widest = max(linear.out_features for linear in kind.linears)
    return 2 * point.layers * kv_bytes + 2 * item_bytes * point.tokens * widest
