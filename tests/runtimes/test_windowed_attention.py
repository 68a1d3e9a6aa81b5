"""Attention over caches no longer than a window: the numbers of attention over everything."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen3NextConfig

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.models import model_from_config
from runtimes.torch_pipeline.engine.attention import StageState, attend
from runtimes.torch_pipeline.engine.cache_shapes import CacheShape, empty_cache
from runtimes.torch_pipeline.engine.kv_cache import KvCache, StepLayout
from runtimes.torch_pipeline.engine.scores import Scoring
from runtimes.torch_pipeline.engine.step import Segment, Step
from tests.runtimes.models import CONFIGS

CPU = torch.device("cpu")
HEADS, KV_HEADS, WIDTH, ROWS = 4, 2, 8, 2

Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    """Return a window, the tokens of a sequence, and lengths of the pieces in which it comes."""
    window, tokens = draw(st.integers(1, 12)), draw(st.integers(1, 30))
    lengths: list[int] = []
    while sum(lengths) < tokens:
        lengths.append(draw(st.integers(1, tokens - sum(lengths))))
    return window, tokens, lengths


@given(
    case=cuts(),
    softcap=st.sampled_from([None, 3.0]),
    has_sinks=st.booleans(),
    tile=st.sampled_from([None, 8]),
)
def test_a_ring_gives_what_a_mask_over_all_tokens_gives(
    case: tuple[int, int, list[int]], softcap: float | None, has_sinks: bool, tile: int | None
) -> None:
    window, tokens, lengths = case
    generator = torch.Generator().manual_seed(tokens)
    query = torch.randn(HEADS, ROWS * tokens, WIDTH, generator=generator)
    key, value = torch.randn(2, KV_HEADS, ROWS * tokens, WIDTH, generator=generator)
    sinks = torch.linspace(-1, 1, HEADS) if has_sinks else None
    scoring = Scoring(0.4, softcap, sinks)
    got = in_pieces((query, key, value), scoring, window, lengths, tile)
    for row in range(ROWS):
        own = slice(row * tokens, (row + 1) * tokens)
        expected = over_everything(query[:, own], key[:, own], value[:, own], scoring, window)
        torch.testing.assert_close(got[own], expected, atol=1e-5, rtol=1e-4)


def in_pieces(
    projected: Parts, scoring: Scoring, window: int, lengths: list[int], tile: int | None
) -> torch.Tensor:
    """Return attention in steps: pieces of one token decode, others are chunks of prompts."""
    tokens = sum(lengths)
    context = -(-tokens // (tile or 1)) * (tile or 1)
    layer = torch.full((2, ROWS, KV_HEADS, min(window, context), WIDTH), 7.0)  # of others before
    state = StageState(KvCache([layer], context), tile_tokens=tile)
    out = torch.empty(ROWS * tokens, HEADS, WIDTH)
    start = 0
    for length in lengths:
        segments = tuple(Segment(row, row, start, length, False) for row in range(ROWS))
        step = Step(0, decodes=segments) if length == 1 else Step(0, chunks=segments)
        state.layout = StepLayout(step, CPU)
        places = [row * tokens + start + i for row in range(ROWS) for i in range(length)]
        pieces = tuple(part[:, places] for part in projected)
        out[places] = attend(state, 0, pieces, scoring, window)
        start += length
    return out


def over_everything(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scoring: Scoring, window: int
) -> torch.Tensor:
    """Return attention of one sequence by the formulas, every score at once."""
    tokens, groups = query.shape[1], HEADS // KV_HEADS
    key, value = key.repeat_interleave(groups, 0), value.repeat_interleave(groups, 0)
    scores = query @ key.transpose(1, 2) * (scoring.scaling or 1.0)
    if scoring.softcap is not None:
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
    places = torch.arange(tokens)
    distance = places[:, None] - places
    scores = scores.masked_fill((distance < 0) | (distance >= window), float("-inf"))
    weights = scores.exp()
    total = weights.sum(-1, keepdim=True)
    if scoring.sinks is not None:
        total = total + scoring.sinks.exp()[:, None, None]
    return ((weights / total) @ value).transpose(0, 1)


@pytest.mark.parametrize(
    ("name", "windows"),
    [("gemma2", [7, 7, None, 7]), ("mistral-window", [7] * 4), ("llama", [None] * 4)],
)
def test_a_cache_is_no_longer_than_its_windows(name: str, windows: list[int | None]) -> None:
    config: Any = CONFIGS[name]
    cache = empty_cache(config, CacheShape(3, 24), torch.float32, CPU)
    head_dim = getattr(config, "head_dim", None) or 16
    assert [layer.shape[3] for layer in cache.layers] == [window or 24 for window in windows]
    elements = sum(2 * 3 * 2 * (window or 24) * head_dim for window in windows)
    assert cache.nbytes == 4 * elements
    short = empty_cache(config, CacheShape(3, 5), torch.float32, CPU)
    assert not any(short.of_layer(number).is_ring for number in range(4))


def test_a_cache_that_is_no_window_or_context_is_refused() -> None:
    config = Qwen3NextConfig(num_hidden_layers=4, layer_types=["linear_attention"] * 4)
    with pytest.raises(InputError, match="model qwen3_next: layer 0 keeps a Linear"):
        empty_cache(config, CacheShape(1, 8), torch.float32, CPU)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_stage_keeps_what_is_planned_of_every_family(name: str) -> None:
    config = CONFIGS[name]
    spec = model_from_config(json.loads(config.to_json_string(use_diff=False)), name, "config.json")
    for context_tokens in (5, 24):
        cache = empty_cache(config, CacheShape(3, context_tokens), torch.bfloat16, CPU)
        assert cache.nbytes == spec.cache_bytes(3, context_tokens)
