"""Settings of a measurement of quality."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

from llmpq_sim.core.errors import InputError
from runtimes.torch_pipeline.weights.formats.base import RTN
from runtimes.torch_pipeline.weights.formats.registry import (
    QUANTIZED_FORMATS,
    USUAL_FORMATS,
    check_stored,
)

DEFAULT_FORMATS = USUAL_FORMATS[::-1]
"""All that lose anything, the fewest bits first."""


@dataclass(frozen=True)
class QualitySettings:
    """What is measured, and how.

    Attributes:
        model_dir: folder of the model.
        text: file of the text, or None for the bundled one.
        formats: quantized ones to measure.
        quantizers: how the weights of a format are chosen; round to nearest where it is missing.
        window_tokens: of each window.
        windows: at most.
        check: mixed assignments that are measured whole, by which additivity is judged.
        dtype: of what is not quantized; None for the model's own.
        device: as PyTorch calls it.
        seed: of all draws.
        work_dir: where hidden states are kept meanwhile.
        resume: whether to go on with an interrupted run.
        clock: seconds.
    """

    model_dir: Path
    text: Path | None
    formats: tuple[str, ...]
    quantizers: Mapping[str, str]
    window_tokens: int
    windows: int
    check: int
    dtype: Literal["bf16", "fp16", "fp32"] | None
    device: str
    seed: int
    work_dir: Path
    resume: bool = False
    clock: Callable[[], float] = perf_counter

    def format_quantizers(self) -> dict[str, str]:
        """Return how the weights of each measured format are chosen."""
        return {name: self.quantizers.get(name, RTN) for name in self.formats}


def chosen_formats(text: str | None) -> tuple[str, ...]:
    """Return the quantized formats that an option lists, in order, or all there are.

    Raises:
        InputError: one is unknown, or does not quantize.
    """
    if text is None:
        return DEFAULT_FORMATS
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    check_stored(names, "--formats")
    for name in names:
        if name not in QUANTIZED_FORMATS:
            raise InputError(
                f"--formats: expected quantized formats ({', '.join(DEFAULT_FORMATS)}), "
                f"got {name!r}, which loses nothing"
            )
    return names
