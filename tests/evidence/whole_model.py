"""Loss of a whole small model in memory, with given formats of its layers.

The independent reference of what the product measures by streaming: transformers' own forward pass,
with the numbers that stored codes mean in the place of a layer's weights.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from llmpq_sim.core.formats import FORMATS
from runtimes.torch_pipeline.weights.formats.stored_format import RTN, Tensors
from runtimes.torch_pipeline.weights.quantizers import dequantize, quantize

QUANTIZED = ("int8", "int4", "int3")
UNQUANTIZED = "bf16"
"""What stands for 16 bits; these models compute in float32 and it changes nothing at all."""

CHOICES = (UNQUANTIZED, *QUANTIZED)
Assignment = tuple[str, ...]
"""A format for each layer."""

Table = dict[str, tuple[float, ...]]
"""By quantized format, one number for each layer."""


@dataclass(frozen=True)
class Matrix:
    """A linear operator of a layer: its module, its weights, and what each format makes of them."""

    module: nn.Linear
    weight: Tensor
    stored: dict[str, Tensors]
    decoded: dict[str, Tensor]


@dataclass(frozen=True)
class WholeModel:
    """A model whose layers can take any format.

    Attributes:
        model: transformers' own.
        layers: the matrices of each layer, by name.
        quantizing_s: processor seconds that quantizing and decoding everything took.
    """

    model: Any
    layers: tuple[dict[str, Matrix], ...]
    quantizing_s: float

    def layer_bytes(self) -> dict[str, int]:
        """Return the stored bytes of a layer in each format; all layers are equally large."""
        shapes = [matrix.weight.shape for matrix in self.layers[0].values()]
        return {
            name: sum(FORMATS[name].matrix_bytes(*shape) for shape in shapes) for name in CHOICES
        }

    def uniform(self, format_name: str) -> Assignment:
        """Return the assignment of one format to all layers."""
        return (format_name,) * len(self.layers)

    def only(self, layer: int, format_name: str) -> Assignment:
        """Return the assignment that quantizes one layer alone."""
        before, after = (UNQUANTIZED,) * layer, (UNQUANTIZED,) * (len(self.layers) - layer - 1)
        return (*before, format_name, *after)

    def log_probabilities(self, assignment: Assignment, windows: Tensor) -> Tensor:
        """Return the log-probabilities of every token, of shape (windows, tokens, vocabulary)."""
        for matrices, name in zip(self.layers, assignment, strict=True):
            for matrix in matrices.values():
                matrix.module.weight.data = matrix.decoded.get(name, matrix.weight)
        with torch.inference_mode():
            logits = self.model(input_ids=windows, use_cache=False).logits
            return torch.log_softmax(logits.double(), dim=-1)


@dataclass(frozen=True)
class Text:
    """Windows of a text, and what the 16-bit model makes of them.

    Attributes:
        windows: of shape (windows, tokens).
        reference: log-probabilities, of shape (windows, tokens, vocabulary).
    """

    windows: Tensor
    reference: Tensor

    def divergence(self, whole: WholeModel, assignment: Assignment) -> float:
        """Return the mean KL divergence of the 16-bit model from an assignment, nats per token."""
        changed = whole.log_probabilities(assignment, self.windows)
        return float((self.reference.exp() * (self.reference - changed)).sum(dim=-1).mean())

    def cross_entropy(self, log_probabilities: Tensor) -> float:
        """Return the mean negative log-probability of the next token, nats."""
        following = self.windows[:, 1:, None]
        return -float(log_probabilities[:, :-1].gather(-1, following).mean())


def load_whole_model(folder: Path, quantizers: Mapping[str, str] | None = None) -> WholeModel:
    """Return a model folder's model with all its layers quantized in every format.

    Args:
        folder: of the model.
        quantizers: by format; one that is missing is rounded to nearest.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    start = time.process_time()
    layers = tuple(
        {
            name: _matrix(module, quantizers or {})
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear)
        }
        for layer in model.model.layers
    )
    return WholeModel(model, layers, time.process_time() - start)


def amplified(whole: WholeModel, amplification: float) -> WholeModel:
    """Return a model whose weight errors are so many times those of its formats."""
    layers = tuple(
        {
            name: replace(
                matrix,
                decoded={
                    each: torch.lerp(matrix.weight, decoded, amplification)
                    for each, decoded in matrix.decoded.items()
                },
            )
            for name, matrix in matrices.items()
        }
        for matrices in whole.layers
    )
    return replace(whole, layers=layers)


def text_of(whole: WholeModel, windows: Tensor) -> Text:
    """Return windows with what the 16-bit model makes of them."""
    return Text(windows, whole.log_probabilities(whole.uniform(UNQUANTIZED), windows))


def loss_table(whole: WholeModel, text: Text) -> Table:
    """Return the divergence of each layer alone in each format, nats per token, by format."""
    layers = range(len(whole.layers))
    return {
        name: tuple(text.divergence(whole, whole.only(layer, name)) for layer in layers)
        for name in QUANTIZED
    }


def predicted(table: Table, assignment: Assignment) -> float:
    """Return the sum over layers of a table's losses."""
    return sum(table[name][layer] for layer, name in enumerate(assignment) if name != UNQUANTIZED)


def _matrix(module: nn.Linear, quantizers: Mapping[str, str]) -> Matrix:
    weight = module.weight.data
    stored = {
        name: quantize(weight, name, torch.float32, quantizers.get(name, RTN)) for name in QUANTIZED
    }
    shape = (weight.shape[0], weight.shape[1])
    decoded = {name: dequantize(stored[name], name, *shape) for name in QUANTIZED}
    return Matrix(module, weight, stored, decoded)
