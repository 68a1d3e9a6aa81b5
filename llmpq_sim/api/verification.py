"""Verification of what a plan file states: recomputed by arithmetic, without a solver."""

from dataclasses import dataclass
from math import isclose

from llmpq_sim.api.planned import AnyPlan, Profiles, load
from llmpq_sim.core.errors import CertificateError
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.search.bound.bound import check_certificate
from llmpq_sim.search.bound.feasibility import task_grid
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.scoring import PlanScore, score_in_simpy
from llmpq_sim.search.shortage import why_infeasible

TOLERANCE = 1e-6
"""Relative difference of a stated figure: processors round differently."""


@dataclass(frozen=True)
class Verification:
    """What a certificate proves.

    Attributes:
        score: the plan, simulated anew.
        bound_s: makespan that no plan is below, recomputed.
        entries: micro-batchings covered.
        refined: how many of them are proven by cells.
        requests_per_s: rate at which no plan serves the requests of the trace that the plan was
            made for, or None where it was made for a batch alone.
        covers_chunks: whether plans that cut their prompts are covered where a search considers
            them; files of versions that did not cut prompts leave them out.
    """

    score: PlanScore
    bound_s: float
    entries: int
    refined: int
    requests_per_s: float | None = None
    covers_chunks: bool = True

    @property
    def gap_fraction(self) -> float:
        """How far the plan may be from the best: 1 - bound / makespan."""
        return max(0.0, 1.0 - self.bound_s / self.score.makespan_s)


def verify(plan: AnyPlan, *, profiles: Profiles = ()) -> Verification:
    """Return what a plan's certificate proves, recomputed by arithmetic alone.

    Args:
        plan: what ``plan`` returned, or the name of a plan file.
        profiles: see ``load``.

    Raises:
        InputError: the file is damaged.
        CertificateError: the plan is not feasible, the certificate states more than its
            multipliers prove, or contradicts the plan, or the file states another figure than the
            one recomputed.
    """
    saved = load(plan, profiles=profiles)
    score = score_in_simpy(saved.plan, saved.task)
    if not score.is_feasible:
        raise CertificateError(f"plan: {why_infeasible(score, saved.task)}")
    grid, covers_chunks = _covered(saved)
    bound_s = check_certificate(saved.certificate, Screen(saved.task), grid)
    entries = saved.certificate.entries
    if saved.plan.micro_batching in grid and bound_s > score.makespan_s * (1 + 1e-9):
        raise CertificateError(
            f"certificate: proves {bound_s:.6g} s, but the plan takes {score.makespan_s:.6g} s"
        )
    found = {"makespan_s": score.makespan_s, "quality_loss": score.loss, "bound_s": bound_s}
    _check_stated(saved, found)
    refined = sum(entry.cells is not None for entry in entries.values())
    return Verification(score, bound_s, len(entries), refined, _checked_rate(saved), covers_chunks)


def _checked_rate(saved: SavedPlan) -> float | None:
    """Return the proven limit on the rate of the plan's trace, None where there is none."""
    if saved.rate is None:
        return None
    from llmpq_sim.search.bound.rate_certificate import check_rate  # noqa: PLC0415 - slow to load
    from llmpq_sim.search.bound.rate_problem import rate_problem  # noqa: PLC0415 - slow to load

    return check_rate(rate_problem(saved.task, saved.rate.workload), saved.rate)


def _covered(saved: SavedPlan) -> tuple[list[MicroBatching], bool]:
    """Return the micro-batchings that a certificate must cover, and whether those are all.

    One that leaves out every way to cut prompts is about plans with whole prompts alone.
    """
    grid = task_grid(saved.task)
    whole = [batching for batching in grid if batching.chunk_tokens is None]
    is_cut = any(batching.chunk_tokens is not None for batching in saved.certificate.entries)
    if is_cut or len(whole) == len(grid) or saved.plan.micro_batching.chunk_tokens is not None:
        return grid, True
    return whole, False


def _check_stated(saved: SavedPlan, found: dict[str, float]) -> None:
    """Raise CertificateError for a figure of the file that is not the one recomputed."""
    for name, stated in saved.stated.items():
        if not isclose(stated, found[name], rel_tol=TOLERANCE, abs_tol=1e-12):
            raise CertificateError(
                f"predicted.{name}: the file states {stated:.6g}, recomputed from its own inputs "
                f"are {found[name]:.6g}; make a new plan with llmpq search"
            )
