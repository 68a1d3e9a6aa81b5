"""Benchmark of the steps of a search, and of the command's first answer."""

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from llmpq_sim.core.scenario import Scenario
from llmpq_sim.io.clusters import load_cluster
from llmpq_sim.io.models import load_model
from llmpq_sim.io.profiles import cluster_profiles
from llmpq_sim.io.tasks import batch_workload, default_formats, planning_task, quality_target
from llmpq_sim.search.baselines.integer import integer_plan
from llmpq_sim.search.bound.bound import first_certificate
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.grid import micro_batching_grid
from llmpq_sim.search.planner import SearchSettings, search
from llmpq_sim.simulator.static.simulate import simulate_static
from tests.e2e.commands import LLMPQ

Benchmark = Any


def paper_task(number: int, model_name: str) -> PlanningTask:
    """Return the main workload of LLM-PQ on one of its clusters, by data sheets."""
    model, cluster = load_model(model_name), load_cluster(f"paper-{number}")
    scenario = Scenario(model, cluster, batch_workload(model, 32, 512, 100))
    profiles = cluster_profiles(cluster, "spec", {})
    return planning_task(
        scenario, profiles, default_formats(model, cluster), quality_target("int4")
    )


@pytest.fixture(scope="module")
def task() -> PlanningTask:
    return paper_task(3, "opt-30b")


def silently(done: int, total: int) -> None:
    """Report no progress."""


def test_simulating_a_plan(benchmark: Benchmark, task: PlanningTask) -> None:
    plan = integer_plan(task, micro_batching_grid(32, 4)[-1])
    assert plan is not None
    result = benchmark(simulate_static, plan, task.costs)
    benchmark.extra_info["stage_visits_per_s"] = result.stage_steps / benchmark.stats["median"]


def test_screening_a_plan(benchmark: Benchmark, task: PlanningTask) -> None:
    plan = integer_plan(task, micro_batching_grid(32, 4)[-1])
    assert plan is not None
    benchmark(Screen(task).makespan_s, plan)


def test_bounding_every_micro_batching(benchmark: Benchmark, task: PlanningTask) -> None:
    grid = micro_batching_grid(32, 4)
    benchmark(lambda: first_certificate(Screen(task), grid, silently))


@pytest.mark.parametrize(("number", "model_name"), [(3, "opt-30b"), (7, "bloom-176b")])
def test_a_whole_search(benchmark: Benchmark, number: int, model_name: str) -> None:
    run: Callable[[], Any] = lambda: search(paper_task(number, model_name), SearchSettings())  # noqa: E731
    outcome = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info["gap_fraction"] = outcome.gap_fraction


def test_help(benchmark: Benchmark) -> None:
    benchmark(lambda: subprocess.run([LLMPQ, "--help"], capture_output=True, check=True))
