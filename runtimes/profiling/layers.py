"""Timed runs of whole layers, both ends of a model and empty steps.

Weights are random: times do not depend on them, and no checkpoint is needed. This module is the
only one that knows how the runtime builds a stage.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.layers import Linear
from runtimes.base import TokenRequest
from runtimes.profiling.conditions import Conditions
from runtimes.profiling.kernels import step_of
from runtimes.profiling.points import Point, Series
from runtimes.profiling.profiled_models import ProfiledModel
from runtimes.profiling.rotation import rotated
from runtimes.profiling.timing import Call, Timing
from runtimes.torch_pipeline.engine.architecture import (
    FINALS,
    Shard,
    ShardModel,
    connect,
    shard_model,
)
from runtimes.torch_pipeline.engine.attention import StageState
from runtimes.torch_pipeline.engine.cache_shapes import CacheShape, empty_cache
from runtimes.torch_pipeline.engine.cuda_graphs import CudaRecorder
from runtimes.torch_pipeline.engine.sampling import sample
from runtimes.torch_pipeline.engine.stage import Stage
from runtimes.torch_pipeline.weights.checkpoint import Checkpoint, Reader
from runtimes.torch_pipeline.weights.linear import KernelChoice
from runtimes.torch_pipeline.weights.loading import WeightSettings, load_weights

SCALE = 0.02
"""Standard deviation of random weights, as most models are initialised."""

ROUNDS_UNTIL_RECORDED = 2
"""Decode steps of a GPU's stage are recorded when their like comes again."""

ID_SETS = 16
"""Sets of token ids that take turns, so that rows of the table are as cold as in serving."""


class RandomWeights(Checkpoint):
    """A checkpoint that holds random numbers for every tensor of a cut model."""

    def __init__(self, model: Any, device: torch.device) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        super().__init__(Path("random weights"), dict.fromkeys(shapes, Path()))
        self.shapes = shapes
        self.device = device

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """Give a reader of random tensors."""
        yield RandomReader(self)


class RandomReader(Reader):
    """Gives random numbers in the shape of a tensor."""

    def __init__(self, weights: RandomWeights) -> None:
        super().__init__(weights)
        self._shapes = weights.shapes
        self._device = weights.device

    def read(self, name: str) -> torch.Tensor:
        """Return small random numbers."""
        return torch.randn(self._shapes[name], device=self._device) * SCALE


def random_cut(
    model: ProfiledModel, shard: Shard, format_name: str, conditions: Conditions
) -> tuple[ShardModel, WeightSettings]:
    """Return a shard of a model with random weights, its layers all in one format."""
    settings = WeightSettings(
        formats=(format_name,) * shard.layers,
        dtype=conditions.dtype,
        device=conditions.device,
        choice=KernelChoice(conditions.dense_from_tokens),
    )
    built = shard_model(model.config, shard, conditions.dtype)
    load_weights(built, shard.first_layer, RandomWeights(built.model, conditions.device), settings)
    return built, settings


def random_stage(
    model: ProfiledModel,
    layers: int,
    format_name: str,
    cache: tuple[int, int],
    conditions: Conditions,
) -> Stage:
    """Return a middle stage of a model with random weights.

    Args:
        model: the model.
        layers: how many it has.
        format_name: of all its layers.
        cache: rows and context tokens of its KV cache.
        conditions: type and device.
    """
    shard = Shard(0, layers, is_first=False, is_last=False)
    built, settings = random_cut(model, shard, format_name, conditions)
    shape = CacheShape(*cache)
    state = StageState(empty_cache(built.model.config, shape, conditions.dtype, conditions.device))
    connect(built, state, conditions.device)
    recorder = CudaRecorder() if conditions.uses_cuda_graphs else None
    return Stage(shard, built.model, state, settings, recorder)


