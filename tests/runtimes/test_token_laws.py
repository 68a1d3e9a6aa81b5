"""Law of tokens unquantized in float32: those of transformers' own ``generate()``."""

from pathlib import Path

import numpy as np
import pytest

from runtimes.base import TokenRequest
from runtimes.torch_pipeline.engine import attention
from runtimes.torch_pipeline.engine.stage import CacheShape
from tests.runtimes.models import CONFIGS, LAYERS, VOCABULARY, generated, save_model
from tests.runtimes.single_process import continuous, load_stages, run, static, token_lists

TOKENS = 9
LENGTHS = (5, 11, 3, 8, 5)

CUTS: dict[int, list[tuple[int, ...]]] = {1: [(4,)], 2: [(1, 3), (3, 1)], 3: [(1, 2, 1), (2, 1, 1)]}

Case = tuple[Path, list[list[int]]]


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Return the folder of a model and what transformers generates with it."""
    folder = save_model(request.param, tmp_path_factory.mktemp(request.param))
    return folder, generated(folder, prompts_of(LENGTHS), TOKENS)


def prompts_of(lengths: tuple[int, ...], seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, VOCABULARY, length).tolist() for length in lengths]


def requests_of(prompts: list[list[int]], tokens: int = TOKENS) -> list[TokenRequest]:
    return [
        TokenRequest(f"request-{number}", tuple(prompt), tokens)
        for number, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("stages", CUTS)
def test_tokens_are_those_of_generate(case: Case, stages: int) -> None:
    folder, expected = case
    requests = requests_of(prompts_of(LENGTHS))
    for number, layers in enumerate(CUTS[stages]):
        assert sum(layers) == LAYERS
        shards = [("bf16",) * count for count in layers]
        loaded = load_stages(folder, shards, CacheShape(5, 24))
        schedules = (
            static(requests, 5, 2, 3, 2),
            continuous(requests, 6, 4),
            static(requests, 5, 3, 2, 3, chunk_tokens=4),
            static(requests, 3, 3, 1, 2),
            continuous(requests, 24, 5, chunked=False),
            continuous(requests, 8, 3, chunk_tokens=2, admission="no-evict"),
        )
        for schedule in schedules if number == 0 else schedules[:3]:
            served, _ = run(loaded, schedule, requests, in_flight=stages)
            assert token_lists(served) == expected


def test_masks_of_late_chunks_come_in_blocks(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, expected = case
    monkeypatch.setattr(attention, "MASK_ELEMENTS", 16)  # one or two queries at a time
    requests = requests_of(prompts_of(LENGTHS))
    loaded = load_stages(folder, [("bf16",) * LAYERS], CacheShape(5, 24))
    served, _ = run(loaded, static(requests, 5, 3, 2, 3, chunk_tokens=4), requests)
    assert token_lists(served) == expected
