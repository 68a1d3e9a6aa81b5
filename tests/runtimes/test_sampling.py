"""Sampling: the distribution that was asked for, dependent on nothing else."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from runtimes.base import Sampling, TokenRequest
from runtimes.torch_pipeline.engine.sampling import sample
from runtimes.torch_pipeline.engine.step import Segment, Step

VOCABULARY = 12
DRAWS = 4000


def logits_of(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


def step_of(places: list[tuple[int, int]]) -> Step:
    """Return a step of decodes: request and tokens generated so far, of prompts of 3 tokens."""
    return Step(0, tuple(Segment(n, row, 2 + t, 1, True) for row, (n, t) in enumerate(places)))


def request(sampling: Sampling) -> TokenRequest:
    return TokenRequest("one", (1, 2, 3), DRAWS + 1, sampling)


def drawn(logits: torch.Tensor, sampling: Sampling, draws: int) -> list[int]:
    """Return the tokens that follow at the first so many places of a request."""
    step = step_of([(0, place) for place in range(draws)])
    return sample(logits.expand(draws, -1), step, [request(sampling)]).tolist()


def warped(logits: torch.Tensor, sampling: Sampling) -> np.ndarray:
    """Return the probabilities that transformers draws from."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    probabilities = warpers(torch.zeros(1, 1, dtype=torch.int64), logits).softmax(-1)
    return np.asarray(probabilities[0].double().numpy())


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=3, top_p=0.5, seed=9)])
def test_without_temperature_the_most_probable_token_is_taken(sampling: Sampling) -> None:
    logits = logits_of(5)
    step = step_of([(0, place) for place in range(5)])
    assert sample(logits, step, [request(sampling)]).tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0, seed=1),
        Sampling(0.5, seed=2),
        Sampling(2.5, seed=3),
        Sampling(1.0, top_k=4, seed=4),
        Sampling(1.0, top_p=0.7, seed=5),
        Sampling(1.5, top_k=6, top_p=0.8, seed=6),
    ],
    ids=str,
)
def test_tokens_follow_the_distribution_of_transformers(sampling: Sampling) -> None:
    logits = logits_of(1, seed=11)
    expected = warped(logits, sampling)
    counts = np.bincount(drawn(logits, sampling, DRAWS), minlength=VOCABULARY)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    kept = expected[possible] / expected[possible].sum()
    assert chisquare(counts[possible], kept * DRAWS).pvalue > 1e-3


def test_one_token_to_choose_from_is_the_most_probable() -> None:
    logits = logits_of(1, seed=5)
    assert set(drawn(logits, Sampling(1.0, top_k=1, seed=3), 50)) == {int(logits.argmax())}
    assert set(drawn(logits, Sampling(1.0, top_p=1e-6, seed=3), 50)) == {int(logits.argmax())}


def test_a_draw_depends_on_seed_and_place_alone() -> None:
    logits = logits_of(1, seed=2)
    alone = drawn(logits, Sampling(1.5, seed=8), 20)
    others = [request(Sampling()), request(Sampling(1.0, seed=1)), request(Sampling(1.5, seed=8))]
    for place, token in enumerate(alone):
        step = step_of([(0, 4), (2, place), (1, place)])
        rows = torch.cat([logits_of(1, seed=place), logits, logits_of(1, seed=99)])
        assert sample(rows, step, others)[1] == token


def test_a_first_token_is_drawn_at_place_zero_however_the_prompt_was_cut() -> None:
    logits, one = logits_of(1, seed=2), request(Sampling(1.5, seed=8))
    whole = Step(0, (), (Segment(0, 0, 0, 3, True),))
    rest = Step(0, (), (Segment(0, 5, 2, 1, True),))
    expected = drawn(logits, one.sampling, 1)
    assert sample(logits, whole, [one]).tolist() == expected
    assert sample(logits, rest, [one]).tolist() == expected


def test_other_seeds_give_other_tokens() -> None:
    logits = torch.zeros(1, VOCABULARY)
    outputs = {tuple(drawn(logits, Sampling(1.0, seed=seed), 12)) for seed in range(30)}
    assert len(outputs) == 30


def test_nothing_to_sample_gives_no_tokens() -> None:
    step = Step(0, (), (Segment(0, 0, 0, 2, False),))
    assert sample(torch.zeros(0, VOCABULARY), step, [request(Sampling(1.0))]).tolist() == []


@pytest.mark.parametrize("temperature", [1e-3, 1e-38, 5e-324])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    logits = logits_of(1, seed=5)
    assert set(drawn(logits, Sampling(temperature, seed=1), 5)) == {int(logits.argmax())}
