"""Laws of bound, search and closed form on tasks whose every plan is known."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.plan import Plan
from llmpq_sim.search.bound.bound import (
    Certificate,
    check_certificate,
    first_certificate,
    tighten,
)
from llmpq_sim.search.bound.certificate import (
    CellMultipliers,
    Multipliers,
    ScheduleMultipliers,
    Split,
    bound_s,
    proof_bound_s,
    whole_cell,
)
from llmpq_sim.search.bound.feasibility import task_grid
from llmpq_sim.search.bound.least import least_makespan_s
from llmpq_sim.search.bound.loads import LoadTable
from llmpq_sim.search.bound.problem import PlanningTask, Problem
from llmpq_sim.search.bound.program import Program
from llmpq_sim.search.bound.refinement import refine
from llmpq_sim.search.bound.relaxation import relax
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.planner import SearchSettings, search
from llmpq_sim.simulator.static.simulate import simulate_static
from tests.strategies import Enumerated, tasks, tasks_and_plans

ROUNDING = 1 + 1e-9

any_number = st.floats(-0.5, 2.0) | st.sampled_from([0.0, -1.0, 1e3])


def silently(done: int, total: int) -> None:
    """Report no progress."""


def check_bounds(certificate: Certificate, known: Enumerated) -> None:
    """Assert that no micro-batching has a plan below its bound."""
    for batching, best_s in known.best_by_micro_batching.items():
        assert certificate.entries[batching].bound_s <= best_s * ROUNDING
        assert batching in certificate.feasible


@settings(deadline=None, max_examples=25)
@given(tasks())
def test_no_plan_is_faster_than_the_bound_of_its_micro_batching(task: PlanningTask) -> None:
    known, screen = Enumerated(task), Screen(task)
    certificate = first_certificate(screen, task_grid(task), silently)
    check_bounds(certificate, known)
    if known.best_s is not None:
        first_s = certificate.bound_s
        tighten(certificate, screen, known.best_s, silently)
        check_bounds(certificate, known)
        assert certificate.bound_s >= first_s


@settings(deadline=None, max_examples=25)
@given(tasks(), st.integers(1, 6))
def test_no_plan_that_cuts_prompts_is_faster_than_its_bound(task: PlanningTask, cuts: int) -> None:
    tokens = max(task.costs.scenario.workload.prompt_tokens // cuts, 1)
    alone = [batching for batching in task_grid(task) if batching.prefill == 1]
    grid = [replace(batching, chunk_tokens=tokens) for batching in alone]
    known, screen = Enumerated(task, tuple(grid)), Screen(task)
    certificate = first_certificate(screen, grid, silently)
    check_bounds(certificate, known)
    for batching, best_s in known.best_by_micro_batching.items():
        assert least_makespan_s(task, batching) <= best_s * ROUNDING
    if known.best_s is not None:
        tighten(certificate, screen, known.best_s, silently)
        check_bounds(certificate, known)
        assert check_certificate(certificate, screen, grid) <= known.best_s * ROUNDING


@settings(deadline=None, max_examples=300)
@given(tasks_and_plans())
def test_closed_form_and_relaxation_are_never_above_a_simulation(
    task_and_plan: tuple[PlanningTask, Plan],
) -> None:
    task, plan = task_and_plan
    screen = Screen(task)
    closed_form_s = screen.makespan_s(plan)
    assert closed_form_s <= simulate_static(plan, task.costs).makespan_s * ROUNDING
    assert relax(screen.problem(plan.micro_batching)).bound_s <= closed_form_s * ROUNDING


# A heuristic's quality is no law: the examples are fixed, so that a run says what the last one did.
@settings(deadline=None, max_examples=25, derandomize=True)
@given(tasks())
def test_the_search_finds_the_best_of_all_plans_and_proves_its_bound(task: PlanningTask) -> None:
    known = Enumerated(task)
    assume(known.best_s is not None)
    outcome = search(task, SearchSettings(generations=20))
    assert known.best_s is not None
    assert known.best_s <= outcome.best.makespan_s * ROUNDING
    assert outcome.best.makespan_s <= known.best_s * 1.01
    check_bounds(outcome.certificate, known)
    proven_s = check_certificate(outcome.certificate, Screen(task), task_grid(task))
    assert proven_s == pytest.approx(outcome.certificate.bound_s, rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(tasks())
def test_where_there_is_no_plan_the_search_says_so(task: PlanningTask) -> None:
    assume(Enumerated(task).best_s is None)
    with pytest.raises(InfeasibleError, match=r"^tiny on tiny: "):
        search(task, SearchSettings(generations=1))


@settings(deadline=None, max_examples=30)
@given(tasks(), st.data())
def test_any_multipliers_give_a_true_bound(task: PlanningTask, data: st.DataObject) -> None:
    screen = Screen(task)
    for batching, best_s in Enumerated(task).best_by_micro_batching.items():
        problem = screen.problem(batching)
        assert bound_s(problem, data.draw(multipliers(problem, best_s))) <= best_s * ROUNDING


@st.composite
def multipliers(draw: st.DrawFn, problem: Problem, scale_s: float) -> Multipliers:
    """Any multipliers, prices in the order of magnitude at which they matter."""
    places = len(problem.places)

    def numbers(scale: float = 1.0) -> tuple[float, ...]:
        drawn = draw(st.lists(any_number, min_size=places, max_size=places))
        return tuple(scale * number for number in drawn)

    waves = tuple(
        ScheduleMultipliers(numbers(), numbers(), draw(any_number)) for _ in problem.waves
    )
    return Multipliers(
        waves,
        draw(any_number) * scale_s / max(problem.budget, 1e-3),
        numbers(scale_s / float(problem.block_bytes.max())),
        draw(run_prices(places * (len(problem.block_bytes) - 2), scale_s)),
    )


def run_prices(count: int, scale_s: float) -> st.SearchStrategy[tuple[float, ...]]:
    """Return no prices of layers at places, or any."""
    drawn = st.lists(any_number, min_size=count, max_size=count)
    return st.just(()) | drawn.map(lambda prices: tuple(scale_s * price for price in prices))


@settings(deadline=None, max_examples=30)
@given(tasks(), st.data())
def test_any_cuts_with_any_multipliers_give_a_true_bound(
    task: PlanningTask, data: st.DataObject
) -> None:
    screen = Screen(task)
    for batching, best_s in list(Enumerated(task).best_by_micro_batching.items())[:4]:
        table = LoadTable(screen.problem(batching))
        target_s = best_s * data.draw(st.sampled_from([0.5, 0.99, 1.0, 2.0]))
        tree = data.draw(trees(table.problem, target_s))
        proven_s = proof_bound_s(table, tree, whole_cell(target_s))
        assert proven_s <= best_s * ROUNDING


@st.composite
def trees(draw: st.DrawFn, problem: Problem, scale_s: float) -> Split | CellMultipliers:
    """Any tree of at most three cuts deep; one in two has a cut below another."""
    leaves = cell_multipliers(problem, scale_s)
    limits = st.floats(0.0, 1.0).map(lambda share: share * scale_s)
    terms = st.sampled_from(["prefill", "decode"])
    deeper = st.builds(Split, terms, limits, leaves, leaves)
    deepest = st.builds(Split, terms, limits, leaves | deeper, leaves | deeper)
    return draw(leaves | deeper | deepest)


@st.composite
def cell_multipliers(draw: st.DrawFn, problem: Problem, scale_s: float) -> CellMultipliers:
    weights = st.lists(
        any_number, min_size=len(problem.places) + 1, max_size=len(problem.places) + 1
    ).map(tuple)
    value = any_number.map(lambda share: share * scale_s)
    kinds, places, formats = (
        len(problem.block_bytes) - 2,
        len(problem.places),
        len(problem.formats) * (len(problem.items) > 3),
    )

    def values(count: int) -> tuple[float, ...]:
        return tuple(draw(st.lists(value, min_size=count, max_size=count)))

    return CellMultipliers(
        draw(weights),
        draw(weights),
        draw(any_number),
        draw(any_number) * scale_s / max(problem.budget, 1e-3),
        (draw(value) * (not formats), draw(value), draw(value)),
        values(places * formats),
        values(places * kinds * (formats > 0)),
    )


@settings(deadline=None, max_examples=80)
@given(tasks())
def test_the_multipliers_of_the_relaxation_prove_its_optimum(task: PlanningTask) -> None:
    from scipy.optimize import linprog

    screen = Screen(task)
    for batching in task_grid(task):
        relaxed, program = relax(screen.problem(batching)), Program(screen.problem(batching))
        if relaxed.is_feasible:
            solved = linprog(
                program.objective,
                A_ub=program.upper,
                b_ub=program.upper_limit,
                A_eq=program.equal,
                b_eq=program.equal_value,
                bounds=program.bounds,
            )
            assert relaxed.bound_s == pytest.approx(solved.fun, rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(tasks(), st.sampled_from([0.7, 1.0, 1.5]))
def test_the_tree_of_a_refinement_proves_its_bound(task: PlanningTask, share: float) -> None:
    screen = Screen(task)
    for batching, best_s in list(Enumerated(task).best_by_micro_batching.items())[:4]:
        problem = screen.problem(batching)
        proof = refine(problem, share * best_s, cells=30)
        assert proof is not None
        cell = whole_cell(proof.target_s)
        assert proof_bound_s(LoadTable(problem), proof.tree, cell) == proof.bound_s
        assert proof.bound_s <= min(best_s, proof.target_s) * ROUNDING
