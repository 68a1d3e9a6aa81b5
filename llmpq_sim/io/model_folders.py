"""Checks that a config is of the model that it says, and a folder of one that can be read.

What a file says of itself is believed only where all of it is understood: a draft head or a
classifier may bear a family's ``model_type``.
"""

from collections.abc import Mapping
from pathlib import Path

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, kind_of
from llmpq_sim.io.files import is_file, is_folder


def check_architecture(fields: Fields, classes: tuple[str, ...]) -> None:
    """Check that a config is of its family's model.

    Args:
        fields: the config.
        classes: the family's class, and what else it is called.

    Raises:
        InputError: it names another class.
    """
    named = fields.items("architectures", [])
    mapped = fields.value("auto_map", None) if fields.has("auto_map") else None
    if isinstance(mapped, Mapping):
        own = mapped.get("AutoModelForCausalLM")
        named += [own.rsplit(".", 1)[-1]] if isinstance(own, str) else []
    known = {name.lower() for name in classes}
    for name in named:
        if not isinstance(name, str) or name.lower() not in known:
            raise InputError(
                f"{fields.where}.architectures: expected {classes[0]}, the language model of "
                f"model_type {fields.text('model_type')!r}, got {kind_of(name)}, which is another "
                "model"
            )


def check_folder(folder: Path) -> None:
    """Check that a folder holds a config.json.

    Raises:
        InputError: it holds something else, which is named.
    """
    if not is_file(folder / "config.json"):
        _check_known(folder)


def _check_known(folder: Path) -> None:
    """Raise InputError for a folder without config.json that holds what we know by name."""
    if is_file(folder / "adapter_config.json"):
        raise InputError(
            f"{folder}: expected a model with a config.json, got a LoRA adapter; merge it into its "
            "base model, and give that"
        )
    if is_file(folder / "params.json"):
        raise InputError(
            f"{folder}: expected a model with a config.json, got weights in the layout of "
            "params.json; give the model's Hugging Face folder"
        )
    if is_folder(folder) and any(folder.glob("*.gguf")):
        raise InputError(f"{folder}: {NO_GGUF}")


NO_GGUF = (
    "expected a folder with a config.json, got a GGUF file; give the folder of the model that it "
    "was made from, and its weight formats by --formats"
)
