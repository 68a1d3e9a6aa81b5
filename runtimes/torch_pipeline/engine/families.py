"""The model families that stages compute rightly, each by a law that its tokens are kept to.

A stage calls a part of an architecture's model by itself. Whatever an architecture does between its
parts (multipliers of inputs, scaled logits) would be left out or done once a stage, so a family is
listed here only with a model in tests/runtimes/models.py whose tokens are those of ``generate()``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llmpq_sim.core.errors import InputError


@dataclass(frozen=True)
class Family:
    """What the runtime knows of an architecture.

    Attributes:
        model_class: of transformers, for causal language models.
        function: what its layers call the function between the products of the feed-forward part.
    """

    model_class: str
    function: str


FAMILIES: Mapping[str, Family] = {
    "opt": Family("OPTForCausalLM", "activation_fn"),
    "bloom": Family("BloomForCausalLM", "gelu_impl"),
    "llama": Family("LlamaForCausalLM", "act_fn"),
    "mistral": Family("MistralForCausalLM", "act_fn"),
    "qwen2": Family("Qwen2ForCausalLM", "act_fn"),
    "qwen3": Family("Qwen3ForCausalLM", "act_fn"),
    "gemma": Family("GemmaForCausalLM", "act_fn"),
}
"""By the ``model_type`` of config.json."""


def family_named(model_type: str) -> Family:
    """Return the family of this model type.

    Raises:
        InputError: no law says that stages compute it rightly.
    """
    if model_type not in FAMILIES:
        raise InputError(
            f"model {model_type}: the torch runtime computes {', '.join(FAMILIES)}; of another "
            "family nothing says that its stages give the tokens of the whole model"
        )
    return FAMILIES[model_type]
