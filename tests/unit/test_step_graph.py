import re

import pytest

from llmpq_sim.simulator.static.step_graph import StepGraph

ONE_S = ((1.0, 1.0, 1.0),)


def test_a_graph_counts_its_steps() -> None:
    assert StepGraph(ONE_S, ONE_S, ((1,), (2,), ()), starts=1).steps == 3


@pytest.mark.parametrize(("stages", "hops"), [(0, 0), (2, 1), (1, 2)])
def test_a_graph_has_as_many_hops_as_stages(stages: int, hops: int) -> None:
    expected = f"^expected stages and as many hops, got {stages} and {hops}$"
    with pytest.raises(ValueError, match=expected):
        StepGraph(ONE_S * stages, ONE_S * hops, ((1,), (2,), ()), starts=1)


def test_a_graph_has_a_duration_for_every_step() -> None:
    with pytest.raises(ValueError, match=r"^expected rows of 3 steps, got rows of \[2, 3\]$"):
        StepGraph(ONE_S, ((1.0, 1.0),), ((1,), (2,), ()), starts=1)


@pytest.mark.parametrize("starts", [-1, 0, 4])
def test_a_graph_starts_with_some_of_its_steps(starts: int) -> None:
    with pytest.raises(ValueError, match=f"^starts: expected 1 to 3, got {starts}$"):
        StepGraph(ONE_S, ONE_S, ((1,), (2,), ()), starts=starts)


@pytest.mark.parametrize(
    ("successors", "found"),
    [
        (((1,), (), ()), "[1]"),  # step 2 would never enter
        (((1,), (), (2,)), "[1]"),  # nor here, where it waits for itself
        (((1, 2), (2,), ()), "[1, 2, 2]"),  # it would enter twice
        (((1,), (2, 3), ()), "[1, 2, 3]"),  # there is no step 3
    ],
)
def test_every_step_enters_once(successors: tuple[tuple[int, ...], ...], found: str) -> None:
    expected = (
        f"successors: expected each of steps 1 to 2 once, under an earlier step, got {found} there"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        StepGraph(ONE_S, ONE_S, successors, starts=1)
