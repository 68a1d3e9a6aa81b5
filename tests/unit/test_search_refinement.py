import pytest

from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.search.bound import loads
from llmpq_sim.search.bound.certificate import Split
from llmpq_sim.search.bound.problem import Problem
from llmpq_sim.search.bound.refinement import Proof, refine
from llmpq_sim.search.bound.relaxation import relax
from llmpq_sim.search.bound.screening import Screen
from tests.builders import tiny_scenario, tiny_task

CUTS = MicroBatching(1, 1, 2)


def problem(
    output_tokens: tuple[int, ...] = (5, 5), sensitivity: list[float] | None = None
) -> Problem:
    scenario = tiny_scenario(output_tokens=output_tokens)
    return Screen(tiny_task(scenario, budget=0.03, sensitivity=sensitivity)).problem(CUTS)


def proof(cells: int, output_tokens: tuple[int, ...] = (5, 5)) -> Proof:
    """Return a proof with a target beyond reach."""
    whole = problem(output_tokens)
    found = refine(whole, 2 * relax(whole).bound_s, cells)
    assert found is not None
    return found


def test_more_cells_prove_no_less() -> None:
    bounds_s = [proof(cells).bound_s for cells in (1, 3, 9, 27)]
    assert bounds_s == sorted(bounds_s)
    assert bounds_s[-1] > bounds_s[0]


def test_a_proof_has_no_more_cells_than_allowed() -> None:
    assert proof(1).cells == 1
    assert not isinstance(proof(1).tree, Split)
    assert proof(10).cells <= 10


def test_a_proof_stops_at_its_target() -> None:
    whole = problem()
    target_s = relax(whole).bound_s / 2
    found = refine(whole, target_s, 100)
    assert found is not None
    assert (found.bound_s, found.cells) == (target_s, 1)


@pytest.mark.parametrize("requests", [1, 2, 3])
def test_a_batch_of_single_tokens_is_refined_by_its_prefill_alone(requests: int) -> None:
    found = proof(40, (1,) * requests)
    terms = []
    waiting = [found.tree]
    while waiting:
        tree = waiting.pop()
        if isinstance(tree, Split):
            terms.append(tree.term)
            waiting += [tree.below, tree.above]
    assert set(terms) <= {"prefill"}


def test_layers_that_lose_differently_are_refined_too() -> None:
    whole = problem(sensitivity=[1.0, 2.0, 3.0, 4.0])
    found = refine(whole, 2 * relax(whole).bound_s, 20)
    assert found is not None
    assert found.bound_s > relax(whole).bound_s


def test_too_many_loads_are_not_refined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "MOST_LOADS", 3)
    assert refine(problem(), 1.0, 10) is None
