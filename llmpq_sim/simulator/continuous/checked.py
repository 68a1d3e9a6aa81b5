"""Service times for figures that are shown: the SimPy model, checked by the recurrence."""

import numpy as np

from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.simulator.agreement import check_figure, check_instants
from llmpq_sim.simulator.continuous.engine import simulate_service
from llmpq_sim.simulator.continuous.mixed_costs import Pipeline
from llmpq_sim.simulator.continuous.recurrence import compute_service
from llmpq_sim.simulator.continuous.service_times import ServiceTimes
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from llmpq_sim.simulator.continuous.watch import Watch
from llmpq_sim.workloads.shaping import head

MOST_REQUESTS = 2_000
MOST_TOKENS = 500_000
MOST_STEPS = 25_000
"""First requests, output tokens of theirs, and steps of all stages together that are simulated
where nobody watches: half a second to a second. Of longer traces, the rest is what the recurrence
says, which agreed until then."""


def checked_service(
    pipeline: Pipeline,
    workload: TraceWorkload,
    settings: ContinuousSettings,
    watch: Watch | None = None,
) -> ServiceTimes:
    """Return when each request of a trace is served.

    Args:
        pipeline: a plan compiled with these settings.
        workload: which requests arrive when.
        settings: limits and choices of the scheduler.
        watch: who is told of what SimPy simulates, and how long; by default nobody.

    Raises:
        InternalError: simulation and recurrence disagree.
    """
    computed = compute_service(pipeline, workload, settings)
    first = workload if watch else first_requests(workload)
    part = computed if first is workload else compute_service(pipeline, first, settings)
    watch = watch or Watch(most_steps=MOST_STEPS)
    simulated = simulate_service(pipeline, first, settings, watch)
    is_whole = part.batches * len(pipeline.stages) < watch.most_steps
    check_service(simulated, part, is_whole=is_whole)
    return simulated if is_whole and first is workload else computed


def first_requests(workload: TraceWorkload) -> TraceWorkload:
    """Return as many of the first requests as are simulated where nobody watches."""
    within = np.cumsum(workload.output_tokens) <= MOST_TOKENS
    most = max(min(int(within.sum()), MOST_REQUESTS), 1)
    return workload if most >= workload.requests else head(workload, most)


def check_service(simulated: ServiceTimes, computed: ServiceTimes, *, is_whole: bool) -> None:
    """Check that the SimPy model and the recurrence agree.

    Args:
        simulated: by SimPy.
        computed: by the recurrence.
        is_whole: whether all was simulated; otherwise only instants are compared, those reached.

    Raises:
        InternalError: they differ.
    """
    check_instants("arrival of request", simulated.arrival_s, computed.arrival_s)
    check_instants("first token of request", simulated.first_s, computed.first_s)
    check_instants("last token of request", simulated.last_s, computed.last_s)
    if not is_whole:
        return
    served = (int((~np.isnan(times.last_s)).sum()) for times in (simulated, computed))
    check_figure("requests served", *served)
    for name in ("batches", "busy_s", "preemptions", "peak_blocks", "reused_tokens", "phases"):
        check_figure(name, getattr(simulated, name), getattr(computed, name))
    check_figure("gaps", simulated.gaps.summary(0.0), computed.gaps.summary(0.0))
