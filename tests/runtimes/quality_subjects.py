"""Model with a tokenizer and a text for tests, and its losses computed plainly."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from runtimes.quality.settings import QualitySettings
from runtimes.torch_pipeline.weights.experts import (
    PARTS,
    experts_of,
    is_transposed,
    matrix_shape,
)
from runtimes.torch_pipeline.weights.formats.base import RTN
from runtimes.torch_pipeline.weights.quantizers import dequantize, quantize
from tests.runtimes.models import CONFIGS, save_config
from tests.runtimes.tokenizers_of_tests import save_tokenizer

VOCABULARY = 300

_NUMBERS = itertools.count()

TEXT = (
    "def hello(world):\n    return world + 1\n\n" * 30
    + "for each in range(7):\n    print(each)\n" * 30
)


def save_subject(folder: Path, name: str = "llama", *, layers: int = 4) -> tuple[Path, Path]:
    """Return the folder of a tiny model with a tokenizer, and the path of a text."""
    config = copy.deepcopy(CONFIGS[name])
    config.vocab_size, config.num_hidden_layers = VOCABULARY, layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1] * layers
    model = save_config(config, folder / "model")
    save_tokenizer(model, VOCABULARY)
    text = folder / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    return model, text


def quality_settings(model: Path, text: Path | None, **changes: Any) -> QualitySettings:
    """Return settings that are quick and exact: few short windows in float32, time standing."""
    chosen: dict[str, Any] = {
        "model_dir": model,
        "text": text,
        "formats": ("int3", "int4", "int8"),
        "quantizers": {},
        "window_tokens": 24,
        "windows": 3,
        "check": 0,
        "dtype": "fp32",
        "device": "cpu",
        "seed": 0,
        "work_dir": model.parent / f"{next(_NUMBERS)}.work",
        "clock": lambda: 0.0,
        **changes,
    }
    return QualitySettings(**chosen)


def plain_logits(
    model_dir: Path,
    layer_formats: Mapping[int, str],
    windows: Sequence[Sequence[int]],
    quantizers: Mapping[str, str] | None = None,
) -> torch.Tensor:
    """Return the logits of transformers' own model with dequantized weights in some layers."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    layers = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
    for number, name in layer_formats.items():
        for linear in (m for m in layers[number].modules() if isinstance(m, nn.Linear | Conv1D)):
            quantizer = (quantizers or {}).get(name, RTN)
            weight = linear.weight.detach()
            matrix = weight.T.contiguous() if isinstance(linear, Conv1D) else weight
            rounded = dequantize(
                quantize(matrix, name, torch.float32, quantizer), name, *matrix.shape
            )
            rounded = rounded.T.contiguous() if isinstance(linear, Conv1D) else rounded
            linear.weight = nn.Parameter(rounded, requires_grad=False)
        for _, experts in experts_of(layers[number]):
            _round_experts(experts, name, (quantizers or {}).get(name, RTN))
    with torch.no_grad():
        return model(torch.tensor(windows)).logits.double()


def _round_experts(experts: Any, name: str, quantizer: str) -> None:
    """Replace the matrices of every expert by what a format makes of them."""
    for parameter in PARTS:
        shape = matrix_shape(experts, parameter)
        for weight in getattr(experts, parameter).data:
            matrix = weight.T if is_transposed(experts) else weight
            stored = quantize(matrix.contiguous(), name, torch.float32, quantizer)
            matrix.copy_(dequantize(stored, name, *shape))


def plain_divergence_nats(reference: torch.Tensor, other: torch.Tensor) -> list[float]:
    """Return the mean token KL of each window."""
    p, q = reference.softmax(-1), other.softmax(-1)
    return (p * (p / q).log()).sum(-1).mean(-1).tolist()


def plain_cross_entropy_nats(logits: torch.Tensor, windows: Sequence[Sequence[int]]) -> list[float]:
    """Return the mean cross-entropy of each window's tokens after the first."""
    return [
        float(nn.functional.cross_entropy(each[:-1], torch.tensor(window[1:])))
        for each, window in zip(logits, windows, strict=True)
    ]
