"""Genes of a scheduler's settings: what a search may come to, and from where."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.search.online.settings_genes import (
    MOST_BUDGET_TOKENS,
    bounded,
    crossed,
    grid,
    mutated,
)
from llmpq_sim.search.online.tuning import FACTORS, steps
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from tests.online import is_allowed

SEEDS = st.integers(0, 2**32 - 1)


def settings(budget: int = 2048, limit: int = 256, longest: int = 1000) -> ContinuousSettings:
    return ContinuousSettings(budget, limit, longest)


def test_the_grid_holds_every_power_of_two_that_a_person_would_try() -> None:
    pairs = {(each.token_budget, each.sequence_limit) for each in grid(settings())}
    budgets, limits = [2**p for p in range(3, 14)], [2**p for p in range(2, 11)]
    assert pairs == {(b, s) for b in budgets for s in limits if s <= b}


@given(SEEDS, st.integers(1, 8), st.integers(1, 20_000), st.integers(1, 2000))
def test_mutants_and_children_can_be_served(seed: int, stages: int, tokens: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    family = [bounded(settings(), token_budget=tokens, sequence_limit=rows), settings(64, 8)]
    for _ in range(20):
        family.append(mutated(family[int(rng.integers(len(family)))], stages, rng))
        family.append(crossed(family[-1], family[-2], rng))
    assert all(is_allowed(each, stages) for each in family[:3])
    assert all(is_allowed(each, 9) for each in family)


def test_every_gene_changes_and_small_numbers_change_too() -> None:
    rng = np.random.default_rng(0)
    start = settings(8, 1)
    found = {mutated(start, 4, rng) for _ in range(300)}
    for gene in ("token_budget", "sequence_limit", "admission", "batches_in_flight"):
        assert len({getattr(each, gene) for each in found}) > 1
    found = {mutated(settings(), 4, rng) for _ in range(300)}
    assert {each.chunked_prefill for each in found} == {True, False}
    assert len({each.chunk_tokens for each in found}) > 9
    numbers = {each.token_budget for each in found}
    assert len(numbers - {2**power for power in range(15)}) > 50


def test_numbers_are_redrawn_from_the_whole_scale() -> None:
    rng = np.random.default_rng(1)
    drawn = [mutated(settings(), 4, rng).token_budget for _ in range(2000)]
    assert min(drawn) < 16
    assert max(drawn) > MOST_BUDGET_TOKENS // 2


def test_prompts_are_left_whole_only_where_the_budget_holds_the_longest_context() -> None:
    whole = replace(settings(), chunked_prefill=False)
    assert not bounded(whole, token_budget=1000).chunked_prefill
    assert bounded(whole, token_budget=999).chunked_prefill
    assert bounded(settings(longest=20_000), token_budget=20_000, chunked_prefill=False) == (
        settings(MOST_BUDGET_TOKENS, 256, 20_000)
    )


@pytest.mark.parametrize("factor", FACTORS)
def test_every_step_changes_something(factor: float) -> None:
    start = settings(128, 64)
    near = set(steps(start, factor))
    assert start not in near
    assert all(is_allowed(each, 4) for each in near)
    assert {1, 2} & {each.sequence_limit for each in steps(settings(8, 1), factor)}
