import re

import pytest

from llmpq_sim.simulator.static.step_graph import Wave

ONE_S = ((1.0, 1.0, 1.0),)


def test_a_wave_counts_its_visits() -> None:
    assert Wave(ONE_S, ONE_S, ((1,), (2,), ()), starts=1).visits == 3


@pytest.mark.parametrize(("stages", "hops"), [(0, 0), (2, 1), (1, 2)])
def test_a_wave_has_as_many_hops_as_stages(stages: int, hops: int) -> None:
    expected = f"^expected stages and as many hops, got {stages} and {hops}$"
    with pytest.raises(ValueError, match=expected):
        Wave(ONE_S * stages, ONE_S * hops, ((1,), (2,), ()), starts=1)


def test_a_wave_has_a_duration_for_every_visit() -> None:
    with pytest.raises(ValueError, match=r"^expected rows of 3 visits, got rows of \[2, 3\]$"):
        Wave(ONE_S, ((1.0, 1.0),), ((1,), (2,), ()), starts=1)


@pytest.mark.parametrize("starts", [-1, 0, 4])
def test_a_wave_starts_with_some_of_its_visits(starts: int) -> None:
    with pytest.raises(ValueError, match=f"^starts: expected 1 to 3, got {starts}$"):
        Wave(ONE_S, ONE_S, ((1,), (2,), ()), starts=starts)


@pytest.mark.parametrize(
    ("successors", "found"),
    [
        (((1,), (), ()), "[1]"),  # visit 2 would never enter
        (((1,), (), (2,)), "[1]"),  # nor here, where it waits for itself
        (((1, 2), (2,), ()), "[1, 2, 2]"),  # it would enter twice
        (((1,), (2, 3), ()), "[1, 2, 3]"),  # there is no visit 3
    ],
)
def test_every_visit_enters_once(successors: tuple[tuple[int, ...], ...], found: str) -> None:
    expected = (
        "successors: expected each of visits 1 to 2 once, under an earlier visit, "
        f"got {found} there"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        Wave(ONE_S, ONE_S, successors, starts=1)
