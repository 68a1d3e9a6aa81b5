"""Law of tokens in 16 bits: ``generate()``'s, but where two logits are within rounding.

Both round, at other places; so an output may leave the other's, but only at a token whose two best
logits lie closer together than what rounding does to them. From there on it is another output.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from runtimes.torch_pipeline.engine.cache_shapes import CacheShape
from runtimes.torch_pipeline.engine.kv_cache import StepLayout
from tests.runtimes.models import generated, save_model
from tests.runtimes.single_process import continuous, load_stages, run, static, token_lists
from tests.runtimes.test_token_laws import prompts_of, requests_of

NAMES = ("llama", "qwen2", "mistral-window", "gemma", "opt", "bloom")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

ROUNDINGS = 8
"""How many roundings of the largest logit the best two may be apart: what four layers and a head
add up to. The largest seen here is below half of it."""

TOKENS = 16
PROMPTS = prompts_of((5, 11, 3, 8, 5, 2, 9, 4))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("half")
    return {name: save_model(name, root / name) for name in NAMES}


def pipeline_tokens(folder: Path, dtype: torch.dtype) -> list[list[list[int]]]:
    """Return the outputs of two uneven stages, with static and with continuous batching."""
    requests = requests_of(PROMPTS, TOKENS)
    stages = load_stages(folder, [("bf16",), ("bf16",) * 3], CacheShape(8, 32), dtype=dtype)
    schedules = (static(requests, 8, 3, 4, 2), continuous(requests, 7, 6))
    return [token_lists(run(stages, schedule, requests)[0]) for schedule in schedules]


def roundings_apart(
    folder: Path, dtype: torch.dtype, outputs: list[list[int]], expected: list[list[int]]
) -> list[float]:
    """Return, for each output that differs, how far apart the best logits are where it begins to.

    In roundings of the larger; the logits are those of 32 bits after what both have in common.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    apart = []
    for prompt, got, wanted in zip(PROMPTS, outputs, expected, strict=True):
        if got == wanted:
            continue
        common = next(
            i for i, pair in enumerate(zip(got, wanted, strict=True)) if pair[0] != pair[1]
        )
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + wanted[:common]])).logits[0, -1]
        best = logits.max()
        chosen = logits[[got[common], wanted[common]]].min()
        apart.append(float((best - chosen) / (best.abs() * torch.finfo(dtype).eps)))
    return apart


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_outputs_part_only_where_the_best_logits_are_within_rounding(
    folders: dict[str, Path], name: str, dtype: str
) -> None:
    expected = generated(folders[name], PROMPTS, TOKENS, dtype=DTYPES[dtype])
    for outputs in pipeline_tokens(folders[name], DTYPES[dtype]):
        apart = roundings_apart(folders[name], DTYPES[dtype], outputs, expected)
        assert max(apart, default=0.0) <= ROUNDINGS


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["llama", "opt"])
def test_the_law_notices_positions_that_are_off(
    folders: dict[str, Path], name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right: Any = vars(StepLayout)["positions"].func

    def wrong(self: StepLayout) -> torch.Tensor:
        positions: torch.Tensor = right(self).clone()
        positions[: self.decodes] += 1
        return positions

    replaced = cached_property(wrong)
    replaced.__set_name__(StepLayout, "positions")
    monkeypatch.setattr(StepLayout, "positions", replaced)
    expected = generated(folders[name], PROMPTS, TOKENS, dtype=DTYPES[dtype])
    for outputs in pipeline_tokens(folders[name], DTYPES[dtype]):
        assert max(roundings_apart(folders[name], DTYPES[dtype], outputs, expected)) > ROUNDINGS
