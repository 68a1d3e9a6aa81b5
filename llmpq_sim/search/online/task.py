"""Planning task of a trace."""

from dataclasses import dataclass
from math import ceil, inf, log2
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

        Goodput and throughput (output tokens/s) count negatively. Cost is in USD per million output
        tokens; where requests have objectives to meet, only the share of tokens of as many good
        requests counts.
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
                cost = usd_per_million_tokens(plan, self.costs.cluster, result)
                share = 1.0 if result.good is None else result.good / result.requests
                return inf if cost is None or share == 0 else cost / share

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
