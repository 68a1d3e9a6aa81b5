"""Measured model: which one, on which windows of which text."""

from dataclasses import asdict, dataclass
from math import prod

import torch

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.io.files import sha256_of
from llmpq_sim.io.models import load_model
from llmpq_sim.io.quality import shape_sha256
from runtimes.quality.candidates import Candidate
from runtimes.quality.layer_stages import LayerSource
from runtimes.quality.resource_checks import (
    check_disk,
    check_memory,
    free_memory_bytes,
    needed_memory_bytes,
)
from runtimes.quality.settings import QualitySettings
from runtimes.quality.streaming import Run
from runtimes.quality.streams import PROGRESS, check_leftovers
from runtimes.quality.windows import Windows, calibration_text, read_windows
from runtimes.torch_pipeline.weights.checkpoint import open_checkpoint
from runtimes.torch_pipeline.weights.kernels import device_named
from runtimes.torch_pipeline.weights.loading import DTYPES
from runtimes.torch_pipeline.weights.quantizers import QUANTIZER_VERSION

TOKENS_AT_ONCE = 2048
"""Tokens that pass a layer together, if a window is no longer: enough for dense products."""


@dataclass(frozen=True)
class MeasuredModel:
    """A model and a text, checked and opened.

    Attributes:
        spec: the model's shapes.
        windows: of the text.
        source: the model, layer by layer.
        plain: name of the format of layers that are not quantized.
        weights_sha256: hash of the checkpoint.
    """

    spec: ModelSpec
    windows: Windows
    source: LayerSource
    plain: str
    weights_sha256: str


def open_measured_model(settings: QualitySettings) -> MeasuredModel:
    """Return what is measured.

    Raises:
        LlmpqError: the folder holds no model or no tokenizer, the text is no text or too short, or
            memory is short even for one layer.
    """
    folder = settings.model_dir
    if not folder.is_dir():
        raise InputError(f"MODEL_DIR: expected the folder of a model, there is none at {folder}")
    spec = load_model(str(folder))
    weights_sha256 = open_checkpoint(folder).sha256()
    if settings.window_tokens > spec.max_positions:
        raise InputError(
            f"--window-tokens: {spec.name} has at most {spec.max_positions} positions, "
            f"got {settings.window_tokens}"
        )
    windows = read_windows(
        folder,
        settings.text or calibration_text(),
        settings.window_tokens,
        settings.windows,
        settings.seed,
        spec.vocab_size,
    )
    dtype_name = settings.dtype or spec.dtype
    source = LayerSource(
        folder,
        spec.layers,
        DTYPES[dtype_name],
        checked_device(settings.device),
        settings.quantizers,
        settings.window_tokens,
        max(1, TOKENS_AT_ONCE // settings.window_tokens),
    )
    free_bytes = free_memory_bytes(source.device)
    check_memory(needed_memory_bytes(spec, source), free_bytes, spec.name)
    plain = dtype_name if dtype_name in FORMATS else spec.dtype
    return MeasuredModel(spec, windows, source, plain, weights_sha256)


def checked_device(name: str) -> torch.device:
    """Return a device that PyTorch can use here.

    Raises:
        InputError: there is none of this name.
    """
    device = device_named(name, "--device")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise InputError(f"--device: PyTorch can use {count} GPUs here, got {name!r}")
    return device


def prepared_run(
    measured_model: MeasuredModel, candidates: list[Candidate], settings: QualitySettings
) -> Run:
    """Return how candidates are compared with the 16-bit model.

    The work folder is made.

    Raises:
        LlmpqError: the folder cannot be made, holds a run that would be lost, or the disk is full.
    """
    folder = settings.work_dir
    run = Run(
        measured_model.source,
        torch.tensor(measured_model.windows.tokens),
        candidates,
        measured_model.plain,
        folder,
        _run_sha256(measured_model, candidates),
        measured_model.spec.hidden_size,
        measured_model.spec.head_weights / _mean_layer_weights(measured_model.spec),
        settings.clock,
    )
    check_leftovers(folder, resume=settings.resume)
    if not (folder / PROGRESS).exists():
        check_disk(folder.resolve().parent, run.shape.stored_bytes)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
    return run


def _mean_layer_weights(spec: ModelSpec) -> float:
    """Return the weights of a layer, on average over layers, that a format applies to."""
    weights = [kind.formatted_weights for kind in spec.kinds]
    return sum(map(prod, zip(weights, spec.layers_by_kind, strict=True))) / spec.layers


def _run_sha256(measured_model: MeasuredModel, candidates: list[Candidate]) -> str:
    """Return the hash of all that hidden states depend on."""
    source = measured_model.source
    return sha256_of(
        {
            "model": shape_sha256(measured_model.spec),
            "weights": measured_model.weights_sha256,
            "text": asdict(measured_model.windows.text),
            "windows": [list(window) for window in measured_model.windows.tokens],
            "candidates": [list(candidate.formats) for candidate in candidates],
            "quantizers": dict(source.quantizers),
            "quantizer_version": QUANTIZER_VERSION,
            "dtype": str(source.dtype),
            "device": source.device.type,
            "torch": str(torch.__version__),
        }
    )
