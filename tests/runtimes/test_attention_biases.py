"""Slopes of linear position biases, equal to those of transformers."""

import pytest
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from runtimes.torch_pipeline.engine.scores import alibi_slopes


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 12, 16, 25, 32, 71, 112])
def test_slopes_are_those_of_transformers(heads: int) -> None:
    mask = torch.ones(1, 2, dtype=torch.int64)
    biases = build_alibi_tensor(mask, heads, torch.float32)  # slope x position
    torch.testing.assert_close(alibi_slopes(heads), biases.reshape(heads, -1)[:, 1])
