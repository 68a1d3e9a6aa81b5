"""Profiling task, once the settings are checked."""

from dataclasses import dataclass

import torch

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import is_text
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.machine import machine_path
from llmpq_sim.io.files import check_writable
from runtimes.profiling.machine_facts import torch_version
from runtimes.profiling.processor import Target, find_target
from runtimes.profiling.profiled_models import ProfiledModel, load_profiled
from runtimes.profiling.rows_files import Origin, check_rows
from runtimes.profiling.settings import ProfileSettings
from runtimes.torch_pipeline.weights.formats.registry import USUAL_FORMATS, check_stored
from runtimes.torch_pipeline.weights.loading import DTYPES


@dataclass(frozen=True)
class Task:
    """A profile to be made.

    Attributes:
        settings: what was asked.
        target: the device.
        models: by name.
        formats: that are timed; exactly one of them is not quantized.
        dtype: of activations and of all that is not quantized.
        name: of the device in rows.
    """

    settings: ProfileSettings
    target: Target
    models: dict[str, ProfiledModel]
    formats: tuple[str, ...]
    dtype: torch.dtype
    name: str

    @property
    def unquantized(self) -> str:
        """The format of what is never quantized, such as the LM head."""
        return next(name for name in self.formats if not FORMATS[name].is_quantized)

    @property
    def origin(self) -> Origin:
        """Where all rows come from."""
        return Origin(torch_version(), self.name, tuple(self.models))


def checked_task(settings: ProfileSettings) -> Task:
    """Return what settings mean on this machine.

    Raises:
        InputError: the device, a model, a format or a name cannot be, or a file cannot be written.
    """
    target = find_target(settings.device, settings.threads)
    if not settings.models:
        raise InputError("--model: expected at least one model, got none")
    loaded = [load_profiled(name) for name in settings.models]
    name = settings.name or target.default_name
    if not is_text(name):
        raise InputError(f"--name: expected a name of printable characters, got {name!r}")
    if settings.dtype is not None and settings.dtype not in DTYPES:
        raise InputError(f"--dtype: expected {', '.join(DTYPES)}, got {settings.dtype!r}")
    formats = checked_formats(settings.formats, loaded[0].spec.dtype)
    unquantized = next(each for each in formats if not FORMATS[each].is_quantized)
    task = Task(
        settings=settings,
        target=target,
        models={model.spec.name: model for model in loaded},
        formats=formats,
        dtype=DTYPES[settings.dtype or unquantized],
        name=name,
    )
    check_rows(settings.out, task.origin, resume=settings.resume)
    check_writable(machine_path(settings.out))
    return task


def checked_formats(asked: tuple[str, ...] | None, own: str) -> tuple[str, ...]:
    """Return the formats that are timed, the unquantized one first.

    Both 16-bit formats are kept in the one type in which everything is computed, so one of them
    stands for both; it is always timed, because embeddings and LM heads are never quantized.

    Args:
        asked: formats, or None for all.
        own: the 16-bit format of the model.

    Raises:
        InputError: one is unknown, or not stored by the runtime, or both 16-bit ones are asked for.
    """
    wanted = USUAL_FORMATS if asked is None else asked
    check_stored(wanted, "--formats")
    unquantized = [name for name in dict.fromkeys(wanted) if not FORMATS[name].is_quantized]
    if len(unquantized) > 1:
        raise InputError(
            f"--formats: expected one 16-bit format, got {' and '.join(unquantized)}; both are "
            "kept in the type in which everything is computed, so profile them one by one"
        )
    quantized = [name for name in dict.fromkeys(wanted) if FORMATS[name].is_quantized]
    return (*(unquantized or [own]), *quantized)
