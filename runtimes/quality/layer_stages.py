"""Stages of one layer of a model, or of one of its ends, that windows run through.

Each is a stage of the runtime, loaded by the runtime's own code. The ends are stages without
layers: what precedes the first layer, and what follows the last.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from runtimes.torch_pipeline.engine.architecture import Shard
from runtimes.torch_pipeline.engine.cache_shapes import CacheShape
from runtimes.torch_pipeline.engine.stage import Stage, load_stage
from runtimes.torch_pipeline.engine.step import Segment, Step
from runtimes.torch_pipeline.weights.linear import KernelChoice
from runtimes.torch_pipeline.weights.loading import WeightSettings


@dataclass(frozen=True)
class LayerSource:
    """A model folder, read a layer at a time.

    Attributes:
        folder: of the model.
        layers: of the whole model.
        dtype: of what is not quantized, and of hidden states.
        device: where it is computed.
        quantizers: by quantized format, how its weights are chosen.
        window_tokens: of each window.
        windows_at_once: that pass a layer together.
    """

    folder: Path
    layers: int
    dtype: torch.dtype
    device: torch.device
    quantizers: Mapping[str, str]
    window_tokens: int
    windows_at_once: int

    def embedding(self) -> Stage:
        """Return what turns token ids into the hidden states that enter the first layer."""
        return self._stage(Shard(0, 0, True, False), ())

    def layer(self, number: int, format_name: str) -> Stage:
        """Return one layer, its matrices in a format."""
        return self._stage(Shard(number, 1, False, False), (format_name,))

    def head(self) -> Stage:
        """Return what turns the hidden states that leave the last layer into logits."""
        return self._stage(Shard(self.layers, 0, False, True), ())

    def _stage(self, shard: Shard, formats: tuple[str, ...]) -> Stage:
        # Weights are decoded and multiplied densely, as in a long prefill: how few tokens a test
        # has must not choose another kernel.
        settings = WeightSettings(
            formats,
            self.dtype,
            self.device,
            KernelChoice.dense_only(),
            quantizers=self.quantizers,
        )
        cache = CacheShape(self.windows_at_once, self.window_tokens)
        return load_stage(self.folder, shard, settings, cache)


def run_windows(stage: Stage, entering: Tensor) -> Tensor:
    """Return the hidden states of some windows after a stage, on the CPU.

    Args:
        stage: a layer, or the embedding.
        entering: token ids, (windows, tokens), or hidden states, (windows, tokens, hidden size).
    """
    windows, tokens = entering.shape[:2]
    chunks = tuple(Segment(row, row, 0, tokens, False) for row in range(windows))
    leaving = stage.run(Step(0, chunks=chunks), entering.flatten(0, 1).to(stage.device))
    return leaving.unflatten(0, (windows, tokens)).cpu()


def run_head(head: Stage, hidden: Tensor) -> Tensor:
    """Return the logits after each token, (tokens, vocabulary), of its hidden states.

    Without layers nothing looks at other tokens, so each counts as a sequence that is sampled.
    """
    each = tuple(Segment(0, 0, place, 1, True) for place in range(hidden.shape[0]))
    return head.run(Step(0, chunks=each), hidden.to(head.device))
