"""Fused norms: only plain RMS norms, with the same numbers."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from runtimes.torch_pipeline.engine.norms import FusedRmsNorm, fuse_norms
from tests.runtimes.models import LAYERS, save_model

NORMS = {
    "llama": 2 * LAYERS + 1,
    "qwen3": 4 * LAYERS + 1,  # also of queries and keys
    "gemma": 0,  # adds one to its weights
    "opt": 0,
    "bloom": 0,
}


@pytest.mark.parametrize("name", NORMS)
def test_a_model_with_fused_norms_gives_the_same_numbers(name: str, tmp_path: Path) -> None:
    folder = save_model(name, tmp_path)
    ids = torch.arange(3, 20)[None]
    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        before = model(ids).logits
        assert fuse_norms(model) == NORMS[name]
        after = model(ids).logits
    assert sum(isinstance(each, FusedRmsNorm) for each in model.modules()) == NORMS[name]
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
