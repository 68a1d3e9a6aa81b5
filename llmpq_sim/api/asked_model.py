"""Models as they are asked for: by name, in a folder, or read; and what their weights decide."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmpq_sim.api.quality_target import QualityOptions, load_target
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.io.models import ReadModel, read_model
from llmpq_sim.io.stored_formats import StoredFormats
from llmpq_sim.io.tasks import QualityTarget

Model = str | Path | ModelSpec | ReadModel
"""A bundled name or hub id, a folder with a ``config.json``, or what was read of one."""


@dataclass(frozen=True)
class AskedModel:
    """A model with what is decided by how its weights are stored.

    Attributes:
        formats: that layers may have, as options give them; None for the default ones.
        notes: what the user should know of what was counted.
    """

    spec: ModelSpec
    target: QualityTarget
    formats: str | Sequence[str] | None
    notes: tuple[str, ...]


def asked_model(
    model: Model, formats: str | Sequence[str] | None, quality: QualityOptions
) -> AskedModel:
    """Return a model, and the formats and quality target that a plan for it keeps to.

    A checkpoint that is published quantized keeps its formats: they lose nothing by definition,
    every other one is out of reach, and stages and micro-batches are sought as ever.

    Raises:
        InputError: there is no such model, its formats are not known here, or an option asks for
            others.
    """
    read = ReadModel(model) if isinstance(model, ModelSpec) else model
    if not isinstance(read, ReadModel):
        read = read_model(str(read))
    if read.stored is None or (_is_free(formats, quality) and not read.stored.is_binding):
        notes = (*read.notes, *_requantized(read))
        return AskedModel(read.spec, load_target(quality, read.spec), formats, notes)
    _check_free(read.stored, formats, quality)
    note = (
        f"{read.spec.name}: formats as published ({read.stored.summary}; {read.stored.source}), "
        "which count as losing nothing"
    )
    target = QualityTarget(None, 0.0, stored=read.stored.of_layers)
    kept = tuple(dict.fromkeys(read.stored.of_layers))
    return AskedModel(read.stored.applied(read.spec), target, kept, (*read.notes, note))


def _is_free(formats: str | Sequence[str] | None, quality: QualityOptions) -> bool:
    """Return whether options say anything of formats or of what they may lose."""
    return formats is not None or quality != QualityOptions()


def _requantized(read: ReadModel) -> tuple[str, ...]:
    """Return what to say of a model that is planned in other formats than it is published in."""
    if read.stored is None:
        return ()
    return (
        f"{read.spec.name}: published as {read.stored.summary} alone; planned as if made of 16-bit "
        "weights, since formats or quality are asked for",
    )


def _check_free(
    stored: StoredFormats, formats: str | Sequence[str] | None, quality: QualityOptions
) -> None:
    """Check that formats are known here, and that options leave them as they are stored.

    Raises:
        InputError: they do not.
    """
    unknown = [*stored.unknown, *(name for name in stored.of_layers if name not in FORMATS)]
    if unknown:
        raise InputError(
            f"{stored.source}: expected a format of {', '.join(FORMATS)}, got {unknown[0]}; give "
            "the model that it was made from, or a checkpoint in one of these"
        )
    listed = formats.split(",") if isinstance(formats, str) else list(formats or ())
    missing = set(stored.of_layers) - {name.strip() for name in listed}
    if listed and missing:
        raise InputError(
            f"--formats: expected {', '.join(dict.fromkeys(stored.of_layers))}, as the checkpoint "
            f"is stored, got {', '.join(listed)}; leave it out"
        )
    given = list(quality.limits) + (["--quality"] if quality.measured else [])
    if given:
        raise InputError(
            f"{given[0]}: the checkpoint's formats are decided ({stored.summary}), and lose "
            "nothing by definition; leave it out"
        )
