"""Indicators of each layer in each format, from one pass of a text."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.layers import Experts
from llmpq_sim.io.quality import shape_sha256
from llmpq_sim.quality.measured import MEASURES, MeasuredLoss, MeasuredQuality
from runtimes.quality.indicators import Method, layer_indicators, read_matrices
from runtimes.quality.input_statistics import observed
from runtimes.quality.layer_stages import run_windows
from runtimes.quality.measured_model import MeasuredModel
from runtimes.quality.progress import MeasurementProgress, StreamProgress, Work
from runtimes.quality.settings import QualitySettings
from runtimes.torch_pipeline.weights.loading import release_freed_memory


def measure_indicator(
    measured_model: MeasuredModel,
    settings: QualitySettings,
    method: Method,
    on_progress: Callable[[StreamProgress], None] = lambda _: None,
) -> MeasuredQuality:
    """Return an indicator of each layer in each format.

    The text passes the 16-bit model once, a layer at a time.

    Args:
        measured_model: the model and the text.
        settings: formats and the like.
        method: which indicator.
        on_progress: told after each layer.

    Raises:
        LlmpqError: the model has experts, its folder is damaged, or its 16-bit model gives no
            finite numbers.
    """
    if any(isinstance(kind.feed_forward, Experts) for kind in measured_model.spec.kinds):
        raise InputError(
            f"--method {method}: {measured_model.spec.name} has experts, whose inputs differ and "
            "which an indicator does not weigh; measure the loss itself, --method kl"
        )
    windows = torch.tensor(measured_model.windows.tokens)
    at_once = measured_model.source.windows_at_once
    embedding = measured_model.source.embedding()
    batches = [run_windows(embedding, part) for part in windows.split(at_once)]
    del embedding
    progress = MeasurementProgress(Work((), measured_model.spec.layers, 0.0), 0, on_progress)
    rows: list[MeasuredLoss] = []
    for layer in range(measured_model.spec.layers):
        began = settings.clock()
        rows += _layer_rows(measured_model, settings, method, layer, batches)
        progress.loaded(0.0)  # counted with the pass
        progress.passed(layer, settings.clock() - began)
        release_freed_memory()
    return MeasuredQuality(
        method=method,
        measure=MEASURES[method],
        seed=settings.seed,
        model_name=measured_model.spec.name,
        shape_sha256=shape_sha256(measured_model.spec),
        weights_sha256=measured_model.weights_sha256,
        text=measured_model.windows.text,
        quantizers=settings.format_quantizers(),
        reference_nats=None,
        additivity=None,
        rows=tuple(rows),
    )


def _layer_rows(
    measured_model: MeasuredModel,
    settings: QualitySettings,
    method: Method,
    layer: int,
    batches: list[Tensor],
) -> Iterator[MeasuredLoss]:
    """Yield the rows of a layer, and let the batches pass it in place."""
    began = settings.clock()
    stage = measured_model.source.layer(layer, measured_model.plain)
    with observed(stage) as statistics:
        batches[:] = [run_windows(stage, batch) for batch in batches]
    del stage
    matrices = read_matrices(settings.model_dir, layer)
    quantizers = measured_model.source.quantizers
    found = layer_indicators(matrices, settings.formats, quantizers, statistics, method)
    seconds = (settings.clock() - began) / len(found)
    for name, loss in found.items():
        yield MeasuredLoss(layer, name, loss, 0.0, 0.0, seconds)
