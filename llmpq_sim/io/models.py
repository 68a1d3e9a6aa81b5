"""Model shapes of Hugging Face's config.json, and of bundled records.

Foreign names stop here: every family's config becomes one ModelSpec.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llmpq_sim.core.errors import InputError, encodable
from llmpq_sim.core.extensions import ExtensionPoint
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.io.bundled_models import bundled_models, bundled_record, record_named
from llmpq_sim.io.decoder_family import ReadFamily
from llmpq_sim.io.families import BY_CLASS, FAMILIES, MISSING_PARTS, SAME_AS, family_of, is_known
from llmpq_sim.io.family_defaults import class_defaults, stated
from llmpq_sim.io.files import is_folder, read_foreign_json
from llmpq_sim.io.model_folders import NO_GGUF, check_architecture, check_folder
from llmpq_sim.io.model_records import checked_model
from llmpq_sim.io.resources import is_path, unknown_name
from llmpq_sim.io.stored_formats import StoredFormats, stored_formats, usual_formats
from llmpq_sim.io.vision_towers import tower_elements
from llmpq_sim.io.wrappers import WRAPPERS, text_fields

OTHERS = ExtensionPoint("llmpq.model_families", "model family")
"""Families of installed packages, by ``model_type``: those that are planned, not executed."""

EXPECTED = "a bundled model, a folder with a config.json, or a config.json"

__all__ = [
    "ReadModel",
    "bundled_models",
    "load_model",
    "model_from_config",
    "read_config",
    "read_model",
]


@dataclass(frozen=True)
class ReadModel:
    """A model as its files describe it.

    Attributes:
        stored: formats that its weights are published in, None for 16-bit ones.
        notes: what a reader should know of what was counted, and what was not.
    """

    spec: ModelSpec
    stored: StoredFormats | None = None
    notes: tuple[str, ...] = ()


def load_model(name_or_path: str) -> ModelSpec:
    """Return the shapes of a model with 16-bit weights: see ``read_model``.

    Raises:
        InputError: there is none, its weights are quantized, or its config.json says something
            that cannot be.
    """
    return _with_16_bits(read_model(name_or_path), name_or_path)


def model_from_config(content: object, name: str, where: str) -> ModelSpec:
    """Return the shapes that a config.json of 16-bit weights describes: see ``read_config``.

    Raises:
        InputError: the architecture is not supported, the weights are quantized, or a value cannot
            be.
    """
    return _with_16_bits(read_config(content, name, where), where)


def _with_16_bits(model: ReadModel, where: str) -> ModelSpec:
    if model.stored is not None and model.stored.is_binding:
        raise InputError(
            f"{where}: expected a model with 16-bit weights, got a quantized one "
            f"({model.stored.source}: {model.stored.summary}); give the model it was made from"
        )
    return model.spec


def read_model(name_or_path: str, *, without_vision: bool = False) -> ReadModel:
    """Return a bundled model by name or hub id, or the model of a folder or a config.json.

    Args:
        name_or_path: a bundled name in any case, an id of the Hugging Face hub that is bundled, a
            folder, or a file.
        without_vision: whether a vision tower is left out.

    Raises:
        InputError: there is none, or its config.json says something that cannot be.
    """
    if name_or_path in bundled_models():
        return _bundled(name_or_path, without_vision=without_vision)
    path = Path(name_or_path)
    if is_folder(path):
        return _read_folder(path, without_vision=without_vision)
    if path.suffix.lower() == ".gguf" and os.path.lexists(path):
        raise InputError(f"{name_or_path}: {NO_GGUF}")
    if is_path(name_or_path, (".json",)) and os.path.lexists(path):
        return _read_file(path, without_vision=without_vision)
    name = record_named(name_or_path)
    if name is None:
        raise unknown_name("model", EXPECTED, name_or_path, bundled_models())
    return _bundled(name, without_vision=without_vision)


def _bundled(name: str, *, without_vision: bool) -> ReadModel:
    record = bundled_record(name)
    where = f"model {name}"
    model = read_config(record.config, name, where, without_vision=without_vision)
    if not record.published_as:
        return model
    usual = usual_formats(
        model.spec, record.published_as, record.published_linears, f"the bundled {where}"
    )
    return replace(model, stored=usual)


def _read_folder(folder: Path, *, without_vision: bool) -> ReadModel:
    check_folder(folder)
    model = _read_file(folder / "config.json", without_vision=without_vision)
    content = read_foreign_json(folder / "config.json")
    stored = stored_formats(Fields(content, "config.json"), model.spec, folder)
    return replace(model, stored=stored)


def _read_file(path: Path, *, without_vision: bool) -> ReadModel:
    name = path.resolve().parent.name if path.name == "config.json" else path.stem
    return read_config(
        read_foreign_json(path),
        _printable(name) or "model",
        path.name,
        without_vision=without_vision,
    )


def _printable(name: str) -> str:
    """Return a folder's name as it can stand in files: one line of characters that print."""
    return "".join(letter if letter.isprintable() else "?" for letter in encodable(name))


