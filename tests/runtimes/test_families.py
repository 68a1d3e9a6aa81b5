"""Only families whose tokens are kept to a law are computed, and others are refused by name."""

import pytest
import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PersimmonConfig

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.models import load_model
from runtimes.torch_pipeline.engine.architecture import Shard, shard_model
from runtimes.torch_pipeline.engine.families import (
    FAMILIES,
    check_executed,
    executes,
    family_named,
)
from tests.runtimes.models import CONFIGS


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_has_a_model_whose_tokens_are_those_of_generate(model_type: str) -> None:
    """``test_token_laws`` computes every model of ``CONFIGS``."""
    configs = [config for config in CONFIGS.values() if config.model_type == model_type]
    assert configs, f"add a model of {model_type} to tests/runtimes/models.py"
    for config in configs:
        model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        assert model_class.__name__ == FAMILIES[model_type].model_class


@pytest.mark.parametrize("model_type", [n for n, each in FAMILIES.items() if not each.has_experts])
def test_every_family_has_the_function_that_is_told_of_it(model_type: str) -> None:
    config = next(config for config in CONFIGS.values() if config.model_type == model_type)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    names = [name.rpartition(".")[2] for name, _ in model.named_modules()]
    assert names.count(FAMILIES[model_type].function) == config.num_hidden_layers


@pytest.mark.parametrize("model_type", ["deepseek_v3", "nemotron_h", "gpt_neox_japanese"])
def test_a_family_without_a_law_is_refused_by_name(model_type: str) -> None:
    with pytest.raises(InputError, match=f"model {model_type}: the torch runtime computes opt, "):
        family_named(model_type)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (
            "deepseek-v3",
            "it has latent attention, and the torch runtime keeps keys and",
        ),
        ("qwen3-next-80b-a3b", "it has recurrent layers"),
    ],
)
def test_what_is_planned_only_is_refused_by_one_message(name: str, why: str) -> None:
    spec = load_model(name)
    assert not executes(spec)
    with pytest.raises(InputError, match=f"model {name}: is planned only: {why}"):
        check_executed(spec)
    assert executes(load_model("gpt-oss-120b"))


def test_stages_are_cut_only_from_families_with_a_law() -> None:
    """Persimmon is llama-like and has no law: its stages might be silently wrong."""
    config = PersimmonConfig(hidden_size=64, num_hidden_layers=4)
    with pytest.raises(InputError, match="of another family nothing says"):
        shard_model(config, Shard(0, 2, is_first=True, is_last=False), torch.float32)
