"""JSON of a plan's service of a trace, in SI units."""

from dataclasses import asdict
from math import isfinite

import llmpq_sim
from llmpq_sim.api.replaying import Replay
from llmpq_sim.core.result import SimulationResult, Summary
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.io.workloads import workload_sha256
from llmpq_sim.report.json_reports import SIMULATION_SCHEMA, VERSION, Content
from llmpq_sim.report.summary import error_fraction, used_profiles
from llmpq_sim.simulator.continuous.max_rate import MaxRate
from llmpq_sim.simulator.continuous.saturation import Queue
from llmpq_sim.simulator.continuous.service import Service
from llmpq_sim.simulator.continuous.settings import settings_to_content


def replay_content(replay: Replay) -> Content:
    """Return a service as plain data without NaN or infinity."""
    service = replay.service
    return {
        "schema": SIMULATION_SCHEMA,
        "version": VERSION,
        "llmpq_version": llmpq_sim.__version__,
        **service_content(service),
        "error_fraction": error_fraction(used_profiles(service.plan, replay.saved.task)),
        "queue": _queue(replay.queue),
        "max_rate": replay.max_rate and _max_rate(replay.max_rate),
        "trace": trace_content(service.workload),
        "settings": settings_to_content(service.settings),
        "objectives": service.objectives and asdict(service.objectives),
        "notes": replay_notes(replay),
        "seed": replay.seed,
        "wall_seconds": replay.wall_seconds,
    }


def service_content(service: Service) -> Content:
    """Return the metrics of a service, its memory and its price as plain data."""
    return {
        **result_content(service.result),
        "stage_memory_bytes": list(service.memory_bytes),
        "stage_memory_limit_bytes": list(service.limit_bytes),
        "usd_per_million_tokens": service.usd_per_million_tokens,
    }


def result_content(result: SimulationResult) -> Content:
    """Return the metrics of a simulated service as plain data."""
    return {
        "requests": result.requests,
        "finished": result.finished,
        "refused": result.refused,
        "output_tokens": result.output_tokens,
        "makespan_s": finite(result.makespan_s),
        "tokens_per_s": finite(result.tokens_per_s),
        "requests_per_s": finite(result.requests_per_s),
        "ttft_s": summary_content(result.ttft_s),
        "tpot_s": summary_content(result.tpot_s),
        "itl_s": summary_content(result.itl_s),
        "latency_s": summary_content(result.latency_s),
        "stage_busy_fraction": list(result.stage_busy_fraction),
        "stage_bubble_fraction": [1 - busy for busy in result.stage_busy_fraction],
        "kv_peak_fraction": list(result.kv_peak_fraction),
        "preemptions": result.preemptions,
        "reused_prompt_tokens": result.reused_prompt_tokens,
        "goodput_per_s": result.goodput_per_s,
        "slo_attainment": result.slo_attainment,
    }


def trace_content(workload: TraceWorkload) -> Content:
    """Return which requests were served: their name, hash and rate."""
    return {
        "name": workload.name,
        "sha256": workload_sha256(workload),
        "rate_per_s": workload.rate_per_s,
        "prompt_tokens": workload.total_prompt_tokens,
        "output_tokens": workload.total_output_tokens,
    }


def replay_notes(replay: Replay) -> list[str]:
    """Return what was assumed, dropped or changed, and whether the plan holds the rate."""
    workload, queue = replay.service.workload, replay.queue
    notes = list(workload.notes)
    if queue.sustained_rate_per_s is not None:
        notes.append(
            f"the queue grows without bound: {workload.rate_per_s:.3g} requests/s arrive, the plan "
            f"could hold about {queue.sustained_rate_per_s:.3g}"
        )
    return notes


def summary_content(summary: Summary) -> Content:
    """Return mean and percentiles as plain data."""
    return {name: finite(value) for name, value in asdict(summary).items()}


def finite(value: float) -> float | None:
    """Return a number as JSON has it; what is none is null."""
    return value if isfinite(value) else None


def _queue(queue: Queue) -> Content:
    return {
        "most_waiting": queue.most,
        "mean_waiting": queue.mean,
        "waiting_at_end": queue.at_end,
        "grows": queue.sustained_rate_per_s is not None,
        "sustained_rate_per_s": queue.sustained_rate_per_s,
    }


def _max_rate(highest: MaxRate) -> Content:
    return asdict(highest)
