"""Planning task of a trace."""

from dataclasses import dataclass
from math import ceil, log2
from typing import Literal

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.result import SimulationResult
from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.rate_certificate import RateCertificate
from llmpq_sim.simulator.continuous.compilation import ServingCosts
from llmpq_sim.simulator.continuous.service import usd_per_million_tokens
from llmpq_sim.simulator.continuous.settings import ContinuousSettings, ServiceObjectives

Objective = Literal["goodput", "throughput", "mean-latency", "p99-latency", "cost"]
OBJECTIVES: tuple[Objective, ...] = ("goodput", "throughput", "mean-latency", "p99-latency", "cost")

COST_ATTAINMENT = 0.95
"""Share of requests that a service sought by cost must be good to, unless told."""

USUAL_TTFT_S = 2.0
USUAL_TPOT_S = 0.1
"""What a request takes where no objective says it, to guess how many are in flight."""

IN_FLIGHT = (8, 64)
"""Requests of the representative batch: a search of larger ones takes long and tells no more."""


@dataclass(frozen=True)
class OnlineTask:
    """Everything a search for a service is asked.

    Attributes:
        batch: the representative batch: formats, quality budget, and the cluster. Its search gives
            plans to start from.
        costs: block times of continuous batching.
        workload: which requests arrive when.
        defaults: settings that other plans are served with; the search starts from them.
        objectives: what a request must meet to count as good, or None.
        objective: what is sought.
        rate: the rate at which no plan serves these requests, proven, or None.
        attainment: share of requests that are to be good: a service sought by cost must reach it.

    Raises:
        InputError: the objective needs something that is not there.
    """

    batch: PlanningTask
    costs: ServingCosts
    workload: TraceWorkload
    defaults: ContinuousSettings
    objectives: ServiceObjectives | None
    objective: Objective
    rate: RateCertificate | None = None
    attainment: float = COST_ATTAINMENT

    def __post_init__(self) -> None:
        if self.objective == "goodput" and self.objectives is None:
            raise InputError(
                "--objective goodput: expected what a good request meets: --slo-ttft-ms, "
                "--slo-tpot-ms or --slo-e2e-ms"
            )
        for member in self.costs.cluster.devices if self.objective == "cost" else ():
            if member.device.price_usd_per_hour is None:
                raise InputError(
                    f"--objective cost: {member.device.name} has no known price; give its "
                    "price_usd_per_hour in a cluster file of your own"
                )

    def value(self, plan: Plan, result: SimulationResult) -> float:
        """Return what is sought as a number that is to be small.

        Goodput and throughput (output tokens/s) count negatively, and so does what a dollar buys
        (output tokens). A service sought by cost that is good to too few requests is worse than any
        that is not, by the share that it lacks.
        """
        match self.objective:
            case "goodput":
                return -(result.goodput_per_s or 0.0)
            case "throughput":
                return -result.tokens_per_s
            case "mean-latency":
                return result.latency_s.mean
            case "p99-latency":
                return result.latency_s.p99
            case "cost":
                return self._lacking(result) or -self._tokens_per_usd(plan, result)

    def attains(self, result: SimulationResult) -> bool:
        """Return whether enough requests are good, where a service is sought by cost."""
        return not self._lacking(result)

    def _lacking(self, result: SimulationResult) -> float:
        """Return the share of requests that are not good and should be."""
        share = result.slo_attainment
        return 0.0 if share is None else max(0.0, self.attainment - share)

    def _tokens_per_usd(self, plan: Plan, result: SimulationResult) -> float:
        cost = usd_per_million_tokens(plan, self.costs.cluster, result)
        return 1e6 / cost if cost else 0.0

    def loss(self, plan: Plan) -> float:
        """Return the quality loss of a plan."""
        return self.batch.quality.plan_loss(plan.layer_formats)


def representative_batch(
    workload: TraceWorkload, objectives: ServiceObjectives | None
) -> BatchWorkload:
    """Return an offline batch like what is in flight: mean lengths, and as many by Little's law.

    Of a closed loop, as many as it has. A request is taken to stay as long as its objectives
    allow; the batch is a power of two, as batches of odd sizes have many more ways to be cut.
    """
    prompt_tokens = ceil(float(workload.prompt_tokens.mean()))
    output_tokens = ceil(float(workload.output_tokens.mean()))
    limits = objectives or ServiceObjectives()
    stay_s = limits.latency_s or (
        (limits.ttft_s or USUAL_TTFT_S) + (limits.tpot_s or USUAL_TPOT_S) * output_tokens
    )
    least, most = IN_FLIGHT
    in_flight = workload.concurrency or most
    if workload.rate_per_s is not None:
        in_flight = ceil(workload.rate_per_s * stay_s)
    requests = min(max(2 ** round(log2(in_flight)), least), most, workload.requests)
    return BatchWorkload(prompt_tokens, (output_tokens,) * requests)
