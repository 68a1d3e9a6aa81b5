"""Benchmark of a search as layers and devices grow: its time, and its gap to the bound.

``python -m tests.benchmarks.bench_scale`` prints the table, with the time of LLM-PQ's integer
program, where each device is a place of its own.
"""

import sys
import time
from typing import Any
from unittest import mock

import pytest

from llmpq_sim.core.cluster import Cluster
from llmpq_sim.core.scenario import Scenario
from llmpq_sim.io.clusters import cluster_from_yaml
from llmpq_sim.io.models import load_model
from llmpq_sim.io.profiles import cluster_profiles
from llmpq_sim.io.tasks import batch_workload, default_formats, planning_task, quality_target
from llmpq_sim.search.baselines.simple import integer_plans
from llmpq_sim.search.bound import problem
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.planner import SearchOutcome, SearchSettings, search

Benchmark = Any

KINDS = (("t4", "pcie-3"), ("v100-32g", "nvlink-2"), ("l4", "pcie-4"), ("a100-40g", "nvlink-3"))
"""Kinds of device, as many of each, with the link inside a node."""

DEVICES_OF_NODE = 8
REQUESTS, PROMPT_TOKENS, OUTPUT_TOKENS = 64, 512, 100

SIZES = ((8, 96), (16, 96), (32, 96), (64, 24), (64, 48), (64, 96))
"""Devices and layers."""

HEADER = "| devices | layers | search s | tokens/s | bound | gap | ILP s |"


def large_cluster(devices: int) -> Cluster:
    """Return a cluster of so many devices of four kinds, in nodes of up to eight."""
    nodes = []
    for kind, link in KINDS:
        left = devices // len(KINDS)
        for number in range(-(-left // DEVICES_OF_NODE)):
            count = min(DEVICES_OF_NODE, left - number * DEVICES_OF_NODE)
            group = {"type": kind, "count": count}
            nodes.append({"name": f"{kind}-node-{number}", "devices": [group], "link": link})
    return cluster_from_yaml(
        {
            "schema": "llmpq/cluster",
            "version": 1,
            "name": f"scale-{devices}",
            "nodes": nodes,
            "between_nodes": "ethernet-100g",
        },
        "bench_scale",
    )


def large_task(devices: int, layers: int) -> PlanningTask:
    """Return the task of serving OPT-175b, cut to so many layers, by data sheets."""
    model, cluster = load_model("opt-175b").with_layers(layers), large_cluster(devices)
    workload = batch_workload(model, REQUESTS, PROMPT_TOKENS, OUTPUT_TOKENS)
    return planning_task(
        Scenario(model, cluster, workload),
        cluster_profiles(cluster, "spec", {}),
        default_formats(model, cluster),
        quality_target("int4"),
    )


@pytest.mark.parametrize(("devices", "layers"), SIZES)
def test_searching_a_large_cluster(benchmark: Benchmark, devices: int, layers: int) -> None:
    def run() -> SearchOutcome:
        return search(large_task(devices, layers), SearchSettings())

    outcome = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info["gap_fraction"] = outcome.gap_fraction


def row(devices: int, layers: int) -> str:
    """Return the line of one size: our search, and LLM-PQ's integer program."""
    task = large_task(devices, layers)
    found = search(task, SearchSettings())
    started_s = time.monotonic()
    with mock.patch.object(problem, "MOST_SINGLE_DEVICES", devices):
        integer_plans(task)
    integer_s = time.monotonic() - started_s
    rate = found.task.costs.scenario.workload.total_output_tokens / found.best.makespan_s
    return (
        f"| {devices} | {layers} | {found.seconds:.1f} | {rate:.1f} | "
        f"{found.bound_tokens_per_s:.1f} | {found.gap_fraction:.2%} | {integer_s:.1f} |"
    )


def main() -> None:
    """Print the table."""
    sys.stdout.write(f"{HEADER}\n|{'--:|' * (HEADER.count('|') - 1)}\n")
    for devices, layers in SIZES:
        sys.stdout.write(f"{row(devices, layers)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
