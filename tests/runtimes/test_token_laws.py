"""Law of tokens unquantized in float32: those of transformers' own ``generate()``."""

from pathlib import Path

import numpy as np
import pytest

from runtimes.base import TokenRequest
from runtimes.torch_pipeline.engine import attention
from runtimes.torch_pipeline.engine.cache_shapes import CacheShape
from runtimes.torch_pipeline.engine.sequences import Schedule
from tests.runtimes.models import CONFIGS, LAYERS, VOCABULARY, generated, save_model
from tests.runtimes.single_process import continuous, load_stages, run, static, token_lists

TOKENS = 9
LENGTHS = (5, 11, 3, 8, 5)

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


@pytest.mark.parametrize("cut", [(4,), (1, 3), (2, 1, 1)], ids=str)
def test_tokens_are_those_of_generate(
    case: Case, cut: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected = case
    assert sum(cut) == LAYERS
    if len(cut) == 2:  # masks of late chunks come in blocks of one or two queries
        monkeypatch.setattr(attention, "MASK_ELEMENTS", 16)
    requests = requests_of(prompts_of(LENGTHS))
    loaded = load_stages(folder, [("bf16",) * count for count in cut], CacheShape(5, 24))
    for schedule in schedules(requests, len(cut)):
        served, _ = run(loaded, schedule, requests, in_flight=len(cut))
        assert token_lists(served) == expected


def schedules(requests: list[TokenRequest], stages: int) -> tuple[Schedule, ...]:
    """Return a static and a continuous policy, others for each number of stages."""
    match stages:
        case 1:
            return static(requests, 5, 2, 3, 2), continuous(requests, 6, 4)
        case 2:
            chunked = static(requests, 5, 3, 2, 3, chunk_tokens=4)
            return chunked, continuous(requests, 24, 5, chunked=False)
    return (continuous(requests, 8, 3, chunk_tokens=2, admission="no-evict"),)
