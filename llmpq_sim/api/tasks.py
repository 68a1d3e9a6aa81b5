"""Planning tasks from names and options as the user gave them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmpq_sim.api.planned import Profiles, own_profiles
from llmpq_sim.api.quality_target import offered_formats
from llmpq_sim.api.replaying import ServingOptions, service_objectives
from llmpq_sim.core.cluster import Cluster
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.scenario import BatchWorkload, Scenario
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.io.clusters import load_cluster
from llmpq_sim.io.profiles import cluster_profiles
from llmpq_sim.io.tasks import (
    QualityTarget,
    batch_workload,
    chosen_formats,
    formats_without_times,
    load_output_lengths,
    planning_task,
)
from llmpq_sim.io.workloads import DEFAULT_REQUESTS, TraceOptions, load_workload
from llmpq_sim.latency.untimed import completed_profiles
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.rate import rate_certificate
from llmpq_sim.search.online.task import (
    COST_ATTAINMENT,
    Objective,
    OnlineTask,
    representative_batch,
)
from llmpq_sim.simulator.continuous.compilation import ServingCosts
from llmpq_sim.simulator.continuous.max_rate import ATTAINMENT
from llmpq_sim.simulator.continuous.settings import ServiceObjectives, default_settings
from llmpq_sim.workloads.shaping import noted


@dataclass(frozen=True)
class TaskOptions:
    """What is planned on what; None where an option was not given.

    Attributes:
        cluster: a bundled name, a file, or the cluster itself.
        formats: allowed formats, in a sequence or with commas between.
        kernels: kernel set for every device.
        profiles: latency profiles of the user's, or files that hold them.
        target: how much quality a plan may lose.
    """

    cluster: str | Path | Cluster
    formats: str | Sequence[str] | None
    kernels: str | None
    profiles: Profiles
    target: QualityTarget


def asked_batch(
    model: ModelSpec,
    requests: int | None,
    prompt_tokens: int | None,
    output_tokens: int | Sequence[int] | Path | None,
) -> BatchWorkload:
    """Return a batch as it is asked for, by default the paper's 32 requests of 512 tokens.

    Raises:
        InputError: see ``batch_workload`` and ``load_output_lengths``.
    """
    if output_tokens is None:
        output_tokens = 128
    elif isinstance(output_tokens, Path):
        output_tokens = load_output_lengths(output_tokens)
    return batch_workload(
        model,
        32 if requests is None else requests,
        512 if prompt_tokens is None else prompt_tokens,
        output_tokens if isinstance(output_tokens, int) else tuple(output_tokens),
    )


def batch_task(
    model: ModelSpec, workload: BatchWorkload, options: TaskOptions
) -> tuple[PlanningTask, list[str]]:
    """Return the task of planning a batch, and what the user should know of times and losses.

    Raises:
        InputError: a name or a file says something that cannot be.
    """
    cluster = _cluster(options)
    text = options.formats
    listed = text if text is None or isinstance(text, str) else ",".join(text)
    allowed, notes = offered_formats(
        chosen_formats(listed, model, cluster), options.target.measured, model.layers
    )
    cluster = cluster.offering(allowed)
    timed = cluster_profiles(cluster, options.kernels, own_profiles(options.profiles))
    profiles, untimed = completed_profiles(cluster, timed, allowed)
    notes = [*formats_without_times(cluster, profiles, allowed), *untimed, *notes]
    scenario = Scenario(model, cluster, workload)
    return planning_task(scenario, profiles, allowed, options.target), notes


def trace_task(
    model: ModelSpec,
    trace: TraceOptions,
    service: ServingOptions,
    objective: Objective | None,
    options: TaskOptions,
) -> tuple[OnlineTask, list[str]]:
    """Return the task of planning for a trace, and what the user should know of its profiles.

    The objective is goodput where requests have limits to meet, throughput of a closed loop, or
    else mean latency, unless told; requests are as many as a simulation draws by default, of a file
    the first ones.

    Raises:
        InputError: a name, a file or an option says something that cannot be.
    """
    objectives = service_objectives(service)
    wanted = replace(trace, requests=trace.requests or DEFAULT_REQUESTS)
    workload = load_workload(wanted, model.max_positions, len(_cluster(options).devices))
    if trace.requests is None:
        workload = noted(workload, f"{workload.requests} requests; --requests for others")
    batch, notes = batch_task(model, representative_batch(workload, objectives), options)
    scenario = batch.costs.scenario
    sought = objective or _objective(workload, objectives)
    if service.attainment is not None and (sought != "cost" or objectives is None):
        raise InputError(
            "--attainment: is the share of requests that meet the SLO of the cheapest service; "
            "give --objective cost and --slo-ttft-ms, --slo-tpot-ms or --slo-e2e-ms as well"
        )
    task = OnlineTask(
        batch=batch,
        costs=ServingCosts(model, scenario.cluster, batch.costs.profiles),
        workload=workload,
        defaults=default_settings(model, workload),
        objectives=objectives,
        rate=rate_certificate(batch, workload),
        objective=sought,
        attainment=service.attainment or (COST_ATTAINMENT if sought == "cost" else ATTAINMENT),
    )
    return task, notes


def _objective(workload: TraceWorkload, objectives: ServiceObjectives | None) -> Objective:
    if objectives is not None:
        return "goodput"
    return "mean-latency" if workload.concurrency is None else "throughput"


def _cluster(options: TaskOptions) -> Cluster:
    cluster = options.cluster
    return cluster if isinstance(cluster, Cluster) else load_cluster(str(cluster))
