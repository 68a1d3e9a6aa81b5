"""Checks that a config, and the files beside it, are of a plain model with 16-bit weights.

What a file says of itself is believed only where all of it is understood: a draft head, a
classifier or a mixture of experts may bear a family's ``model_type``, and many quantized
checkpoints say nothing of it in config.json.
"""

from collections.abc import Mapping
from pathlib import Path

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, kind_of
from llmpq_sim.io.files import is_file, is_folder

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Keys by which configs say how many experts a layer has."""

QUANTIZED = ("quantization_config", "quantization", "compression_config")
"""Keys of quantized checkpoints: transformers, MLX, and compressed-tensors of old."""

QUANTIZED_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Files of quantized checkpoints: ModelOpt, GPTQ of old, and AWQ of old."""


def check_architecture(fields: Fields, model_class: str) -> None:
    """Check that a config is of its family's causal language model, and dense.

    Args:
        fields: the config.
        model_class: the family's class for causal language models.

    Raises:
        InputError: it names another class, or has experts.
    """
    named = fields.items("architectures", [])
    classes = fields.value("auto_map", None)
    if isinstance(classes, Mapping):
        own = classes.get("AutoModelForCausalLM")
        named += [own.rsplit(".", 1)[-1]] if isinstance(own, str) else []
    for name in named:
        if not isinstance(name, str) or name.lower() != model_class.lower():
            raise InputError(
                f"{fields.where}.architectures: expected {model_class}, the language model of "
                f"model_type {fields.text('model_type')!r}, got {kind_of(name)}, which is another "
                "model"
            )
    for key in EXPERTS:
        if fields.has(key) and fields.value(key) != 0:
            raise InputError(
                f"{fields.where}.{key}: expected a model without experts, got "
                f"{kind_of(fields.value(key))}; mixtures of experts are not supported"
            )


def check_unquantized(fields: Fields) -> None:
    """Check that a config says nothing of quantized weights.

    Raises:
        InputError: it does.
    """
    for key in QUANTIZED:
        if fields.has(key) and fields.value(key) != {}:
            raise InputError(
                f"{fields.where}.{key}: expected a model with 16-bit weights, got a quantized "
                "one; give the model it was made from"
            )


def check_folder(folder: Path) -> None:
    """Check that a folder holds a config.json, and nothing that says its weights are quantized.

    Raises:
        InputError: it holds something else, which is named.
    """
    for name in QUANTIZED_FILES:
        if is_file(folder / name):
            raise InputError(
                f"{folder / name}: expected a model with 16-bit weights, got a quantized one "
                "beside its config.json; give the model it was made from"
            )
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
