"""Timed runs of the experts of a layer: every token through the few that it chose."""

import copy
from typing import Any

import torch

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.layers import Experts
from llmpq_sim.core.model import ModelSpec
from runtimes.profiling.conditions import Conditions
from runtimes.profiling.layers import random_cut
from runtimes.profiling.points import Point, Series
from runtimes.profiling.rotation import rotated
from runtimes.profiling.timing import Call
from runtimes.torch_pipeline.engine.architecture import Shard
from runtimes.torch_pipeline.weights.experts import expert_modules


def balanced_choices(tokens: int, chosen: int, experts: int) -> torch.Tensor:
    """Return the experts of each token, all as often as the others. Shape: (tokens, chosen)."""
    return (torch.arange(tokens * chosen) % experts).view(tokens, chosen)


class ExpertsBench:
    """The experts of a layer in one format, without router and shared ones."""

    def __init__(self, series: Series, conditions: Conditions) -> None:
        point = series[0]
        self._conditions = conditions
        model = conditions.models[point.model]
        layer = _first_layer(model.spec, point)
        shard = Shard(layer, 1, is_first=False, is_last=False)
        built, _ = random_cut(model, shard, point.quant, conditions)
        experts: Any = next(found for _, found, _ in expert_modules(built.model.named_modules()))
        weights = 3 * point.experts * point.n * point.k
        size = round(weights * FORMATS[point.quant].bits_per_weight() / 8)
        copies = range(conditions.copies(size) - 1)
        self._copies = [experts, *(copy.deepcopy(experts) for _ in copies)]

    def calls(self, point: Point) -> tuple[Call, ...]:
        """Return what the experts make of so many tokens, others each time."""
        hidden = self._conditions.random(point.m, point.k)
        chosen = balanced_choices(point.m, point.chosen, point.experts).to(hidden.device)
        weights = torch.full(chosen.shape, 1 / point.chosen, dtype=hidden.dtype).to(hidden.device)
        return (rotated(self._copies, lambda experts: experts(hidden, chosen, weights)),)


def _first_layer(spec: ModelSpec, point: Point) -> int:
    """Return the first layer with the experts of a point."""
    for layer in range(spec.layers):
        part = spec.layer_kind(layer).feed_forward
        if isinstance(part, Experts) and (part.count, part.inner_size) == (point.experts, point.n):
            return layer
    raise ValueError(f"{spec.name} has no layer of {point.experts} experts of {point.n}")
