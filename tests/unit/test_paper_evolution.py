"""Ablations of the genetic search: neither half is better than the whole."""

import pytest

from llmpq_sim.core.plan import check_plan
from llmpq_sim.io.clusters import bundled_clusters
from llmpq_sim.paper.ablations import budgeted
from llmpq_sim.paper.cases import Case
from llmpq_sim.paper.evolution import (
    EVOLUTION,
    MIXES,
    ON_TRACE,
    Mix,
    evolutions,
    evolutions_on_trace,
    random_plans,
)
from llmpq_sim.search.bound.feasibility import task_grid
from llmpq_sim.search.genetic.batches import POPULATION
from llmpq_sim.search.genetic.evolution import stream
from llmpq_sim.search.genetic.operators import Operators
from llmpq_sim.search.scoring import fits, keeps_budget
from tests.builders import tiny_model, tiny_scenario, tiny_task
from tests.online import online_task

CASE = Case(2, "main", 0.8, "gptq-2023")


def test_neither_half_of_the_search_is_faster_than_the_whole() -> None:
    found = evolutions(CASE)
    assert tuple(one.name for one in found) == EVOLUTION
    whole, asked = found[0].tokens_per_s, budgeted(CASE)
    assert whole is not None
    for one in found:
        assert one.tokens_per_s is not None
        assert 0 < one.tokens_per_s <= whole * 1.005
        assert one.loss is not None
        assert one.loss <= asked.allowed_loss


def test_random_plans_are_feasible_and_follow_from_the_seed() -> None:
    task = tiny_task(tiny_scenario(model=tiny_model(8)), budget=0.03)
    operators = Operators(task, task_grid(task))
    plans = list(random_plans(operators, stream(0, b"a")))
    assert len(plans) == POPULATION
    for plan in plans:
        check_plan(plan, task.costs.scenario)
        assert fits(plan, task)
        assert keeps_budget(plan, task)
    assert plans == list(random_plans(operators, stream(0, b"a")))
    assert plans != list(random_plans(operators, stream(1, b"a")))


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.label)
def test_every_mix_is_a_bundled_cluster_that_serves_the_papers_batch(mix: Mix) -> None:
    scenario = mix.task().costs.scenario
    assert scenario.cluster.name == mix.cluster
    assert (scenario.workload.requests, scenario.workload.longest_output_tokens) == (32, 100)


def test_the_mixes_are_all_bundled_clusters_but_those_of_the_paper() -> None:
    assert {mix.cluster for mix in MIXES} == {
        name for name in bundled_clusters() if not name.startswith("paper-")
    }


def test_on_a_trace_generations_lose_nothing_and_beat_baselines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Mix, "trace_task", lambda _: online_task())
    found = evolutions_on_trace(MIXES[0])
    assert tuple(one.name for one in found) == ON_TRACE
    rates = [one.goodput_per_s or 0.0 for one in found]
    assert rates == sorted(rates, reverse=True)
