"""Experts of a layer, each of their matrices kept in a format.

Where weights are not quantized, transformers' own module computes them with PyTorch's grouped
products. Quantized experts are products of their own: those that a step's tokens chose, one after
another, each by the kernel of its format.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

from runtimes.torch_pipeline.weights.linear import StoredLinear

UP, DOWN = "gate_up_proj", "down_proj"
"""Parameters of an experts module: of all experts, (experts, rows, columns)."""

PARTS = {UP: ("gate_proj", "up_proj"), DOWN: ("down_proj",)}
"""What checkpoints call the matrices of one expert, by parameter."""


class StoredExperts(nn.Module):
    """Quantized experts: gate and up projection as one matrix, and the down projection, of each.

    Attributes:
        gate_up_proj, down_proj: a product an expert.
        activation: between them.
    """

    def __init__(
        self,
        up: Sequence[StoredLinear],
        down: Sequence[StoredLinear],
        activation: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = nn.ModuleList(up), nn.ModuleList(down)
        self.activation = activation

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of what the chosen experts make of each token.

        Args:
            hidden: (tokens, hidden size).
            chosen: experts of each token, (tokens, choices).
            weights: of each choice, of the same shape.
        """
        choices = chosen.shape[1]
        flat = chosen.reshape(-1)
        order = flat.argsort(stable=True)  # of all choices, those of an expert side by side
        counts = flat.bincount(minlength=len(self.gate_up_proj)).tolist()
        made = hidden.new_empty(len(flat), hidden.shape[1])
        for expert, places in enumerate(order.split(counts)):
            if len(places):
                entering = hidden[places // choices]
                inner = self.activation(self.gate_up_proj[expert](entering))
                made[places] = self.down_proj[expert](inner)
        weighted = made * weights.reshape(-1, 1)
        return weighted.view(-1, choices, hidden.shape[1]).sum(1).to(hidden.dtype)


def experts_of(layer: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the modules of a layer that hold the matrices of many experts, with their names."""
    for name, module in layer.named_modules():
        if isinstance(getattr(module, UP, None), nn.Parameter):
            yield name, module


def expert_modules(
    modules: Iterable[tuple[str, nn.Module]],
) -> Iterator[tuple[str, nn.Module, int]]:
    """Yield the modules that compute experts, quantized or not, with names and how many experts."""
    for name, module in modules:
        if isinstance(module, StoredExperts):
            yield name, module, len(module.down_proj)
        elif isinstance(getattr(module, UP, None), nn.Parameter):
            yield name, module, len(getattr(module, UP))


def is_transposed(experts: Any) -> bool:
    """Return whether parameters are (experts, in_features, out_features)."""
    return isinstance(experts, GptOssExperts)


def matrix_shape(experts: Any, parameter: str) -> tuple[int, int]:
    """Return the shape of one expert's matrix, (out_features, in_features)."""
    _, rows, columns = getattr(experts, parameter).shape
    return (columns, rows) if is_transposed(experts) else (rows, columns)


def activation_of(experts: Any) -> Callable[[Tensor], Tensor]:
    """Return what stands between the two products of an expert.

    gpt-oss bounds both halves, which lie in turn, and its gate is a scaled sigmoid: GptOssExperts
    of transformers. Elsewhere the gate's half comes first.
    """
    if not isinstance(experts, GptOssExperts):
        function = experts.act_fn

        def gated(both: Tensor) -> Tensor:
            gate, up = both.chunk(2, dim=-1)
            product: Tensor = function(gate) * up
            return product

        return gated
    alpha, limit = experts.alpha, experts.limit

    def bounded(both: Tensor) -> Tensor:
        gate = both[..., ::2].clamp(max=limit)
        up = both[..., 1::2].clamp(min=-limit, max=limit)
        return (up + 1) * gate * torch.sigmoid(gate * alpha)

    return bounded
