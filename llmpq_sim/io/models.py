"""Model shapes of Hugging Face's config.json.

Foreign names stop here: every family's config becomes one ModelSpec.
"""

import os
from functools import cache
from pathlib import Path

from llmpq_sim.core.errors import InputError, encodable
from llmpq_sim.core.extensions import ExtensionPoint
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.io.decoder_family import ReadFamily
from llmpq_sim.io.families import FAMILIES
from llmpq_sim.io.files import is_folder, read_foreign_json, read_json
from llmpq_sim.io.model_folders import (
    NO_GGUF,
    check_architecture,
    check_folder,
    check_unquantized,
)
from llmpq_sim.io.model_records import checked_model
from llmpq_sim.io.resources import bundled_dir, bundled_names, is_path, unknown_name

OTHERS = ExtensionPoint("llmpq.model_families", "model family")
"""Families of installed packages, by ``model_type``: those that are planned, not executed."""

EXPECTED = "a bundled model, a folder with a config.json, or a config.json"


def bundled_models() -> tuple[str, ...]:
    """Return the names of the bundled models."""
    return bundled_names("cluster_profiles", "models", ".json")


def load_model(name_or_path: str) -> ModelSpec:
    """Return a bundled model by name, or the model of a folder or a config.json.

    Raises:
        InputError: there is none, or its config.json says something that cannot be.
    """
    if name_or_path in bundled_models():
        return _bundled_model(name_or_path)
    path = Path(name_or_path)
    if is_folder(path):
        check_folder(path)
        path = path / "config.json"
    elif path.suffix.lower() == ".gguf" and os.path.lexists(path):
        raise InputError(f"{name_or_path}: {NO_GGUF}")
    elif not (is_path(name_or_path, (".json",)) and os.path.lexists(path)):
        raise unknown_name("model", EXPECTED, name_or_path, bundled_models())
    name = path.resolve().parent.name if path.name == "config.json" else path.stem
    return model_from_config(read_foreign_json(path), _printable(name) or "model", path.name)


def _printable(name: str) -> str:
    """Return a folder's name as it can stand in files: one line of characters that print."""
    return "".join(letter if letter.isprintable() else "?" for letter in encodable(name))


@cache
def _bundled_model(name: str) -> ModelSpec:
    path = bundled_dir("cluster_profiles") / "models" / f"{name}.json"
    return model_from_config(read_json(path), name, path.name)


def model_from_config(content: object, name: str, where: str) -> ModelSpec:
    """Return the shapes that a config.json describes.

    Keys that neither time nor memory depends on are left alone: the file belongs to others.
    A sliding window is left alone, too, so that the memory of such a model is overestimated.

    Args:
        content: the parsed config.json.
        name: what to call the model.
        where: what messages call the file.

    Raises:
        InputError: the architecture is not supported, or a value cannot be.
    """
    fields = Fields(content, where)
    read = _family(fields)
    check_unquantized(fields)
    return checked_model(read(fields, name), where)


def _family(fields: Fields) -> ReadFamily:
    """Return what reads the config of a family that is known here, or to an installed package.

    Raises:
        InputError: none does, the package cannot be loaded, or the config is of a model that only
            shares the family's name.
    """
    name = fields.text("model_type")
    if name in FAMILIES:
        model_class, reads = FAMILIES[name]
        check_architecture(fields, model_class)
        return reads
    if name not in OTHERS.names():
        known = ", ".join((*FAMILIES, *OTHERS.names()))
        raise InputError(
            f"{fields.where}: model_type {name!r} is not supported; supported are {known}"
        )
    read: ReadFamily = OTHERS.load(name)
    if not callable(read):
        raise OTHERS.unfit(name, "a function", read)
    return read