class LayerBench:
    """Whole layers of one format, in stages of a few that take turns."""

    def __init__(self, series: Series, conditions: Conditions) -> None:
        first = series[0]
        model = conditions.models[first.model]
        cache = max(point.batch for point in series), max(point.seq for point in series) + 1
        self._conditions = conditions
        stage = random_stage(model, first.layers, first.quant, cache, conditions)
        stored = FORMATS[first.quant]
        layer_bytes = sum(
            stored.matrix_bytes(*_shape(linear)) for linear in model.spec.only_kind.linears
        )
        most = model.spec.layers // first.layers  # a stage has no more layers to turn to either
        copies = min(conditions.copies(first.layers * layer_bytes), most)
        self._stages = [stage, *(copy.deepcopy(stage) for _ in range(copies - 1))]
        self._empty = random_stage(model, 0, first.quant, cache, conditions)

    def calls(self, point: Point) -> tuple[Call, ...]:
        """Return a step with the layers, others each time, and one without any."""
        step = step_of(point.phase, point.batch, point.seq)
        entering = self._conditions.random(step.tokens, self._stages[0].hidden_size)
        timed = rotated(self._stages, lambda stage: stage.run(step, entering))
        if self._conditions.uses_cuda_graphs:
            for _ in range(ROUNDS_UNTIL_RECORDED):
                timed.round()
        return timed, empty_step(self._empty, point.batch, self._conditions)


def share_of_a_layer(step: Timing, empty: Timing, layers: int) -> Timing:
    """Return the time of one of several layers of a step.

    Args:
        step: with the layers.
        empty: without any; what it takes belongs to the step, not to its layers.
        layers: how many.
    """
    own_s = step.median_s - empty.median_s
    if own_s <= 0:  # so small that noise hides it: all of it is an upper bound
        return Timing(step.median_s / layers, step.spread, step.repeats)
    spread = step.spread * step.median_s / own_s
    return Timing(own_s / layers, spread, step.repeats)


def empty_step(stage: Stage, rows: int, conditions: Conditions) -> Call:
    """Return a step of so many decodes to a stage without layers."""
    step = step_of("decode", rows, 1)
    entering = conditions.random(rows, stage.hidden_size)
    return lambda: stage.run(step, entering)


class StepBench:
    """Visits of a stage without layers."""

    def __init__(self, series: Series, conditions: Conditions) -> None:
        self._conditions = conditions
        model = conditions.models[series[0].model]
        self._stage = random_stage(model, 0, "bf16", (1, 1), conditions)

    def calls(self, point: Point) -> tuple[Call, ...]:
        """Return a step of so many decodes."""
        return (empty_step(self._stage, point.batch, self._conditions),)


class EmbeddingBench:
    """Embeddings of tokens all over the table."""

    def __init__(self, series: Series, conditions: Conditions) -> None:
        model = conditions.models[series[0].model]
        shard = Shard(0, 0, is_first=True, is_last=False)
        built, _ = random_cut(model, shard, series[0].quant, conditions)
        self._conditions = conditions
        self._table = built.model.get_input_embeddings()
        self._vocab_size = model.spec.vocab_size

    def calls(self, point: Point) -> tuple[Call, ...]:
        """Return the embedding of so many tokens, others each time."""
        device = self._conditions.device
        ids = [torch.randint(self._vocab_size, (point.m,), device=device) for _ in range(ID_SETS)]
        return (rotated(ids, self._table),)


class HeadBench:
    """Final norm, LM head and greedy choice."""

    def __init__(self, series: Series, conditions: Conditions) -> None:
        first = series[0]
        model = conditions.models[first.model]
        shard = Shard(0, 0, is_first=False, is_last=True)
        built, _ = random_cut(model, shard, first.quant, conditions)
        norm = next(getattr(built.decoder, n) for n in FINALS if hasattr(built.decoder, n))
        end = torch.nn.Sequential(norm, built.model.get_output_embeddings())
        copies = conditions.copies(first.n * first.k * conditions.dtype.itemsize)
        self._conditions = conditions
        self._ends = [end, *(copy.deepcopy(end) for _ in range(copies - 1))]

    def calls(self, point: Point) -> tuple[Call, ...]:
        """Return the choice of so many tokens."""
        hidden = self._conditions.random(point.m, point.k)
        step = step_of("decode", point.m, 1)
        requests = [TokenRequest(str(row), (0,), 1) for row in range(point.m)]
        return (rotated(self._ends, lambda end: sample(end(hidden), step, requests).cpu()),)


def _shape(linear: Linear) -> tuple[int, int]:
    return linear.out_features, linear.in_features
