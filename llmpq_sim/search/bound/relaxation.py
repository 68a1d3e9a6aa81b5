"""Linear relaxation and integer program of a planning problem, solved by HiGHS."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.search.bound.certificate import Multipliers, bound_s
from llmpq_sim.search.bound.problem import FloatArray, Problem
from llmpq_sim.search.bound.program import Program
from llmpq_sim.search.deadline import check_time, solver_options

FEASIBILITY = 1e-6

SOLVED, LIMITED = 0, 1
"""SciPy's status of what HiGHS solved, and of what a limit of time (or nodes) ended."""


@dataclass(frozen=True)
class Relaxation:
    """The optimum of the relaxed problem.

    Attributes:
        bound_s: the makespan that the multipliers prove, by arithmetic; far beyond any plan's
            where nothing fits.
        multipliers: the proof.
        blocks: blocks of each item at each place in each format. Shape: (items, places, formats).
        shortage: blocks that fit nowhere.
    """

    bound_s: float
    multipliers: Multipliers
    blocks: FloatArray
    shortage: float

    @property
    def is_feasible(self) -> bool:
        """Whether the relaxed problem has a solution at all."""
        return self.shortage <= FEASIBILITY


def relax(problem: Problem) -> Relaxation:
    """Return the linear relaxation.

    Devices of one place share its blocks evenly, which loses nothing, since any solution may be
    averaged over them.

    Raises:
        InfeasibleError: the solver failed, which shortages rule out for sane numbers.
        OutOfTime: the search's time limit passed.
    """
    from scipy.optimize import linprog

    program = Program(problem)
    solved = linprog(
        program.objective,
        A_ub=program.upper,
        b_ub=program.upper_limit,
        A_eq=program.equal,
        b_eq=program.equal_value,
        bounds=program.bounds,
        method="highs",
        options=solver_options(),
    )
    if solved.status == LIMITED:
        check_time()
    if solved.status != SOLVED:
        raise InfeasibleError(f"search: HiGHS could not solve a relaxation: {solved.message}")
    multipliers = program.multipliers(
        -np.asarray(solved.ineqlin.marginals), np.asarray(solved.eqlin.marginals)
    )
    blocks = np.asarray(solved.x[: program.block_count]).reshape(program.shape)
    shortage = float(solved.x[-len(problem.items) :].sum())
    return Relaxation(bound_s(problem, multipliers), multipliers, blocks, shortage)


def solve_integrally(
    problem: Problem,
    gap_fraction: float,
    nodes: int,
    *,
    as_pipeline: bool = False,
    minimise: Literal["makespan", "loss"] = "makespan",
) -> FloatArray | None:
    """Return whole blocks of each item at each place in each format, or None if none was found.

    The devices of one place are loaded alike: each has the same whole number of blocks. HiGHS stops
    at a relative gap or after so many nodes of its search tree. Without a time limit it never stops
    by the clock, so that the same problem has the same answer everywhere; with one, its best
    solution until then counts.

    Args:
        problem: what to place.
        gap_fraction: relative gap at which to stop.
        nodes: nodes of the search tree after which to stop.
        as_pipeline: whether the embedding and the LM head are at two different places of one
            device that hold layers too.
        minimise: the makespan within the loss budget, or the loss whatever the makespan.

    Raises:
        OutOfTime: the search's time limit passed before there was a solution.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    program = Program(problem)
    counts = program.device_counts()  # the unknowns are the blocks of one device
    constraints = [
        LinearConstraint(program.upper * counts, -np.inf, program.upper_limit),
        LinearConstraint(program.equal * counts, program.equal_value, program.equal_value),
    ]
    if as_pipeline:
        matrix, limit = program.pipeline_rows()
        constraints.append(LinearConstraint(matrix * counts, -np.inf, limit))
    most = program.bounds[:, 1].copy()
    most[-len(problem.items) :] = 0.0
    solved = milp(
        program.objective if minimise == "makespan" else program.losses * counts,
        integrality=np.arange(program.columns) < program.block_count,
        bounds=Bounds(program.bounds[:, 0], most),
        constraints=constraints,
        options={"mip_rel_gap": gap_fraction, "node_limit": nodes, **solver_options()},
    )
    if solved.x is None:
        if solved.status == LIMITED:
            check_time()
        return None
    blocks = solved.x[: program.block_count].round() * counts[: program.block_count]
    return np.asarray(blocks).reshape(program.shape)
