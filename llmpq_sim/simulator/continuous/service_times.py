"""Request timings of a simulated service, and the metrics that follow."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.result import SimulationResult, Summary
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.simulator.continuous.gaps import Gaps
from llmpq_sim.simulator.continuous.mixed_costs import Pipeline
from llmpq_sim.simulator.continuous.settings import ContinuousSettings, ServiceObjectives
from llmpq_sim.simulator.phases import Phases

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class ServiceTimes:
    """What happened to each request and to the stages.

    Attributes:
        arrival_s: when each request arrived, or was let into a closed loop; not a number for those
            that never were.
        first_s, last_s: when each request's first and last token was sampled, not a number for
            those refused.
        gaps: between tokens of one request.
        batches: how many passed the pipeline.
        busy_s: how long each stage computed.
        preemptions: how often a sequence lost its blocks.
        peak_blocks: most KV blocks in use at once.
        reused_tokens: prompt tokens not computed because their blocks were there.
        phases: how long prompts were prefilled and tokens decoded.
    """

    arrival_s: FloatArray
    first_s: FloatArray
    last_s: FloatArray
    gaps: Gaps
    batches: int
    busy_s: tuple[float, ...]
    preemptions: int
    peak_blocks: int
    reused_tokens: int
    phases: Phases


def can_be_served(
    workload: TraceWorkload,
    settings: ContinuousSettings,
    capacity: int,
    bounded_blocks: Sequence[int] = (),
) -> NDArray[np.bool_]:
    """Return for each request whether prompt and output fit the context and all blocks."""
    blocks = -(-workload.context_tokens // settings.block_tokens)
    if bounded_blocks:
        blocks = blocks + np.array(bounded_blocks)[np.minimum(blocks, len(bounded_blocks) - 1)]
    fits = workload.context_tokens <= settings.longest_context_tokens
    return np.asarray(fits & (blocks <= capacity), np.bool_)


def unknown_arrivals(workload: TraceWorkload) -> FloatArray:
    """Return the arrivals that are known before any request is served: none of a closed loop."""
    if workload.concurrency is None:
        return workload.arrival_s.copy()
    return np.full(workload.requests, np.nan)


def service_result(
    times: ServiceTimes,
    workload: TraceWorkload,
    pipeline: Pipeline,
    objectives: ServiceObjectives | None,
) -> SimulationResult:
    """Return the metrics of a service, defined as vLLM does.

    TTFT is the first token's instant less the arrival; TPOT the time from first to last token
    over the tokens after the first, where there are any; ITL every gap between two tokens.
    """
    served = ~np.isnan(times.first_s)
    arrival_s, outputs = times.arrival_s[served], workload.output_tokens[served]
    first_s, last_s = times.first_s[served], times.last_s[served]
    ttft_s, latency_s = first_s - arrival_s, last_s - arrival_s
    several = outputs > 1
    streaming_s = (last_s - first_s)[several]
    tpot_s = streaming_s / (outputs[several] - 1)
    gaps = int((outputs - 1).sum())
    return SimulationResult(
        requests=workload.requests,
        finished=int(served.sum()),
        output_tokens=int(outputs.sum()),
        makespan_s=float(last_s.max()) if served.any() else 0.0,
        ttft_s=Summary.of(ttft_s.tolist()),
        tpot_s=Summary.of(tpot_s.tolist()),
        latency_s=Summary.of(latency_s.tolist()),
        stage_busy_s=times.busy_s,
        stage_steps=times.batches * len(pipeline.stages),
        itl_s=times.gaps.summary(float(streaming_s.sum() / gaps) if gaps else 0.0),
        refused=int((~served).sum()),
        preemptions=times.preemptions,
        reused_prompt_tokens=times.reused_tokens,
        kv_peak_fraction=tuple(
            times.peak_blocks / blocks if blocks else 0.0 for blocks in pipeline.blocks
        ),
        good=None if objectives is None else _good(objectives, ttft_s, tpot_s, several, latency_s),
    )


def _good(
    objectives: ServiceObjectives,
    ttft_s: FloatArray,
    tpot_s: FloatArray,
    several: NDArray[np.bool_],
    latency_s: FloatArray,
) -> int:
    """Return how many requests met every limit; one with a single token has no TPOT to miss."""
    every_tpot_s = np.zeros_like(ttft_s)
    every_tpot_s[several] = tpot_s
    limits = (
        (ttft_s, objectives.ttft_s),
        (every_tpot_s, objectives.tpot_s),
        (latency_s, objectives.latency_s),
    )
    met = [values <= limit for values, limit in limits if limit is not None]
    return int(np.all(met, axis=0).sum()) if met else len(ttft_s)
