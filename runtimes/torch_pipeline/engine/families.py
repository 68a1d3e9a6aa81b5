"""The model families that stages compute rightly, each by a law that its tokens are kept to.

What an architecture does before its first layer (multipliers of inputs) must not be done once more
on every stage, so a family is listed here only with a model in tests/runtimes/models.py whose
tokens are those of ``generate()`` for any cut.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.layers import LatentAttention, Recurrent
from llmpq_sim.core.model import ModelSpec


@dataclass(frozen=True)
class Family:
    """What the runtime knows of an architecture.

    Attributes:
        model_class: of transformers, for causal language models.
        function: what its layers call the function between the products of the feed-forward part.
        neutral: values of its configuration with which nothing is done to what enters the layers;
            for stages that get it from another.
        has_experts: whether its layers have mixtures of experts.
        renamed: parts of the names of its tensors that published checkpoints call otherwise.
    """

    model_class: str
    function: str = "act_fn"
    neutral: Mapping[str, float] = field(default_factory=dict)
    has_experts: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)


_MIXTRAL_NAMES = {
    ".mlp.": ".block_sparse_moe.",
    ".gate_proj.": ".w1.",
    ".up_proj.": ".w3.",
    ".down_proj.": ".w2.",
}
"""Source: transformers' ``conversion_mapping``."""

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "opt": Family("OPTForCausalLM", "activation_fn"),
        "bloom": Family("BloomForCausalLM", "gelu_impl"),
        "llama": Family("LlamaForCausalLM"),
        "mistral": Family("MistralForCausalLM"),
        "ministral3": Family("Ministral3ForCausalLM"),
        "qwen2": Family("Qwen2ForCausalLM"),
        "qwen3": Family("Qwen3ForCausalLM"),
        "gemma": Family("GemmaForCausalLM"),
        "gemma2": Family("Gemma2ForCausalLM"),
        "gemma3_text": Family("Gemma3ForCausalLM"),
        "phi3": Family("Phi3ForCausalLM", "activation_fn"),
        "granite": Family("GraniteForCausalLM", neutral={"embedding_multiplier": 1.0}),
        "smollm3": Family("SmolLM3ForCausalLM"),
        "helium": Family("HeliumForCausalLM"),
        "arcee": Family("ArceeForCausalLM"),
        "hunyuan_v1_dense": Family("HunYuanDenseV1ForCausalLM"),
        "seed_oss": Family("SeedOssForCausalLM"),
        "olmo": Family("OlmoForCausalLM"),
        "olmo2": Family("Olmo2ForCausalLM"),
        "olmo3": Family("Olmo3ForCausalLM"),
        "cohere": Family("CohereForCausalLM"),
        "cohere2": Family("Cohere2ForCausalLM"),
        "exaone4": Family("Exaone4ForCausalLM"),
        "glm": Family("GlmForCausalLM", "activation_fn"),
        "glm4": Family("Glm4ForCausalLM", "activation_fn"),
        "apertus": Family("ApertusForCausalLM"),
        "ernie4_5": Family("Ernie4_5ForCausalLM"),
        "nemotron": Family("NemotronForCausalLM"),
        "starcoder2": Family("Starcoder2ForCausalLM", "act"),
        "gpt_neox": Family("GPTNeoXForCausalLM", "act", renamed={"lm_head.": "embed_out."}),
        "phi": Family("PhiForCausalLM", "activation_fn"),
        "gpt2": Family("GPT2LMHeadModel", "act"),
        "gptj": Family("GPTJForCausalLM", "act"),
        "falcon": Family("FalconForCausalLM", "act"),
        "mpt": Family("MptForCausalLM", "act"),
        "mixtral": Family("MixtralForCausalLM", has_experts=True, renamed=_MIXTRAL_NAMES),
        "qwen2_moe": Family("Qwen2MoeForCausalLM", has_experts=True),
        "qwen3_moe": Family("Qwen3MoeForCausalLM", has_experts=True),
        "olmoe": Family("OlmoeForCausalLM", has_experts=True),
        "glm4_moe": Family("Glm4MoeForCausalLM", has_experts=True),
        "ernie4_5_moe": Family(
            "Ernie4_5_MoeForCausalLM",
            has_experts=True,
            renamed={".gate.moe_statics.": ".moe_statics."},
        ),
        "gpt_oss": Family("GptOssForCausalLM", has_experts=True),
    }
)
"""By the ``model_type`` of config.json."""


def executes(spec: ModelSpec) -> bool:
    """Return whether the runtime carries plans of this model out."""
    return planned_only(spec) is None


def planned_only(spec: ModelSpec) -> str | None:
    """Return why a model is planned, and not carried out; None where it is."""
    for mixer, called in ((LatentAttention, "latent attention"), (Recurrent, "recurrent layers")):
        if any(isinstance(kind.mixer, mixer) for kind in spec.kinds):
            return f"it has {called}, and the torch runtime keeps keys and values alone"
    if spec.family not in FAMILIES:
        return f"the torch runtime does not compute the family {spec.family}"
    return None


def check_executed(spec: ModelSpec) -> None:
    """Check that the runtime carries plans of this model out.

    Raises:
        InputError: the model is planned only.
    """
    why = planned_only(spec)
    if why is not None:
        raise InputError(
            f"model {spec.name}: is planned only: {why}; see llmpq list models "
            "for those that are carried out"
        )


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
