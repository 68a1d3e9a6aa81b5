"""Timed runs of a layer's matrix products and its attention."""

import copy
from math import prod

import torch

from llmpq_sim.core.formats import FORMATS
from runtimes.profiling.conditions import Conditions
from runtimes.profiling.points import Point, Series
from runtimes.profiling.rotation import rotated
from runtimes.profiling.timing import Call
from runtimes.torch_pipeline.engine.attention import StageState, attend
from runtimes.torch_pipeline.engine.kv_cache import KvCache, StepLayout
from runtimes.torch_pipeline.engine.own_modules import position_slopes
from runtimes.torch_pipeline.engine.scores import Scoring
from runtimes.torch_pipeline.engine.step import Segment, Step
from runtimes.torch_pipeline.weights.kernels import dense_dtype, kernel_for
from runtimes.torch_pipeline.weights.linear import (
    NEVER,
    KernelChoice,
    StoredLinear,
    linear_from_weight,
)


def step_of(phase: str, batch: int, seq: int) -> Step:
    """Return the step of so many sequences: one token after a context, or whole prompts."""
    if phase == "decode":
        return Step(0, decodes=tuple(Segment(row, row, seq, 1, True) for row in range(batch)))
    return Step(0, chunks=tuple(Segment(row, row, 0, seq, True) for row in range(batch)))


def kernels_of(
    format_name: str, shape: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> tuple[str, ...]:
    """Return the kernels that a format has on a device for (output, input) features.

    ``fused`` multiplies by weights as they are held, ``dense`` by decoded ones. Weights that are
    held as they are multiplied have only the dense one.
    """
    is_held_dense = not FORMATS[format_name].is_quantized and dense_dtype(device, dtype) == dtype
    has_fused = kernel_for(format_name, device, shape, dtype).fused_name is not None
    return ("dense",) if is_held_dense or not has_fused else ("fused", "dense")


class GemmBench:
    """Matrix products with one shape, format and kernel."""

    def __init__(self, series: Series, conditions: Conditions) -> None:
        point = series[0]
        self._conditions = conditions
        is_fused = point.kernel == "fused"
        first = linear_from_weight(
            torch.randn(point.n, point.k, device=conditions.device),
            None,
            point.quant,
            conditions.device,
            conditions.dtype,
            KernelChoice({point.quant: NEVER}) if is_fused else KernelChoice.dense_only(),
        )
        copies = conditions.copies(first.stored_bytes)
        self._linears = [first, *(_copied(first) for _ in range(copies - 1))]

    def calls(self, point: Point) -> tuple[Call, ...]:
        """Return the product for some tokens, with other weights each time."""
        tokens = self._conditions.random(point.m, point.k)
        return (rotated(self._linears, lambda each: each(tokens)),)


def _copied(linear: StoredLinear) -> StoredLinear:
    """Return a copy with weights of its own; the kernel is shared, as in a stage."""
    return copy.deepcopy(linear, {id(linear.kernel): linear.kernel})


class AttentionBench:
    """Attention of so many sequences in one phase, on caches that share their memory."""

    def __init__(self, series: Series, conditions: Conditions) -> None:
        self._conditions = conditions
        model = conditions.models[series[0].model]
        config = model.config
        self._softcap = getattr(config, "attn_logit_softcapping", None)
        self._has_sinks = config.model_type == "gpt_oss"
        slopes = position_slopes(config)
        self._slopes = None if slopes is None else slopes.to(conditions.device)
        elements = max(prod(self._shape(point)) for point in series)
        self._memory = torch.zeros(elements, dtype=conditions.dtype, device=conditions.device)

    def calls(self, point: Point) -> tuple[Call, ...]:
        """Return the attention of a layer, on another layer's cache each time."""
        conditions, shape = self._conditions, self._shape(point)
        layout = StepLayout(step_of(point.phase, point.batch, point.seq), conditions.device)
        stored = self._memory[: prod(shape)].view(shape)
        state = StageState(KvCache(stored, point.seq + 1), layout)
        sinks = torch.zeros(point.heads, device=conditions.device) if self._has_sinks else None
        scoring = Scoring(None, self._softcap, sinks, self._slopes)
        query, key, value = (
            conditions.random(point.tokens, heads, point.head_dim).transpose(0, 1)
            for heads in (point.heads, point.kv_heads, point.kv_heads)
        )
        projected = (query, key, value)

        def attended(layer: int) -> torch.Tensor:
            return attend(state, layer, projected, scoring, point.window or None)

        return (rotated(range(shape[0]), attended),)

    def _shape(self, point: Point) -> tuple[int, ...]:
        """Return the shape of a cache with so many layers that each is cold when its turn comes."""
        tokens = min(point.seq + 1, point.window or point.seq + 1)
        layer = (2, point.batch, point.kv_heads, tokens, point.head_dim)
        copies = self._conditions.copies(self._conditions.dtype.itemsize * prod(layer))
        return copies, *layer
