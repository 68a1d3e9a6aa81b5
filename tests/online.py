"""Small searches for a service: the tiny model on tiny devices, and a trace of a few requests."""

from dataclasses import replace
from random import Random

from llmpq_sim.core.cluster import ClusterDevice
from llmpq_sim.core.scenario import Scenario
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.search.bound.rate import rate_certificate
from llmpq_sim.search.online.planner import OnlineOutcome, search_online
from llmpq_sim.search.online.settings_genes import MOST_BUDGET_TOKENS, MOST_SEQUENCES
from llmpq_sim.search.online.task import Objective, OnlineTask, representative_batch
from llmpq_sim.search.planner import SearchSettings
from llmpq_sim.simulator.continuous.compilation import ServingCosts
from llmpq_sim.simulator.continuous.settings import (
    ContinuousSettings,
    ServiceObjectives,
    default_settings,
)
from tests.builders import tiny_cluster, tiny_costs, tiny_device, tiny_model, tiny_task
from tests.serving import trace

SOON = ServiceObjectives(ttft_s=0.05, tpot_s=0.02)


def tiny_trace(requests: int = 60, *, gap_s: float = 0.02, seed: int = 0) -> TraceWorkload:
    """Return requests that arrive one after another, of 8 to 200 and 2 to 24 tokens."""
    random = Random(seed)
    arrival_s = [number * gap_s for number in range(requests)]
    prompts = [random.randint(8, 200) for _ in range(requests)]
    return trace(arrival_s, prompts, [random.randint(2, 24) for _ in range(requests)])


def priced(task: OnlineTask, usd_per_hour: float) -> ServingCosts:
    """Return the costs of a task on devices that all have this price."""
    cluster = task.costs.cluster
    devices = tuple(
        ClusterDevice(m.name, replace(m.device, price_usd_per_hour=usd_per_hour), m.node)
        for m in cluster.devices
    )
    return ServingCosts(task.costs.model, replace(cluster, devices=devices), task.costs.profiles)


def online_task(
    workload: TraceWorkload | None = None,
    *,
    objective: Objective = "goodput",
    objectives: ServiceObjectives | None = SOON,
    room_mib: float = 64.0,
) -> OnlineTask:
    """Return the task of serving a trace on a fast and a slow device."""
    requests, model = workload or tiny_trace(), tiny_model()
    devices = [
        tiny_device(room_mib=room_mib),
        tiny_device("slow", room_mib=room_mib, bytes_per_s=1e9),
    ]
    batch = representative_batch(requests, objectives)
    scenario = Scenario(model, tiny_cluster(devices), batch)
    profiles = tiny_costs(scenario).profiles
    planned = tiny_task(scenario)
    return OnlineTask(
        batch=planned,
        costs=ServingCosts(model, scenario.cluster, profiles),
        workload=requests,
        defaults=default_settings(model, requests),
        objectives=objectives,
        objective=objective,
        rate=rate_certificate(planned, requests),
    )


def found(task: OnlineTask, *, seed: int = 0, generations: int = 3) -> OnlineOutcome:
    """Return what a short search finds."""
    return search_online(task, SearchSettings(seed, generations))


def is_allowed(settings: ContinuousSettings, stages: int) -> bool:
    """Return whether a search may come to these settings, unless it starts from them."""
    budget, limit = settings.token_budget, settings.sequence_limit
    most = settings.batches_in_flight
    return (
        8 <= budget <= MOST_BUDGET_TOKENS
        and 1 <= limit <= min(budget, MOST_SEQUENCES)
        and (settings.chunked_prefill or budget >= settings.longest_context_tokens)
        and (settings.chunk_tokens is None or settings.chunk_tokens < budget)
        and (most is None or 1 <= most < stages)
    )
