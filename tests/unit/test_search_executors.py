"""Executors of simulations: what is found does not change, and failures are one line."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

import llmpq_sim
from llmpq_sim.api import spreading
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.result import SimulationResult
from llmpq_sim.core.scenario import Scenario
from llmpq_sim.io.clusters import load_cluster
from llmpq_sim.io.files import json_text
from llmpq_sim.io.models import load_model
from llmpq_sim.io.plans import outcome_to_dict
from llmpq_sim.io.profiles import cluster_profiles
from llmpq_sim.io.tasks import batch_workload, default_formats, planning_task, quality_target
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.genetic import evaluation, executors
from llmpq_sim.search.genetic.executors import Executor, simulating_on
from llmpq_sim.search.online import evaluation as online_evaluation
from llmpq_sim.search.online.planner import search_online
from llmpq_sim.search.planner import SearchSettings, search
from llmpq_sim.simulator.continuous.max_rate import max_rate
from llmpq_sim.simulator.continuous.settings import ServiceObjectives
from llmpq_sim.simulator.static.simulate import simulate_static
from tests.online import online_task, tiny_trace
from tests.services import made_service

TARGET = quality_target("int4")


def small_task() -> PlanningTask:
    """Return a task that searches in about a second."""
    model, cluster = load_model("opt-125m"), load_cluster("paper-9")
    scenario = Scenario(model, cluster, batch_workload(model, 4, 64, 8))
    profiles = cluster_profiles(cluster, "spec", {})
    return planning_task(scenario, profiles, default_formats(model, cluster), TARGET)


def plan_text(workers: int) -> str:
    """Return the plan file of a search of the small task."""
    outcome = search(small_task(), SearchSettings(generations=1, workers=workers))
    return json_text(outcome_to_dict(outcome, TARGET))


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def dask_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Yield a scheduler with two worker processes of one thread each, on this machine."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=":0",
        local_directory=tmp_path_factory.mktemp("dask"),
    ) as cluster:
        yield cluster


def test_a_dask_cluster_finds_the_plan_of_one_process(
    dask_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated = simulate_static
    here: list[Plan] = []

    def only_the_first(plan: Plan, costs: LayerCosts) -> SimulationResult:
        here.append(plan)
        assert len(here) == 1, "simulated in this process"
        return simulated(plan, costs)

    alone = plan_text(workers=1)
    monkeypatch.setattr(evaluation, "STEPS_PER_POOL", 0)
    monkeypatch.setattr(evaluation, "simulate_static", only_the_first)  # not in the workers
    scheduler = dask_cluster.scheduler_address.removeprefix("tcp://")
    with simulating_on("dask", scheduler, None) as at_once:
        assert at_once == 2
        assert plan_text(at_once) == alone


def test_a_dask_cluster_finds_the_highest_rate_and_the_service_of_one_process(
    dask_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spreading, "REQUESTS_PER_POOL", 1)
    monkeypatch.setattr(online_evaluation, "REQUESTS_PER_POOL", 1)
    service = made_service(rate_per_s=300.0, objectives=ServiceObjectives(ttft_s=0.02))
    task = online_task(tiny_trace(12))
    alone = max_rate(service, 0.9), search_online(task, SearchSettings(generations=0)).best.serving
    scheduler = dask_cluster.scheduler_address.removeprefix("tcp://")
    with simulating_on("dask", scheduler, None) as at_once:
        results = spreading.results_of(service, at_once)
        highest = max_rate(service, 0.9, results=results, at_once=at_once)
        settings = SearchSettings(generations=0, workers=at_once)
        assert (highest, search_online(task, settings).best.serving) == alone


def test_workers_with_another_llmpq_are_refused(
    dask_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = dask_cluster.scheduler_address.removeprefix("tcp://")
    monkeypatch.setattr(llmpq_sim, "__version__", "9.9")
    with (
        pytest.raises(InputError, match=r"expected workers with llmpq 9\.9, those of .* have"),
        simulating_on("dask", scheduler, None),
    ):
        pass


def test_processes_are_as_many_as_asked() -> None:
    with simulating_on("processes", None, 3) as at_once:
        assert at_once == 3


@pytest.mark.parametrize(
    ("executor", "scheduler", "workers", "message"),
    [
        ("processes", "a:1", None, "--scheduler: give --executor dask as well"),
        ("dask", "a:1", 2, "--workers: a Dask cluster has workers of its own"),
        ("dask", None, None, "--executor dask: expected --scheduler HOST:PORT as well, got none"),
        ("dask", "nowhere", None, "--scheduler: expected HOST:PORT, as 10.0.0.1:8786, got"),
        ("dask", "tcp://a:1", None, "--scheduler: expected HOST:PORT, as 10.0.0.1:8786, got"),
    ],
    ids=["no-dask", "workers", "no-scheduler", "no-port", "protocol"],
)
def test_options_that_do_not_go_together_are_refused(
    executor: Executor, scheduler: str | None, workers: int | None, message: str
) -> None:
    with pytest.raises(InputError) as refused, simulating_on(executor, scheduler, workers):
        pass
    assert str(refused.value).startswith(message)


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "find_spec", lambda _: None)
    with (
        pytest.raises(InputError, match=r'needs Dask: pip install "dask\[distributed\]"'),
        simulating_on("dask", "127.0.0.1:8786", None),
    ):
        pass


def test_a_scheduler_that_is_not_there_is_named(
    free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "CONNECT_S", 0.5)
    with (
        pytest.raises(InputError, match=f"at tcp://127.0.0.1:{free_port}, none answered within"),
        simulating_on("dask", f"127.0.0.1:{free_port}", None),
    ):
        pass


def test_a_scheduler_without_workers_is_named(
    free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(executors, "CONNECT_S", 0.5)
    with (
        LocalCluster(
            n_workers=0, host="127.0.0.1", scheduler_port=free_port, dashboard_address=":0"
        ),
        pytest.raises(InputError, match=f"tcp://127.0.0.1:{free_port} has no worker; start one"),
        simulating_on("dask", f"127.0.0.1:{free_port}", None),
    ):
        pass
