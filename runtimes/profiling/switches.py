"""Kernel crossover: tokens from which decoding weights before the product is faster."""

from collections.abc import Iterable
from pathlib import Path

from llmpq_sim.core.formats import format_spelled
from llmpq_sim.io.measurements import read_measurements
from llmpq_sim.latency.fitting.crossover import kernel_crossovers
from runtimes.torch_pipeline.weights.linear import NEVER


def dense_from_tokens(rows: Path, formats: Iterable[str]) -> dict[str, int]:
    """Return for each format the tokens from which its dense kernel is used, as a fit finds it.

    Args:
        rows: timings of matrix products.
        formats: weight formats.

    Raises:
        InputError: the rows cannot be read.
    """
    measured = read_measurements(rows)
    found = kernel_crossovers(measured.where(measured.op == "gemm"))
    return {name: found.get(format_spelled(name), NEVER) for name in formats}
