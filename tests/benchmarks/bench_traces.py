"""Benchmark of loading a trace of an hour, and of drawing as many requests."""

from pathlib import Path
from typing import Any

from llmpq_sim.io.presets import load_preset
from llmpq_sim.io.traces.loading import load_trace
from llmpq_sim.workloads.generate import synthesize
from tests.traces import rng

ROWS = 19_366


def test_loading_an_hour_of_azure(benchmark: Any, tmp_path: Path) -> None:
    rows = (
        f"2023-11-16 18:{10 + row // 400:02}:{row // 8 % 50 + 10}.{row % 8}123456,{row + 1},44"
        for row in range(ROWS)
    )
    path = tmp_path / "azure.csv"
    path.write_text("\r\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    workload = benchmark(load_trace, path, rng=rng())
    assert workload.requests == ROWS


def test_making_up_an_hour_of_azure(benchmark: Any) -> None:
    preset = load_preset("azure-conv")
    workload = benchmark(lambda: synthesize(preset, ROWS, None, rng()))
    assert workload.requests == ROWS
