"""Report on the paper's evaluation: Markdown, CSV, and plain data for programs."""

import csv
from dataclasses import asdict
from io import StringIO
from statistics import median
from typing import Any

import llmpq_sim
from llmpq_sim.core.records import to_dict
from llmpq_sim.core.units import MS
from llmpq_sim.paper.case_files import plan_content
from llmpq_sim.paper.cases import KERNEL_SETS
from llmpq_sim.paper.findings import (
    error_fraction,
    geometric_mean,
    low_bit_share,
    measured_results,
    rankings,
    speedups,
)
from llmpq_sim.paper.implied_decode_times import DEVICE, implied_decode_times
from llmpq_sim.paper.logged import LOGGED_CASE, LoggedPrediction
from llmpq_sim.paper.measurements import CLUSTERS
from llmpq_sim.paper.methods import METHODS
from llmpq_sim.report.formatting import loss_text, percent_text, rate_text

SCHEMA = "llmpq/reproduction"
VERSION = 1
NONE = "-"

FIELDS = (
    "cluster",
    "workload",
    "gamma",
    "kernels",
    "method",
    "feasible",
    "tokens_per_s",
    "quality_loss",
    "solver_s",
    "gap_fraction",
    "measured_tokens_per_s",
)
"""Columns of the CSV: the fields of a result that are single values."""

Content = dict[str, Any]


def reproduction_content(results: list[Content], logged: list[LoggedPrediction]) -> Content:
    """Return everything as JSON content in SI units."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "llmpq_version": llmpq_sim.__version__,
        "results": results,
        "rankings": [asdict(ranking) for ranking in rankings(results)],
        "logged_plans": [_logged_content(one) for one in logged],
        "missing_times": to_dict(implied_decode_times()),
    }


def csv_text(results: list[Content], fields: tuple[str, ...] = FIELDS) -> str:
    """Return a line for each result with these fields of it; an absent value is empty."""
    text = StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(fields)
    table.writerows([one[name] for name in fields] for one in results)
    return text.getvalue()


def markdown(results: list[Content], logged: list[LoggedPrediction]) -> str:
    """Return the report; it has no times of solvers, so that it is the same for the same inputs."""
    parts = ["# LLM-PQ's evaluation, simulated", *_logged_part(logged)]
    if measured_results(results):
        parts += _measured_part(results)
    for kernels in dict.fromkeys(one["kernels"] for one in results):
        own = [one for one in results if one["kernels"] == kernels]
        for workload in dict.fromkeys(one["workload"] for one in own):
            of_workload = [one for one in own if one["workload"] == workload]
            parts += _throughput_part(f"{kernels}, {workload}", of_workload)
    parts += _kernels_part(results)
    return "\n\n".join(parts) + "\n"


def table(headings: tuple[str, ...], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _logged_part(logged: list[LoggedPrediction]) -> list[str]:
    rows = [
        [
            one.logged.method,
            f"{one.logged.tokens_per_s:.2f}",
            *_with_error(one.from_stage_costs, one.logged.tokens_per_s),
            *_with_error(one.from_kernels, one.logged.tokens_per_s),
        ]
        for one in logged
    ]
    headings = ("plan of", "measured", "from logged stage costs", "error", "from kernels", "error")
    return [
        f"## The two plans that ran on cluster {LOGGED_CASE.cluster} in August 2023, tokens/s",
        table(headings, rows),
        "The stage costs are those of the authors' own latency model; they show what the pipeline "
        "alone explains. The kernels are those of the profile `gptq-2023`. " + _missing_sentence(),
    ]


def _missing_sentence() -> str:
    """Return which decode times would explain both throughputs."""
    missing = implied_decode_times()
    return (
        f"From these, both plans are as slow as measured if an 8-bit layer of {DEVICE} takes "
        f"{missing.layer_s / MS:.1f} ms in decode, not {missing.timed_layer_s / MS:.1f}, and each "
        f"stage visit {missing.step_s / MS:.0f} ms more."
    )


def _with_error(predicted: float, measured: float) -> tuple[str, str]:
    return f"{predicted:.2f}", f"{100 * (predicted / measured - 1):+.0f} %"


def _measured_part(results: list[Content]) -> list[str]:
    rows = [
        [
            str(one["cluster"]),
            one["method"],
            f"{one['measured_tokens_per_s']:.2f}",
            _rate(one),
            _error(one),
        ]
        for one in measured_results(results)
    ]
    found = rankings(results)
    every = [error_fraction(one) for one in measured_results(results)]
    errors = [abs(error) for error in every if error is not None] or [0.0]
    right, pairs = sum(one.right for one in found), sum(one.pairs for one in found)
    by_cluster = ", ".join(f"{one.cluster}: {one.right} of {one.pairs}" for one in found)
    return [
        "## Each method's own plan against the authors' logs, tokens/s",
        table(("cluster", "method", "measured", "predicted", "error"), rows),
        f"Median error {percent_text(median(errors))} of {len(errors)} throughputs. Pairs of "
        f"methods in the measured order: {right} of {pairs} (cluster {by_cluster}).",
    ]


def _error(result: Content) -> str:
    error = error_fraction(result)
    return NONE if error is None else f"{100 * error:+.0f} %"


def _rate(result: Content) -> str:
    return rate_text(result["tokens_per_s"]) if result["feasible"] else NONE


def _throughput_part(title: str, results: list[Content]) -> list[str]:
    rows, losses = [], []
    for cluster in dict.fromkeys(one["cluster"] for one in results):
        own = {one["method"]: one for one in results if one["cluster"] == cluster}
        gap = own["llmpq"]["gap_fraction"]
        rows.append(
            [
                f"{cluster} ({CLUSTERS[cluster].model})",
                *(_rate(own[method]) for method in METHODS),
                NONE if gap is None else percent_text(gap, 1),
            ]
        )
        losses.append([str(cluster), *(_loss(own[method]) for method in METHODS)])
    return [
        f"## Throughput with {title}, tokens/s",
        table(("cluster", *METHODS, "gap of llmpq"), rows),
        "Quality loss of these plans, nominal nats:",
        table(("cluster", *METHODS), losses),
    ]


def _loss(result: Content) -> str:
    return NONE if result["quality_loss"] is None else loss_text(result["quality_loss"])


def _kernels_part(results: list[Content]) -> list[str]:
    sentences = []
    for kernels in KERNEL_SETS:
        own = [one for one in results if one["kernels"] == kernels]
        gains = speedups(own)
        if gains:
            sentences.append(
                f"With {kernels}, our plan is {geometric_mean(gains):.2f}x as fast as the best "
                f"baseline (geometric mean of {len(gains)} cases, most {max(gains):.2f}x), and "
                f"{percent_text(low_bit_share(own))} of its layers have 4 bits or fewer."
            )
    if len(sentences) < len(KERNEL_SETS):
        return []
    return ["## Which conclusions depend on the kernels", " ".join(sentences)]


def _logged_content(one: LoggedPrediction) -> Content:
    return {
        "cluster": LOGGED_CASE.cluster,
        "method": one.logged.method,
        "plan": plan_content(one.logged.plan),
        "measured_tokens_per_s": one.logged.tokens_per_s,
        "tokens_per_s_from_kernels": one.from_kernels,
        "tokens_per_s_from_stage_costs": one.from_stage_costs,
    }
