"""Report of a sweep of closed loops: a row for each number of requests in flight."""

from typing import Any

from rich.console import Console

from llmpq_sim.api.sweeping import Sweep, SweepPoint
from llmpq_sim.report.capacity import capacity_content, capacity_parts
from llmpq_sim.report.console import labelled, new_table, print_to, width_of
from llmpq_sim.report.formatting import percent_text, rate_text, seconds_text, span_text
from llmpq_sim.report.service import service_scenario_parts
from llmpq_sim.simulator.continuous.capacity import service_capacity

SWEEP_SCHEMA = "llmpq/concurrency-sweep"
VERSION = 1


def sweep_content(sweep: Sweep) -> dict[str, Any]:
    """Return a sweep as plain data, a row for each loop."""
    workload = sweep.replay.service.workload
    return {
        "schema": SWEEP_SCHEMA,
        "version": VERSION,
        "trace": workload.name,
        "requests": workload.requests,
        "seed": sweep.replay.seed,
        "capacity": capacity_content(service_capacity(sweep.replay.service)),
        "notes": list(workload.notes),
        "sweep": [_point_content(point) for point in sweep.points],
    }


def _point_content(point: SweepPoint) -> dict[str, Any]:
    result = point.result
    return {
        "concurrency": point.concurrency,
        "tokens_per_s": result.tokens_per_s,
        "tokens_per_s_per_user": point.tokens_per_s_per_user,
        "requests_per_s": result.requests_per_s,
        "ttft_mean_s": result.ttft_s.mean,
        "ttft_p99_s": result.ttft_s.p99,
        "tpot_mean_s": result.tpot_s.mean,
        "tpot_p99_s": result.tpot_s.p99,
        "latency_mean_s": result.latency_s.mean,
        "latency_p99_s": result.latency_s.p99,
        "refused": result.refused,
        "preemptions": result.preemptions,
        "slo_attainment": result.slo_attainment,
    }


def show_sweep(console: Console, sweep: Sweep) -> None:
    """Write what is served where, and a row for each loop."""
    service, width = sweep.replay.service, width_of(console)
    capacity = service_capacity(service)
    in_flight = f"{span_text(point.concurrency for point in sweep.points)} in flight"
    facts = [
        ("scenario", service_scenario_parts(service, in_flight)),
        ("capacity", capacity_parts(capacity)),
    ]
    print_to(console, labelled(facts, width))
    has_slo = sweep.points[0].result.slo_attainment is not None
    columns = ["in flight", "tokens/s", "per user", "requests/s"]
    columns += ["TTFT mean", "p99", "TPOT mean", "p99 "]
    columns += ["meet the SLO"] if has_slo else []
    table = new_table(*columns, right=columns)
    for point in sweep.points:
        result = point.result
        times = (result.ttft_s.mean, result.ttft_s.p99, result.tpot_s.mean, result.tpot_s.p99)
        cells = [
            str(point.concurrency),
            rate_text(result.tokens_per_s),
            rate_text(point.tokens_per_s_per_user),
            rate_text(result.requests_per_s),
            *map(seconds_text, times),
        ]
        if result.slo_attainment is not None:
            cells.append(percent_text(result.slo_attainment, 1))
        table.add_row(*cells)
    print_to(console, "", table)
