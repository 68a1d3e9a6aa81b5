"""Plans for the paper's clusters, and their gaps to the bound."""

import pytest

from llmpq_sim.core.formats import PAPER_FORMATS
from llmpq_sim.core.scenario import BatchWorkload, Scenario
from llmpq_sim.io.clusters import load_cluster
from llmpq_sim.io.models import load_model
from llmpq_sim.quality.table import nominal_quality
from llmpq_sim.search.bound.bound import check_certificate
from llmpq_sim.search.bound.feasibility import task_grid
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.planner import SearchOutcome, SearchSettings, search
from tests.builders import tiny_task

MODELS = {
    "paper-1": "opt-13b",
    "paper-2": "opt-13b",
    "paper-3": "opt-30b",
    "paper-4": "opt-30b",
    "paper-5": "opt-66b",
    "paper-6": "opt-66b",
    "paper-7": "bloom-176b",
    "paper-8": "bloom-176b",
    "paper-9": "opt-30b",
    "paper-10": "opt-66b",
    "paper-11": "bloom-176b",
}
"""Source: LLM-PQ, arXiv:2403.01136, table of clusters."""

SMALL_GAP = 0.02


SAMPLE = ("paper-1", "paper-9")
"""Clusters of few devices, planned in every run of the tests; the others are slow."""


@pytest.fixture(
    name="outcomes",
    scope="module",
    params=[SAMPLE, pytest.param(tuple(MODELS), marks=pytest.mark.slow)],
    ids=["sample", "all"],
)
def _outcomes(request: pytest.FixtureRequest) -> dict[str, SearchOutcome]:
    """The paper's main workload on each cluster, no worse than int4 everywhere."""
    return {cluster: _planned(cluster, MODELS[cluster]) for cluster in request.param}


def _planned(cluster: str, model_name: str) -> SearchOutcome:
    model = load_model(model_name)
    scenario = Scenario(model, load_cluster(cluster), BatchWorkload(512, (100,) * 32))
    budget = nominal_quality(model.layers).uniform_loss("int4")
    task = tiny_task(scenario, formats=PAPER_FORMATS, budget=budget)
    return search(task, SearchSettings(generations=5))


def test_no_baseline_is_faster_on_any_cluster(outcomes: dict[str, SearchOutcome]) -> None:
    for outcome in outcomes.values():
        feasible = [one.score for one in outcome.baselines if one.score and one.score.is_feasible]
        assert feasible
        assert all(outcome.best.makespan_s <= score.makespan_s for score in feasible)


def test_the_gap_is_at_most_two_percent_on_most_clusters(
    outcomes: dict[str, SearchOutcome],
) -> None:
    gaps = {cluster: outcome.gap_fraction for cluster, outcome in outcomes.items()}
    assert sum(gap > SMALL_GAP for gap in gaps.values()) <= (2 if len(gaps) > 2 else 0), gaps


def test_every_certificate_proves_its_bound_by_arithmetic(
    outcomes: dict[str, SearchOutcome],
) -> None:
    for outcome in outcomes.values():
        screen, grid = Screen(outcome.task), task_grid(outcome.task)
        proven_s = check_certificate(outcome.certificate, screen, grid)
        assert proven_s == pytest.approx(outcome.certificate.bound_s, rel=1e-9)
        assert proven_s <= outcome.best.makespan_s * (1 + 1e-9)
