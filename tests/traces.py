"""Tiny traces for tests: written and read, with the real ones and comparisons of samples."""

import gzip
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.io.traces.loading import load_trace

SHARED = Path(__file__).resolve().parents[1] / "../shared/data/traces"


def rng(seed: int = 0) -> np.random.Generator:
    """Return a generator in a known state."""
    return np.random.default_rng(seed)


def requests(
    arrival_s: list[float], prompt_tokens: list[int] | None = None, **others: Any
) -> TraceWorkload:
    """Return a workload with these arrivals, of prompts of 10 tokens and outputs of 2."""
    count = len(arrival_s)
    return TraceWorkload(
        name="requests",
        arrival_s=np.array(arrival_s, dtype=np.float64),
        prompt_tokens=np.array(prompt_tokens or [10] * count, dtype=np.int64),
        output_tokens=np.full(count, 2, dtype=np.int64),
        **others,
    )


def read(folder: Path, name: str, content: str | bytes, **options: Any) -> TraceWorkload:
    """Return what a file of this name and content loads into."""
    path = folder / name
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return load_trace(path, **{"rng": rng()} | options)


def refusal(folder: Path, name: str, content: str | bytes, **options: Any) -> str:
    """Return the message with which a file is refused."""
    with pytest.raises(InputError) as caught:
        read(folder, name, content, **options)
    return str(caught.value)


def columns(workload: TraceWorkload) -> tuple[list[float], list[int], list[int]]:
    """Return arrivals, prompts and outputs as lists."""
    return (
        workload.arrival_s.tolist(),
        workload.prompt_tokens.tolist(),
        workload.output_tokens.tolist(),
    )


def same(one: TraceWorkload, other: TraceWorkload) -> bool:
    """Return whether two workloads are equal in every field."""
    pairs = [(getattr(one, item.name), getattr(other, item.name)) for item in fields(one)]
    return all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else bool(a == b) for a, b in pairs
    )


def real_trace(name: str, **options: Any) -> TraceWorkload:
    """Return a recorded trace, or skip the test where the recordings are not at hand."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"the recorded trace {name} is not beside this repository")
    return load_trace(path, **{"rng": rng()} | options)


def distance(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the Kolmogorov-Smirnov distance: the largest gap between two empirical CDFs."""
    points = np.concatenate([one, other])
    shares = [
        np.searchsorted(np.sort(sample), points, side="right") / len(sample)
        for sample in (one, other)
    ]
    return float(np.abs(shares[0] - shares[1]).max())


def dispersion(arrival_s: NDArray[np.float64], window_s: float) -> float:
    """Return variance over mean of the counts in whole windows: 1 for a Poisson process."""
    counts = np.bincount((arrival_s // window_s).astype(np.int64))[:-1]
    return float(counts.var() / counts.mean())


def gap_variation(arrival_s: NDArray[np.float64]) -> float:
    """Return the coefficient of variation of the gaps."""
    gaps = np.diff(arrival_s)
    return float(gaps.std() / gaps.mean())