def read_config(
    content: object, name: str, where: str, *, without_vision: bool = False
) -> ReadModel:
    """Return the model that a config.json describes.

    Keys that neither time nor memory depends on are left alone: the file belongs to others.

    Args:
        content: the parsed config.json.
        name: what to call the model.
        where: what messages call the file.
        without_vision: whether a vision tower is left out.

    Raises:
        InputError: the architecture is not supported, or a value cannot be.
    """
    whole = Fields(content, where)
    kind = whole.text("model_type")
    if kind in WRAPPERS:
        wrapper = WRAPPERS[kind]
        check_architecture(whole, (wrapper.model_class, *wrapper.classes))
        text = text_fields(whole)
        spec, notes = _decoder(text, name, _class_defaults(text.text("model_type")))
        spec, more = _with_tower(whole, spec, without_vision=without_vision)
        notes += more
    else:
        spec, notes = _decoder(whole, name, stated(_class_defaults(_family_name(whole))))
    return ReadModel(spec, stored_formats(whole, spec, None), notes)


def _family_name(fields: Fields) -> str:
    """Return the family of a config: its ``model_type``, unless its class is of another."""
    kind = fields.text("model_type")
    for name in fields.items("architectures", []):
        if isinstance(name, str) and (kind, name) in BY_CLASS:
            return BY_CLASS[kind, name]
    return kind


def _class_defaults(kind: str) -> Mapping[str, object]:
    """Return the defaults of a family's class, or of the family that it is read as."""
    return class_defaults(kind) or class_defaults(SAME_AS.get(kind, kind))


def _with_tower(
    whole: Fields, spec: ModelSpec, *, without_vision: bool
) -> tuple[ModelSpec, tuple[str, ...]]:
    """Return the model with its vision tower on the first stage, and what to say of it."""
    if without_vision:
        return spec, (f"{spec.name}: the language model alone, without the vision tower",)
    elements = tower_elements(whole, spec.hidden_size)
    if elements is None:
        return spec, (f"{spec.name}: its config describes no vision tower, so none is counted",)
    note = (
        f"{spec.name}: the vision tower of {elements / 1e9:.2f} B parameters lies on the first "
        "stage; its work on images is not planned (--without-vision leaves it out)"
    )
    return replace(spec, extra_first_bytes=2 * elements), (note,)


def _decoder(
    fields: Fields, name: str, usual: Mapping[str, object]
) -> tuple[ModelSpec, tuple[str, ...]]:
    """Return what the config of a language model describes, and what to say of it."""
    kind = _family_name(fields)
    if not is_known(kind):
        return checked_model(_other(fields, kind)(fields, name), fields.where), ()
    family = family_of(fields, kind)
    check_architecture(fields, (family.model_class, *family.classes))
    spec = family.read(fields, name, usual)
    return checked_model(spec, fields.where), ((f"{name}: {family.note}",) if family.note else ())


def _other(fields: Fields, kind: str) -> ReadFamily:
    """Return what reads a family of an installed package.

    Raises:
        InputError: none does, or the package cannot be loaded.
    """
    if kind in MISSING_PARTS:
        raise InputError(
            f"{fields.where}: model_type {kind!r} is not supported: its layers have "
            f"{MISSING_PARTS[kind]}, which is not understood"
        )
    if kind not in OTHERS.names():
        known = ", ".join((*FAMILIES, *WRAPPERS, *SAME_AS, *OTHERS.names()))
        raise InputError(
            f"{fields.where}: model_type {kind!r} is not supported; supported are {known}"
        )
    read: ReadFamily = OTHERS.load(kind)
    if not callable(read):
        raise OTHERS.unfit(kind, "a function", read)
    return read
