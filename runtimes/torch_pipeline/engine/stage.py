"""Stage: the computation of its layers for a step."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runtimes.torch_pipeline.engine.architecture import Shard, connect, read_config, shard_model
from runtimes.torch_pipeline.engine.attention import StageState
from runtimes.torch_pipeline.engine.batch_invariance import (
    DECODE_ROWS,
    PROMPT_ROWS,
    make_invariant,
    whole_tiles,
)
from runtimes.torch_pipeline.engine.cache_shapes import CacheShape, empty_cache
from runtimes.torch_pipeline.engine.cuda_graphs import CudaGraphs, Recorder
from runtimes.torch_pipeline.engine.families import family_named
from runtimes.torch_pipeline.engine.kv_cache import StepLayout
from runtimes.torch_pipeline.engine.step import Step
from runtimes.torch_pipeline.weights.checkpoint import open_checkpoint
from runtimes.torch_pipeline.weights.linear import FixedTiles
from runtimes.torch_pipeline.weights.loading import WeightSettings, load_weights


class Stage:
    """Some layers of a model with their KV cache.

    Attributes:
        shard: which layers.
        hidden_size: width of what passes between stages.
        dtype: of what passes between stages.
        device: where it computes.
    """

    def __init__(
        self,
        shard: Shard,
        model: Any,
        state: StageState,
        settings: WeightSettings,
        recorder: Recorder | None = None,
        tiles: FixedTiles | None = None,
    ) -> None:
        self.shard = shard
        self.hidden_size: int = model.config.hidden_size
        self.dtype = settings.dtype
        self.device = settings.device
        self._model = model
        self._state = state
        self._base = model.base_model
        self._tiles = tiles
        if tiles is not None and shard.is_last:
            head = model.get_output_embeddings()
            head.register_forward_pre_hook(lambda *_: self._set_tile(DECODE_ROWS))
        context_tokens = state.cache.context_tokens
        self._recordings = (
            None if recorder is None else CudaGraphs(recorder, settings.device, context_tokens)
        )

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield its modules with their names in the model that it is, layers counted from 0."""
        return self._model.named_modules()

    @torch.inference_mode()
    def run(self, step: Step, entering: torch.Tensor) -> torch.Tensor:
        """Return what a step becomes at this stage.

        Args:
            step: the micro-batch.
            entering: token ids, (tokens,), on the first stage; hidden states,
                (tokens, hidden size), on the others.

        Returns:
            Hidden states, (tokens, hidden size), or on the last stage logits of the tokens to be
            sampled, (samples, vocabulary).
        """
        self._state.cache.move(step.moves)
        if self._tiles is None:
            return self._run(step, entering)
        parts = step.phases
        entering_parts = entering.split([part.tokens for part in parts])
        return torch.cat(
            [self._in_tiles(*each) for each in zip(parts, entering_parts, strict=True)]
        )

    def _run(self, step: Step, entering: torch.Tensor) -> torch.Tensor:
        if self._recordings is not None:
            return self._recordings.run(step, entering, self._computed)
        return self._computed(StepLayout(step, self.device), entering)

    def _in_tiles(self, step: Step, entering: torch.Tensor) -> torch.Tensor:
        """Return what decodes alone, or prompts alone, become."""
        self._set_tile(DECODE_ROWS if step.decodes else PROMPT_ROWS)
        return self._run(step, entering)

    def _set_tile(self, rows: int) -> None:
        if self._tiles is not None:
            self._tiles.rows = rows

    def _computed(self, layout: StepLayout, entering: torch.Tensor) -> torch.Tensor:
        self._state.layout = layout
        entering_name = "input_ids" if self.shard.is_first else "inputs_embeds"
        named = {
            entering_name: entering.unsqueeze(0),
            "position_ids": layout.positions.unsqueeze(0),
            "use_cache": False,
        }
        if not self.shard.is_last:
            return self._base(**named)[0][0]
        # The whole model, since what it does to logits is its own business: bounds and multipliers.
        return self._model(**named, logits_to_keep=layout.sampled_tokens).logits[0]


def load_stage(
    folder: Path,
    shard: Shard,
    settings: WeightSettings,
    cache: CacheShape,
    on_layer: Callable[[int], None] = lambda _: None,
    recorder: Recorder | None = None,
    *,
    is_invariant: bool = False,
) -> Stage:
    """Return a stage of the model in a folder, ready to run.

    Args:
        folder: of the model.
        shard: which layers.
        settings: how weights are kept, and where.
        cache: how much KV cache there is.
        on_layer: told how many layers are loaded.
        recorder: of decode steps, or None to launch every kernel anew, as is done anyhow where
            tokens choose experts.
        is_invariant: whether no token depends on what is computed beside it; then nothing is
            recorded, and the cache has room for whole tiles.

    Raises:
        InputError: the folder does not hold the model, or not one that can be computed so.
    """
    config = read_config(folder)
    checkpoint = open_checkpoint(folder)
    cut_to = shard_model(config, shard, settings.dtype)
    load_weights(cut_to, shard.first_layer, checkpoint, settings, on_layer)
    if is_invariant:
        cache = replace(cache, context_tokens=whole_tiles(cache.context_tokens))
    state = StageState(empty_cache(cut_to.model.config, cache, settings.dtype, settings.device))
    connect(cut_to, state, settings.device)
    if not is_invariant:
        has_experts = family_named(config.model_type).has_experts  # chosen anew in every step
        return Stage(shard, cut_to.model, state, settings, None if has_experts else recorder)
    tiles = make_invariant(cut_to, cache.context_tokens)
    state.tile_tokens = PROMPT_ROWS
    return Stage(shard, cut_to.model, state, settings, tiles=tiles)
