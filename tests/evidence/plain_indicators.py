"""Two cheap indicators of damage, written as plain loops over a layer's matrices.

variance: LLM-PQ's (arXiv:2403.01136, Theorem 1 and Proposition 1); hessian: the trace of the Gram
matrix of a matrix's inputs times the squared error of its weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from llmpq_sim.core.formats import FORMATS
from runtimes.torch_pipeline.weights.formats.stored_format import Tensors
from tests.evidence.whole_model import QUANTIZED, UNQUANTIZED, Matrix, Table, WholeModel


@dataclass
class Inputs:
    """Sums over everything that a matrix was multiplied with."""

    tokens: int = 0
    numbers: int = 0
    total: float = 0.0
    squares: float = 0.0

    def observe(self, _: object, arguments: tuple[Tensor, ...]) -> None:
        """Add the input of one forward pass."""
        values = arguments[0].double()
        self.tokens += values.numel() // values.shape[-1]
        self.numbers += values.numel()
        self.total += float(values.sum())
        self.squares += float(values.square().sum())

    @property
    def variance(self) -> float:
        """Return the variance of all numbers."""
        return self.squares / self.numbers - (self.total / self.numbers) ** 2


def observed_inputs(whole: WholeModel, windows: Tensor) -> list[dict[str, Inputs]]:
    """Return what each layer's matrices see in one pass of the 16-bit model."""
    seen = [{name: Inputs() for name in matrices} for matrices in whole.layers]
    hooks: list[Any] = []
    for inputs, matrices in zip(seen, whole.layers, strict=True):
        for name, matrix in matrices.items():
            hooks.append(matrix.module.register_forward_pre_hook(inputs[name].observe))
    whole.log_probabilities(whole.uniform(UNQUANTIZED), windows)
    for hook in hooks:
        hook.remove()
    return seen


def indicator_table(whole: WholeModel, inputs: list[dict[str, Inputs]], name: str) -> Table:
    """Return an indicator of every layer in every format."""
    indicate = INDICATORS[name]
    return {
        format_name: tuple(
            sum(indicate(matrix, seen[one], format_name) for one, matrix in matrices.items())
            for seen, matrices in zip(inputs, whole.layers, strict=True)
        )
        for format_name in QUANTIZED
    }


def variance(matrix: Matrix, inputs: Inputs, format_name: str, *, is_stochastic: bool) -> float:
    """Return D_W S_W^2 G(X), summed over the groups of weights that share a scale S_W.

    G(X) is Var[X] / 4 where rounding is deterministic, (E[X]^2 + Var[X]) / 6 where stochastic.
    """
    weights = matrix.weight.shape[1]
    size = FORMATS[format_name].group_size or weights
    damage = sum(
        min(size, weights - group * size) * float(scales.double().square().sum())
        for group, scales in enumerate(group_scales(matrix.stored[format_name]))
    )
    spread = inputs.squares / inputs.numbers / 6 if is_stochastic else inputs.variance / 4
    return damage * spread


def hessian(matrix: Matrix, inputs: Inputs, format_name: str) -> float:
    """Return the trace of the inputs' Gram matrix, per token, times the squared weight error."""
    error = (matrix.weight - matrix.decoded[format_name]).double().square().sum()
    return inputs.squares / inputs.tokens * float(error)


def group_scales(stored: Tensors) -> Tensor:
    """Return the scales of all rows, of shape (groups, rows)."""
    return stored["scales"][None] if "scales" in stored else stored["affine"][..., 0]


INDICATORS: Mapping[str, Callable[[Matrix, Inputs, str], float]] = {
    "variance": partial(variance, is_stochastic=False),
    "variance, stochastic": partial(variance, is_stochastic=True),
    "hessian": hessian,
}
