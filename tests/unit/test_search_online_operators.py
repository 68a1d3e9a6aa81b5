from itertools import pairwise

from llmpq_sim.search.online.operators import (
    SEQUENCE_LIMITS,
    TOKEN_BUDGETS,
    first_limits,
    neighbours,
)
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from tests.online import is_on_grid


def settings(budget: int = 2048, limit: int = 256, longest: int = 1000) -> ContinuousSettings:
    return ContinuousSettings(budget, limit, longest)


def test_budgets_and_limits_double_and_the_usual_defaults_are_among_them() -> None:
    for values in (TOKEN_BUDGETS, SEQUENCE_LIMITS):
        assert all(second == 2 * first for first, second in pairwise(values))
    assert is_on_grid(settings())
    assert not is_on_grid(settings(2000))


def test_a_neighbour_is_one_step_away_on_the_grid() -> None:
    found = neighbours(settings())
    pairs = {(each.token_budget, each.sequence_limit) for each in found if each.chunked_prefill}
    assert pairs == {(1024, 256), (4096, 256), (2048, 128), (2048, 512)}
    assert all(is_on_grid(each) for each in found)


def test_prompts_may_be_left_whole_where_the_budget_holds_the_longest_context() -> None:
    whole = [each for each in neighbours(settings()) if not each.chunked_prefill]
    assert [each.token_budget for each in whole] == [2048]
    assert all(each.chunked_prefill for each in neighbours(settings(longest=3000)))
    assert {each.token_budget for each in neighbours(whole[0])} == {1024, 2048, 4096}


def test_every_setting_of_the_grid_can_be_reached_from_the_defaults() -> None:
    reached, edge = {settings()}, [settings()]
    while edge:
        edge = [each for one in edge for each in neighbours(one) if each not in reached]
        reached.update(edge)
    chunked = {(b, s) for b in TOKEN_BUDGETS for s in SEQUENCE_LIMITS if s <= b}
    assert {(e.token_budget, e.sequence_limit) for e in reached if e.chunked_prefill} == chunked


def test_a_search_starts_from_the_defaults_whatever_they_are() -> None:
    own = settings(300, 7)
    first = first_limits(own)
    assert first[0] == own
    assert all(is_on_grid(each) for each in first[1:])
    assert neighbours(own)
