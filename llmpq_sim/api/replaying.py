"""Replay of a trace on a saved plan, with settings as options say."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from llmpq_sim.api.planned import AnyPlan, Profiles, load
from llmpq_sim.api.spreading import results_of
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.core.units import MS
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.io.workloads import TraceOptions, load_workload
from llmpq_sim.search.bound.rate import known_certificate
from llmpq_sim.search.bound.rate_certificate import RateCertificate
from llmpq_sim.simulator.continuous.alone import AloneLimit, alone_limits
from llmpq_sim.simulator.continuous.compilation import ServingCosts
from llmpq_sim.simulator.continuous.eviction_advice import Remedy, eviction_advice
from llmpq_sim.simulator.continuous.extrapolation import unmeasured
from llmpq_sim.simulator.continuous.max_rate import ATTAINMENT, MaxRate, Trial, max_rate
from llmpq_sim.simulator.continuous.saturation import Queue, queue_of
from llmpq_sim.simulator.continuous.service import Service, serve
from llmpq_sim.simulator.continuous.settings import (
    Admission,
    ContinuousSettings,
    ServiceObjectives,
    default_settings,
    uncached,
)
from llmpq_sim.simulator.continuous.watch import Watch
from llmpq_sim.workloads.shaping import noted


@dataclass(frozen=True)
class ServingOptions:
    """What is asked of a simulated service; None where an option was not given.

    Attributes:
        token_budget, sequence_limit, chunked_prefill, prefix_caching, admission, chunk_tokens,
            batches_in_flight: of the scheduler; where they are not given, as in the plan file, or
            else by default.
        ttft_ms, tpot_ms, latency_ms: what a request must meet to be good.
        attainment: share of good requests at which to seek the highest rate, or None not to.
    """

    token_budget: int | None = None
    sequence_limit: int | None = None
    chunked_prefill: bool | None = None
    prefix_caching: bool | None = None
    admission: Admission | None = None
    chunk_tokens: int | None = None
    batches_in_flight: int | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    latency_ms: float | None = None
    attainment: float | None = None


@dataclass(frozen=True)
class Replay:
    """A plan's service of a trace.

    Attributes:
        saved: the plan, and what it was made for.
        service: what happens.
        queue: how the line of those who wait develops.
        max_rate: the highest rate at which the objectives hold, where it was asked for.
        seed: of all draws.
        wall_seconds: how long reading and simulating took.
        rate: the rate at which no plan serves these requests, proven, or None.
        advice: settings that serve more, where requests evict each other, the best first.
        attainment: share of requests that is to meet the objectives.
        alone: the objectives beside requests each alone, where fewer than that meet them.
    """

    saved: SavedPlan
    service: Service
    queue: Queue
    max_rate: MaxRate | None
    seed: int
    wall_seconds: float
    rate: RateCertificate | None = None
    advice: tuple[Remedy, ...] = ()
    attainment: float = ATTAINMENT
    alone: tuple[AloneLimit, ...] = ()


def replay(
    plan: AnyPlan,
    *,
    trace: str | Path | TraceOptions,
    options: ServingOptions | None = None,
    seed: int = 0,
    profiles: Profiles = (),
    watch: Watch | None = None,
    on_trial: Callable[[Trial], None] = lambda _: None,
    workers: int = 1,
) -> Replay:
    """Return what happens when a plan serves requests over time with continuous batching.

    Args:
        plan: what ``plan`` returned, or the name of a plan file.
        trace: which requests arrive when: a file, a bundled name, or what ``TraceOptions`` says.
        options: how they are batched, and what a good request meets, in milliseconds.
        seed: of all draws, where ``trace`` is a name.
        profiles: see ``load``.
        watch: who is told of batches and steps.
        on_trial: receives each rate tried where the highest is sought.
        workers: how many rates are tried at once; what is found does not depend on it.

    Raises:
        InfeasibleError: a stage has no room for any KV cache.
        InputError: options contradict each other, or the plan or the trace cannot be read.
    """
    begin_s = perf_counter()
    saved, options = load(plan, profiles=profiles), options or ServingOptions()
    asked = asked_trace(trace, seed)
    task_costs = saved.task.costs
    scenario = task_costs.scenario
    objectives = service_objectives(options)
    workload = load_workload(asked, scenario.model.max_positions, len(saved.plan.stages))
    settings = chosen_settings(saved, workload, options)
    costs = ServingCosts(scenario.model, scenario.cluster, task_costs.profiles)
    batches = (1, settings.sequence_limit, settings.token_budget)
    beyond = unmeasured(saved.plan, costs.model, costs.cluster, costs.profiles, batches)
    workload = noted(workload, *beyond, *uncached(costs.model, workload))
    service = serve(saved.plan, costs, workload, settings, objectives, watch)
    highest = _highest_rate(service, options.attainment, on_trial, workers)
    cached = settings.prefix_caching
    rate = known_certificate(saved.task, workload, saved.rate, is_cached=cached)
    advice = eviction_advice(service)
    attainment = options.attainment or ATTAINMENT
    return Replay(
        saved,
        service,
        queue_of(service),
        highest,
        asked.seed,
        perf_counter() - begin_s,
        rate,
        advice,
        attainment,
        _alone(service, attainment),
    )


def _highest_rate(
    service: Service,
    attainment: float | None,
    on_trial: Callable[[Trial], None],
    workers: int,
) -> MaxRate | None:
    """Return the highest rate that attains, None where it is not asked for."""
    if attainment is None:
        return None
    results = results_of(service, workers)
    return max_rate(service, attainment, on_trial, results=results, at_once=workers)


def _alone(service: Service, attainment: float) -> tuple[AloneLimit, ...]:
    """Return the objectives beside requests each alone, where too few meet them together."""
    if (service.result.slo_attainment or 0.0) >= attainment:
        return ()
    return alone_limits(
        service.plan, service.costs, service.workload, service.settings, service.objectives
    )


def asked_trace(trace: str | Path | TraceOptions, seed: int) -> TraceOptions:
    """Return how a workload is asked for, by its name alone or with options."""
    return trace if isinstance(trace, TraceOptions) else TraceOptions(trace=str(trace), seed=seed)


def chosen_settings(
    saved: SavedPlan, workload: TraceWorkload, options: ServingOptions
) -> ContinuousSettings:
    """Return settings as options say, then as the plan file says, then by default.

    Raises:
        InputError: the limits contradict each other.
    """
    given: dict[str, Any] = {
        "token_budget": options.token_budget,
        "sequence_limit": options.sequence_limit,
        "chunked_prefill": options.chunked_prefill,
        "prefix_caching": options.prefix_caching,
        "admission": options.admission,
        "chunk_tokens": options.chunk_tokens,
        "batches_in_flight": options.batches_in_flight,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if saved.serving is not None:
        budget = options.token_budget or saved.serving.token_budget
        planned: dict[str, Any] = {"sequence_limit": min(saved.serving.sequence_limit, budget)}
        if options.chunked_prefill is False:
            planned["chunk_tokens"] = None
        return replace(saved.serving, **planned | given)
    return default_settings(saved.task.costs.scenario.model, workload, **given)


def service_objectives(options: ServingOptions) -> ServiceObjectives | None:
    """Return the objectives that options give, None where there is none.

    Raises:
        InputError: a limit is not positive, or the attainment is no share.
    """
    limits_s = []
    for name, limit_ms in (
        ("--slo-ttft-ms", options.ttft_ms),
        ("--slo-tpot-ms", options.tpot_ms),
        ("--slo-e2e-ms", options.latency_ms),
    ):
        if limit_ms is not None and not 0 < limit_ms < float("inf"):
            raise InputError(f"{name}: expected a positive number of milliseconds, got {limit_ms}")
        limits_s.append(None if limit_ms is None else limit_ms * MS)
    share = options.attainment
    if share is not None and not 0 < share <= 1:
        raise InputError(f"--attainment: expected a share above 0 and up to 1, got {share}")
    return None if limits_s == [None] * 3 else ServiceObjectives(*limits_s)
