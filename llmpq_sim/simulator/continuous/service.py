"""Service of a trace by a plan, with all that its figures follow from."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.cluster import Cluster
from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.memory import StageMemory
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.result import SimulationResult
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.core.units import gib_apart
from llmpq_sim.simulator.continuous.checked import checked_service
from llmpq_sim.simulator.continuous.compilation import (
    ServingCosts,
    compile_pipeline,
    stage_fixed_bytes,
    stage_memory,
)
from llmpq_sim.simulator.continuous.mixed_costs import Pipeline
from llmpq_sim.simulator.continuous.recurrence import compute_service
from llmpq_sim.simulator.continuous.service_times import ServiceTimes, service_result
from llmpq_sim.simulator.continuous.settings import ContinuousSettings, ServiceObjectives
from llmpq_sim.simulator.continuous.watch import Watch

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Service:
    """A plan that serves a trace.

    Attributes:
        plan: stages on devices.
        costs: model, cluster and profiles.
        settings: of the scheduler.
        objectives: what a request must meet to be good, or None.
        pipeline: the plan compiled with these settings.
        workload: which requests arrive when.
        times: when each is served.
        result: the metrics.
    """

    plan: Plan
    costs: ServingCosts
    settings: ContinuousSettings
    objectives: ServiceObjectives | None
    pipeline: Pipeline
    workload: TraceWorkload
    times: ServiceTimes
    result: SimulationResult

    @property
    def usd_per_million_tokens(self) -> float | None:
        """What a million output tokens cost, or None without prices or tokens."""
        return usd_per_million_tokens(self.plan, self.costs.cluster, self.result)

    @property
    def memory(self) -> tuple[StageMemory, ...]:
        """What each stage needs at most, by purpose; of the KV cache, the blocks in use at once."""
        costs, blocks = self.costs, self.times.peak_blocks
        return stage_memory(self.plan, costs.model, costs.cluster, self.settings, blocks)

    @property
    def memory_bytes(self) -> tuple[int, ...]:
        """What each stage needs at most: all but the KV cache, and the blocks in use at once."""
        return tuple(stage.total_bytes for stage in self.memory)

    @property
    def limit_bytes(self) -> tuple[int, ...]:
        """Memory of each stage's device."""
        return tuple(stage.limit_bytes for stage in self.memory)

    @property
    def served(self) -> NDArray[np.bool_]:
        """Which requests were not refused."""
        return ~np.isnan(self.times.first_s)

    @property
    def ttft_s(self) -> FloatArray:
        """Time to first token of each request that was served."""
        waited_s: FloatArray = (self.times.first_s - self.times.arrival_s)[self.served]
        return waited_s

    @property
    def latency_s(self) -> FloatArray:
        """Time to last token of each request that was served."""
        took_s: FloatArray = (self.times.last_s - self.times.arrival_s)[self.served]
        return took_s

    def of(self, workload: TraceWorkload) -> "Service":
        """Return the service of a workload with no longer requests, as the recurrence says."""
        times = compute_service(self.pipeline, workload, self.settings)
        result = service_result(times, workload, self.pipeline, self.objectives)
        return replace(self, workload=workload, times=times, result=result)


def serve(
    plan: Plan,
    costs: ServingCosts,
    workload: TraceWorkload,
    settings: ContinuousSettings,
    objectives: ServiceObjectives | None = None,
    watch: Watch | None = None,
) -> Service:
    """Return what happens when a plan serves a trace, simulated in SimPy as far as is quick.

    Args:
        plan: stages on devices of the cluster that hold all layers.
        costs: block times of the model on the cluster.
        workload: which requests arrive when.
        settings: limits and choices of the scheduler.
        objectives: what a request must meet to count for the goodput.
        watch: who is told of batches and steps.

    Raises:
        InfeasibleError: a stage has no room for any KV cache.
        InputError: prefixes are to be cached whose blocks are no multiple of KV blocks.
        InternalError: the SimPy model and the recurrence disagree.
    """
    pipeline = compile_pipeline(plan, costs, settings)
    check_room(plan, costs, settings, pipeline)
    times = checked_service(pipeline, workload, settings, watch)
    result = service_result(times, workload, pipeline, objectives)
    return Service(plan, costs, settings, objectives, pipeline, workload, times, result)


def check_room(
    plan: Plan, costs: ServingCosts, settings: ContinuousSettings, pipeline: Pipeline
) -> None:
    """Raise InfeasibleError if some stage has no room for any KV cache."""
    fixed_bytes = stage_fixed_bytes(plan, costs.model, costs.cluster, settings)
    for number, (stage, blocks) in enumerate(zip(plan.stages, pipeline.blocks, strict=True)):
        if blocks == 0:
            place = costs.cluster.index(stage.device, "plan")
            limit_bytes = costs.cluster.devices[place].device.memory_bytes
            needs, has = gib_apart(fixed_bytes[number], limit_bytes)
            raise InfeasibleError(
                f"does not fit: stage {number} on {stage.device} needs "
                f"{needs} GiB beside any KV cache, has {has}; "
                "lower --token-budget, or search for a plan for this trace"
            )


def usd_per_million_tokens(plan: Plan, cluster: Cluster, result: SimulationResult) -> float | None:
    """Return what a million output tokens cost on the devices that the plan uses.

    None where the price of one of them is not known, or nothing was generated.
    """
    places = [cluster.index(stage.device, "plan") for stage in plan.stages]
    prices = [cluster.devices[place].device.price_usd_per_hour for place in places]
    known = [price for price in prices if price is not None]
    if len(known) < len(prices) or not result.tokens_per_s:
        return None
    return sum(known) / 3600 / result.tokens_per_s * 1e6
