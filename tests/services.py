"""Services for tests: a small plan that serves made-up requests."""

from dataclasses import replace

import numpy as np

from llmpq_sim.api.replaying import Replay
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.io.tasks import QualityTarget
from llmpq_sim.search.bound.bound import Certificate
from llmpq_sim.simulator.continuous.compilation import ServingCosts
from llmpq_sim.simulator.continuous.max_rate import max_rate
from llmpq_sim.simulator.continuous.saturation import queue_of
from llmpq_sim.simulator.continuous.service import Service, serve
from llmpq_sim.simulator.continuous.settings import ContinuousSettings, ServiceObjectives
from tests.reports import GOOD, small_task
from tests.serving import trace

LIMITS = ServiceObjectives(ttft_s=0.02, tpot_s=0.004)
SETTINGS = ContinuousSettings(token_budget=512, sequence_limit=64, longest_context_tokens=2048)


def serving_costs(cluster: str = "paper-4") -> ServingCosts:
    """Return block times of the small task's model."""
    task_costs = small_task(cluster).costs
    scenario = task_costs.scenario
    return ServingCosts(scenario.model, scenario.cluster, task_costs.profiles)


def made_workload(
    requests: int = 200, rate_per_s: float = 20.0, lengths: tuple[int, int] = (10, 400)
) -> TraceWorkload:
    """Return requests that arrive at random with prompts between two lengths."""
    rng = np.random.default_rng(7)
    arrival_s = np.cumsum(rng.exponential(1 / rate_per_s, requests))
    prompts = rng.integers(*lengths, requests)
    return trace(arrival_s - arrival_s[0], prompts, rng.integers(1, 60, requests))


def made_service(
    requests: int = 200,
    rate_per_s: float = 20.0,
    lengths: tuple[int, int] = (10, 400),
    objectives: ServiceObjectives | None = None,
    settings: ContinuousSettings = SETTINGS,
) -> Service:
    """Return how the small plan serves them."""
    workload = made_workload(requests, rate_per_s, lengths)
    return serve(GOOD, serving_costs(), workload, settings, objectives)


def made_replay(service: Service, *, seeks_max_rate: bool = False) -> Replay:
    """Return a service as the command line has it."""
    task, quality = small_task(), QualityTarget("int3", None, None)
    saved = SavedPlan(GOOD, task, quality, Certificate({}), seed=0)
    highest = max_rate(service, 0.9) if seeks_max_rate else None
    return Replay(saved, service, queue_of(service), highest, seed=3, wall_seconds=0.5)


def with_prices(service: Service, *prices: float | None) -> Service:
    """Return a service whose kinds of device cost so much, in the order of the plan's stages."""
    cluster = service.costs.cluster
    by_name = {
        stage.device: price for stage, price in zip(service.plan.stages, prices, strict=True)
    }
    members = tuple(
        replace(
            member,
            device=replace(member.device, price_usd_per_hour=by_name.get(member.name)),
        )
        for member in cluster.devices
    )
    costs = ServingCosts(
        service.costs.model, replace(cluster, devices=members), service.costs.profiles
    )
    return replace(service, costs=costs)
