"""Sizes as people read them."""

from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.units import GIB, gib, gib_apart

sizes = st.integers(0, 2**50)


@given(st.lists(sizes, min_size=1, max_size=4))
def test_sizes_print_the_same_only_where_they_are(sizes_bytes: list[int]) -> None:
    texts = gib_apart(*sizes_bytes)
    assert len(set(texts)) == len(set(sizes_bytes))
    assert [float(text) for text in texts] == sorted(map(float, texts)) or sizes_bytes != sorted(
        sizes_bytes
    )


@given(sizes, st.integers(1, 2**34))
def test_no_decimal_more_than_it_takes(size_bytes: int, more: int) -> None:
    first, second = gib_apart(size_bytes, size_bytes + more)
    decimals = len(first.partition(".")[2])
    assert len(second.partition(".")[2]) == decimals
    fewer = decimals - 1
    coarse = [f"{size / GIB:.{fewer}f}" for size in (size_bytes, size_bytes + more)]
    assert decimals == 1 or coarse[0] == coarse[1]


def test_one_decimal_is_the_rule_and_more_the_exception() -> None:
    assert gib_apart(int(17.2 * GIB), 24 * GIB) == ("17.2", "24.0")
    assert gib_apart(24 * GIB + 2**20, 24 * GIB) == ("24.001", "24.000")
    assert gib_apart(GIB) == (gib(GIB),)
