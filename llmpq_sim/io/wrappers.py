"""Models around a language model: where its config stands, and which family it is of."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from llmpq_sim.core.fields import Fields

INHERITED = ("dtype", "torch_dtype")
"""Keys that a language model takes from the model around it, where it says nothing itself."""

TIED = "tie_word_embeddings"
"""Key that the model around a language model decides, where it says something."""


@dataclass(frozen=True)
class Wrapper:
    """A family of models that hold a language model.

    Attributes:
        model_class: of the whole.
        text_type: family of the language model where its config names none.
        classes: other classes that a config may name.
    """

    model_class: str
    text_type: str
    classes: tuple[str, ...] = ()


WRAPPERS: Mapping[str, Wrapper] = MappingProxyType(
    {
        "gemma3": Wrapper(
            "Gemma3ForConditionalGeneration",
            "gemma3_text",
        ),
        "gemma4": Wrapper(
            "Gemma4ForConditionalGeneration",
            "gemma4_text",
        ),
        "glm4v": Wrapper("Glm4vForConditionalGeneration", "glm4v_text"),
        "glm4v_moe": Wrapper("Glm4vMoeForConditionalGeneration", "glm4v_moe_text"),
        "internvl": Wrapper("InternVLForConditionalGeneration", "qwen2"),
        "kimi_k25": Wrapper(
            "KimiK25ForConditionalGeneration",
            "kimi_k2",
            classes=("Kimi_K25ForConditionalGeneration",),
        ),
        "llama4": Wrapper("Llama4ForConditionalGeneration", "llama4_text"),
        "llava": Wrapper("LlavaForConditionalGeneration", "llama"),
        "minimax_m3_vl": Wrapper("MiniMaxM3SparseForConditionalGeneration", "minimax_m3_vl_text"),
        "mistral3": Wrapper("Mistral3ForConditionalGeneration", "mistral"),
        "qwen2_5_vl": Wrapper("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl_text"),
        "qwen2_vl": Wrapper("Qwen2VLForConditionalGeneration", "qwen2_vl_text"),
        "qwen3_5": Wrapper("Qwen3_5ForConditionalGeneration", "qwen3_5_text"),
        "qwen3_5_moe": Wrapper("Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe_text"),
        "qwen3_vl": Wrapper("Qwen3VLForConditionalGeneration", "qwen3_vl_text"),
        "qwen3_vl_moe": Wrapper("Qwen3VLMoeForConditionalGeneration", "qwen3_vl_moe_text"),
    }
)
"""By the ``model_type`` of config.json. Source: each one's configuration file in transformers."""

TEXT_KEYS = ("text_config", "llm_config", "language_config")
"""Keys that hold the config of a language model."""


def text_fields(whole: Fields) -> Fields:
    """Return the config of the language model within a model's, which may be all of it.

    Qwen2-VL's first configs have the language model's keys beside the tower's.
    """
    name = whole.text("model_type")
    wrapper = WRAPPERS[name]
    named = whole.value("architectures", None) if whole.has("architectures") else None
    inherited = {key: whole.value(key) for key in INHERITED if whole.has(key)}
    for key in TEXT_KEYS:
        if whole.has(key):
            text = whole.fields(key)
            content = {**text.content()}
            for each, value in inherited.items():
                if content.get(each) is None:
                    content[each] = value
            if whole.has(TIED):
                content[TIED] = whole.value(TIED)
            if whole.has("architectures") and content.get("architectures") == named:
                content["architectures"] = []  # the whole's, which is checked there
            if content.get("model_type") is None:
                content["model_type"] = wrapper.text_type
            return Fields(content, text.where)
    content = {**whole.content(), "model_type": wrapper.text_type, "architectures": []}
    return Fields(content, whole.where)
