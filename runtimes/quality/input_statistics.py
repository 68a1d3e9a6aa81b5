"""Statistics of the inputs of a layer's matrix products, over all tokens that pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from runtimes.torch_pipeline.engine.stage import Stage
from runtimes.torch_pipeline.weights.loading import stored_linears

TOKENS_AT_ONCE = 1024
"""Tokens summed at once in float64: 470 MB for 57,344 features, BLOOM's and so the most here."""


class InputStatistics:
    """Sums over all tokens that were added, in float64; the order hardly matters to them.

    Attributes:
        tokens: that were added.
        sums: of each input feature.
        squares: sum of squares of each input feature.
    """

    def __init__(self, features: int) -> None:
        self.tokens = 0
        self.sums = torch.zeros(features, dtype=torch.float64)
        self.squares = torch.zeros(features, dtype=torch.float64)

    def add(self, inputs: Tensor) -> None:
        """Add the inputs of some tokens, of shape (..., features)."""
        for part in inputs.reshape(-1, len(self.sums)).split(TOKENS_AT_ONCE):
            exact = part.double()
            self.tokens += len(exact)
            self.sums += exact.sum(0).cpu()
            self.squares += exact.square().sum(0).cpu()

    @property
    def mean(self) -> float:
        """E[X] over all tokens and features."""
        return float(self.sums.mean()) / self.tokens

    @property
    def mean_square(self) -> float:
        """E[X^2] over all tokens and features."""
        return float(self.squares.mean()) / self.tokens

    @property
    def variance(self) -> float:
        """Var[X] over all tokens and features."""
        return max(0.0, self.mean_square - self.mean**2)  # it may be rounded below zero

    @property
    def gram_trace(self) -> float:
        """Trace of X^T X over the tokens: a token's mean squared length."""
        return float(self.squares.sum()) / self.tokens


@contextmanager
def observed(stage: Stage) -> Iterator[dict[str, InputStatistics]]:
    """Give statistics of the inputs of a one-layer stage, which grow with each run of it.

    Query, key and value projections have one input, and so have gate and up projections: each is
    one product, and is observed once.

    Returns:
        By the names that ``loading.linear_groups`` gives products.
    """
    linears = dict(stored_linears(stage.named_modules()))
    statistics = {name: InputStatistics(linear.in_features) for name, linear in linears.items()}
    hooks = [
        linear.register_forward_pre_hook(partial(_add, statistics[name]))
        for name, linear in linears.items()
    ]
    try:
        yield statistics
    finally:
        for hook in hooks:
            hook.remove()


def _add(statistics: InputStatistics, _: nn.Module, inputs: tuple[Tensor]) -> None:
    statistics.add(inputs[0])
