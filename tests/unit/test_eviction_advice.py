"""Advice against requests that evict each other: what it says is what its options do."""

from dataclasses import replace

import pytest

from llmpq_sim.core.cluster import Cluster
from llmpq_sim.report.eviction_advice import eviction_content, eviction_sentences
from llmpq_sim.report.json_reports import replay_content
from llmpq_sim.simulator.continuous.compilation import ServingCosts, stage_fixed_bytes
from llmpq_sim.simulator.continuous.eviction_advice import eviction_advice
from llmpq_sim.simulator.continuous.recurrence import simulate_continuous
from llmpq_sim.simulator.continuous.service import Service, serve
from llmpq_sim.simulator.continuous.settings import ServiceObjectives
from tests.reports import GOOD
from tests.services import SETTINGS, made_replay, serving_costs
from tests.serving import trace

LONG_PROMPTS, SHORT_PROMPTS = (1500, 400), (160, 480)
"""Prompt and output tokens: computing the former anew costs much, the latter little."""


REQUESTS = 24


def storm(
    holds: float = 5.5,
    lengths: tuple[int, int] = LONG_PROMPTS,
    objectives: ServiceObjectives | None = None,
) -> Service:
    """Return a service of 24 requests at once whose KV cache holds so many until their end."""
    prompt, output = lengths
    costs = with_room(serving_costs(), round(holds * (prompt + output)))
    workload = trace([0.0] * REQUESTS, [prompt] * REQUESTS, [output] * REQUESTS)
    return serve(GOOD, costs, workload, SETTINGS, objectives)


def with_room(costs: ServingCosts, tokens: int) -> ServingCosts:
    """Return costs on a cluster whose devices have room for so many tokens of the good plan."""
    taken_bytes = dict(
        zip(
            (stage.device for stage in GOOD.stages),
            stage_fixed_bytes(GOOD, costs.model, costs.cluster, SETTINGS),
            strict=True,
        )
    )
    layers = {stage.device: len(stage.formats) for stage in GOOD.stages}
    members = tuple(
        replace(
            member,
            device=replace(
                member.device,
                memory_bytes=taken_bytes[member.name]
                + layers[member.name] * costs.model.only_kind.cache_bytes(1, tokens),
            ),
        )
        if member.name in layers
        else member
        for member in costs.cluster.devices
    )
    cluster: Cluster = replace(costs.cluster, devices=members)
    return ServingCosts(costs.model, cluster, costs.profiles)


def test_what_is_advised_serves_what_is_said_and_more() -> None:
    service = storm()
    assert service.result.preemptions > service.result.finished
    advice = eviction_advice(service)
    assert {each.settings.admission for each in advice} == {"evict", "no-evict"}
    for each in advice:
        assert each.result == serve(GOOD, service.costs, service.workload, each.settings).result
        assert each.result.tokens_per_s > 1.1 * service.result.tokens_per_s
        again = replace(service, settings=each.settings, result=each.result)
        assert eviction_advice(again) == ()
    rates = [each.result.tokens_per_s for each in advice]
    assert rates == sorted(rates, reverse=True)


def test_without_eviction_as_many_serve_as_the_best_limit_of_all_within_a_tenth() -> None:
    service = storm()
    careful = next(
        each for each in eviction_advice(service) if each.settings.admission == "no-evict"
    )
    limits = (replace(SETTINGS, sequence_limit=limit) for limit in range(3, 9))
    best_per_s = max(
        simulate_continuous(GOOD, service.costs, service.workload, each).tokens_per_s
        for each in limits
    )
    assert careful.result.tokens_per_s > 0.9 * best_per_s


def test_the_sentence_and_the_data_name_options_and_figures() -> None:
    service = storm()
    found = replace(made_replay(service), advice=eviction_advice(service))
    (sentence,) = eviction_sentences(found)
    assert sentence.startswith("Requests evict each other, ")
    assert f" tokens/s for {service.result.tokens_per_s:.1f}" in sentence
    for each in eviction_content(found):
        assert str(each["option"]) in sentence
        assert f"{each['tokens_per_s']:.1f} tokens/s" in sentence
    assert replay_content(found)["advice"] == eviction_content(found)


def test_with_objectives_good_requests_count() -> None:
    service = storm(objectives=ServiceObjectives(tpot_s=1.0))
    best = eviction_advice(service)[0]
    assert best.result.goodput_per_s is not None
    found = replace(made_replay(service), advice=(best,))
    assert f"{best.result.goodput_per_s:.3g} good requests/s for " in eviction_sentences(found)[0]


@pytest.mark.parametrize(
    ("holds", "lengths", "evicts"),
    [(25.0, LONG_PROMPTS, False), (5.5, SHORT_PROMPTS, True)],
)
def test_nothing_is_said_where_none_is_evicted_or_it_serves_most(
    holds: float, lengths: tuple[int, int], evicts: bool
) -> None:
    service = storm(holds, lengths)
    assert (service.result.preemptions > 0) == evicts
    assert eviction_advice(service) == ()
    assert eviction_sentences(made_replay(service)) == []
    assert replay_content(made_replay(service))["advice"] == []


def test_nothing_is_said_where_half_of_the_requests_are_evicted_once() -> None:
    service = storm()
    few = replace(service, result=replace(service.result, preemptions=REQUESTS // 2))
    assert eviction_advice(few) == ()
