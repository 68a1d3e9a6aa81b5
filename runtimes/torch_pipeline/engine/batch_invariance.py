"""Batch-invariant computation: a token is the same numbers whatever is computed beside it.

Measured on CPUs (docs/log.md): the rows of a dense product depend on how many there are and not on
where they stand, those of fused products on neither, and functions such as exp are computed
otherwise at the end of a tensor than within it. So dense products take tiles of a fixed number of
rows, functions take each row by itself, rotations come from a table, and each sequence is attended
to alone, its prompts in tiles that begin at fixed positions.
"""

from typing import Any

import torch
from torch import nn

from llmpq_sim.core.errors import InputError
from runtimes.torch_pipeline.engine.architecture import ShardModel
from runtimes.torch_pipeline.engine.families import family_named
from runtimes.torch_pipeline.weights.linear import FixedTiles, StoredLinear

DECODE_ROWS = 8
"""Rows of a tile of decodes, and of tokens that meet the LM head."""

PROMPT_ROWS = 64
"""Rows of a tile of prompts, and queries attended to at once; caches hold whole tiles."""

SERIAL_ELEMENTS = 32768
"""Elements that PyTorch computes on one thread (at::internal::GRAIN_SIZE): more would be cut
between threads within a row."""

BATCH_DEPENDENT_ROTATIONS = ("dynamic", "longrope")
"""Kinds of rotary positions whose frequencies depend on the longest sequence at hand."""


class RowwiseFunction(nn.Module):
    """A function of each element, computed row by row in whatever tensor it comes.

    Attributes:
        function: applied to (rows, features).
    """

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the function of the inputs."""
        features = inputs.shape[-1]
        # With room after each row no two rows are one range of memory to a kernel.
        spaced = inputs.new_empty(inputs.numel() // features, features + 1)[:, :features]
        spaced.copy_(inputs.reshape(-1, features))
        parts = spaced.split(max(1, SERIAL_ELEMENTS // features))
        return torch.cat([self.function(part) for part in parts]).view(inputs.shape)


class TabulatedRotary(nn.Module):
    """Rotary positions (arXiv:2104.09864) looked up in a table made in equal parts.

    Attributes:
        rotary: of the architecture.
        context_tokens: positions of the table, a multiple of ``PROMPT_ROWS``.
    """

    def __init__(self, rotary: nn.Module, context_tokens: int) -> None:
        super().__init__()
        self.rotary = rotary
        self.context_tokens = context_tokens
        self._tables: dict[tuple[str, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def forward(
        self, hidden: torch.Tensor, position_ids: torch.Tensor, *layer_type: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines of positions. Shapes: (1, tokens, head width).

        Some architectures turn each type of layer by other angles.
        """
        if layer_type not in self._tables:
            self._tables[layer_type] = self._made(hidden, layer_type)
        cosines, sines = self._tables[layer_type]
        return cosines[position_ids[0]].unsqueeze(0), sines[position_ids[0]].unsqueeze(0)

    def _made(
        self, hidden: torch.Tensor, layer_type: tuple[str, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        positions = torch.arange(self.context_tokens, device=hidden.device)
        parts = [
            self.rotary(hidden, part.unsqueeze(0), *layer_type)
            for part in positions.split(PROMPT_ROWS)
        ]
        cosines, sines = zip(*parts, strict=True)
        return torch.cat(cosines, dim=1)[0], torch.cat(sines, dim=1)[0]


def whole_tiles(tokens: int) -> int:
    """Return the least number of whole tiles of prompts that hold so many tokens, in tokens."""
    return -(-tokens // PROMPT_ROWS) * PROMPT_ROWS


def make_invariant(shard: ShardModel, context_tokens: int) -> FixedTiles:
    """Let every part of a loaded stage compute each token by itself; return the tiles they share.

    Args:
        shard: the model of the stage, with its weights.
        context_tokens: of the KV cache.

    Raises:
        InputError: the architecture has experts, or positions that depend on the batch.
    """
    family = family_named(shard.model.config.model_type)
    if family.has_experts:
        raise InputError(
            "--batch-invariant: the model has experts, and the rows of a product of an expert are "
            "the tokens that chose it; serve it without"
        )
    rope: Any = getattr(shard.model.config, "rope_parameters", None) or {}
    if rope.get("rope_type") in BATCH_DEPENDENT_ROTATIONS:
        raise InputError(
            f"--batch-invariant: the model's rotary positions ({rope['rope_type']}) depend on the "
            "longest sequence of a batch; serve it without"
        )
    tiles = FixedTiles(DECODE_ROWS)
    for module in list(shard.model.modules()):
        if isinstance(module, StoredLinear):
            module.tiles = tiles
        for name, child in list(module.named_children()):
            if name == family.function:
                setattr(module, name, RowwiseFunction(child))
            elif name == "rotary_emb":
                setattr(module, name, TabulatedRotary(child, context_tokens))
    return tiles
