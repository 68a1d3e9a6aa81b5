"""Made-up devices and measurements of kernels, which latency models are fitted to in tests."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.units import GIB, MIB
from llmpq_sim.io.measurements import NUMBERS, TEXTS
from llmpq_sim.latency.fitting.rows import Measurements
from llmpq_sim.latency.work import attention_sizes, gemm_sizes

WIDTHS = (1024.0, 2048.0, 4096.0, 8192.0)
TOKENS = (1.0, 4.0, 16.0, 64.0, 1024.0, 4096.0)
LAYOUTS = ((8.0, 8.0), (16.0, 4.0), (16.0, 8.0), (32.0, 4.0), (32.0, 8.0), (64.0, 8.0))


def lab_device(**changes: Any) -> Device:
    """Return a device of 100 TFLOPS and 1 TB/s, half and 0.8 of which it sustains."""
    facts: dict[str, Any] = {
        "name": "lab",
        "memory_bytes": 40 * GIB,
        "memory_bytes_per_s": 1e12,
        "flops_per_s": 1e14,
        "multiprocessors": 100,
        "l2_bytes": MIB,
        "compute_fraction": 0.5,
        "memory_fraction": 0.8,
        "formats": ("fp16", "bf16", "int8", "int4", "int3"),
        "kernels": ("spec",),
        "source": "made up",
    }
    return Device(**{**facts, **changes})


def measured(rows: Sequence[Mapping[str, Any]]) -> Measurements:
    """Return rows as columns; what a row lacks is absent."""
    columns: dict[str, Any] = {
        name: np.asarray([row.get(name, "") for row in rows], np.str_) for name in TEXTS
    }
    columns |= {
        name: np.asarray([row.get(name, np.nan) for row in rows], np.float64) for name in NUMBERS
    }
    return Measurements(**columns)


def gemm_row(**changes: Any) -> dict[str, Any]:
    """Return a timed matrix product."""
    row = {"op": "gemm", "quant": "fp16", "m": 16, "n": 4096, "k": 4096, "latency_us": 50.0}
    return row | changes


def attention_row(**changes: Any) -> dict[str, Any]:
    """Return a timed attention kernel."""
    row: dict[str, Any] = {"op": "attention", "phase": "decode", "batch": 4, "seq": 1023}
    row |= {"heads": 32, "kv_heads": 8, "head_dim": 128, "kv_bits": 16, "latency_us": 30.0}
    return row | changes


def gemm_grid(
    quant: str = "fp16", weight_bits: float = 16, widths: Sequence[float] = WIDTHS
) -> list[dict[str, Any]]:
    """Return products that take 5 us and sustain 50 TFLOPS and 0.8 TB/s: 6 rows a shape."""
    rows = []
    for tokens, n, k in product(TOKENS, widths, widths):
        sizes = gemm_sizes(tokens, n, k)
        work_s = max(float(sizes.flops) / 50e12, float(sizes.moved_bytes(weight_bits)) / 0.8e12)
        rows.append(gemm_row(quant=quant, m=tokens, n=n, k=k, latency_us=5 + work_s * 1e6))
    return rows


def attention_grid(phase: str) -> list[dict[str, Any]]:
    """Return attention that takes 5 us and sustains 50 TFLOPS and then 0.8 TB/s: 96 rows."""
    rows = []
    for (heads, kv), batch, seq in product(
        LAYOUTS, (1.0, 4.0, 16.0, 64.0), (16.0, 64.0, 256.0, 1024.0)
    ):
        terms = attention_sizes(batch, seq, heads, kv, 128).terms(phase, 100)
        work_s = float(terms[0]) / 50e12 + float(terms[1]) / 0.8e12
        sizes = {"batch": batch, "seq": seq, "heads": heads, "kv_heads": kv}
        rows.append(attention_row(phase=phase, latency_us=5 + work_s * 1e6, **sizes))
    return rows
