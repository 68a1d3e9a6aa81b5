import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.result import Summary
from llmpq_sim.simulator.continuous.gaps import Gaps

pairs = st.tuples(st.sampled_from([0.0, 0.25, 1.5, 2.0]) | st.floats(1e-6, 1e3), st.integers(1, 5))


def gaps_of(shared: list[tuple[float, int]], exact_tokens: int = 1000) -> Gaps:
    gaps = Gaps(exact_tokens)
    for value_s, count in shared:
        gaps.values_s.append(value_s)
        gaps.counts.append(count)
    return gaps


def test_without_gaps_there_is_nothing_to_sum_up() -> None:
    assert Gaps().summary(0.0) == Summary(0.0, 0.0, 0.0, 0.0, 0.0)


@given(st.lists(pairs, min_size=1, max_size=40))
def test_percentiles_are_those_of_every_gap_by_itself(shared: list[tuple[float, int]]) -> None:
    every_s = [value_s for value_s, count in shared for _ in range(count)]
    found, expected = gaps_of(shared).summary(0.5), Summary.of(every_s)
    assert found.mean == 0.5
    assert found.p50 == pytest.approx(expected.p50, rel=1e-12)
    assert found.p99 == pytest.approx(expected.p99, rel=1e-12)


@given(st.lists(pairs, min_size=1, max_size=40), st.randoms(), st.integers(0, 100))
def test_order_and_grouping_change_nothing(
    shared: list[tuple[float, int]], random: object, exact_tokens: int
) -> None:
    one_by_one = [(value_s, 1) for value_s, count in shared for _ in range(count)]
    one_by_one.sort(key=lambda pair: hash((pair[0], str(random))))
    folded = Gaps(exact_tokens)
    for value_s, count in one_by_one:
        folded.values_s.append(value_s)
        folded.counts.append(count)
        folded.fold()
    assert folded.summary(0.0) == gaps_of(shared, exact_tokens).summary(0.0)
    assert folded.total() == len(one_by_one)


def test_too_many_gaps_are_rounded_by_less_than_a_tenth_of_a_percent() -> None:
    values_s = np.random.default_rng(0).lognormal(size=5000).tolist()
    rounded = gaps_of([(value_s, 1) for value_s in values_s], exact_tokens=100).summary(0.0)
    exact = Summary.of(values_s)
    assert rounded != exact
    for found, expected in ((rounded.p50, exact.p50), (rounded.p99, exact.p99)):
        assert found == pytest.approx(expected, rel=1e-3)
