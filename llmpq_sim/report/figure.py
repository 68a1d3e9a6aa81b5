"""Figure of a service's latencies, drawn by Matplotlib where it is installed."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.files import check_writable, whole_file
from llmpq_sim.simulator.continuous.service import FloatArray, Service

ENDINGS = (".png", ".svg")
SIZE_INCHES = (10.0, 6.5)
PARTS = 60
"""Parts of the span of arrivals over which percentiles are taken."""


def check_figure(path: Path) -> None:
    """Check that a figure could be written, before work is done for it.

    Raises:
        InputError: the ending is no picture's, Matplotlib is missing, or the folder is closed.
    """
    if path.suffix not in ENDINGS:
        raise InputError(f"--plot: expected a file that ends in .png or .svg, got {path}")
    if find_spec("matplotlib") is None:
        raise InputError('--plot needs Matplotlib: pip install "llmpq[plot]"')
    check_writable(path)


def write_figure(path: Path, service: Service) -> None:
    """Write latencies over the time of arrival, and their distributions.

    The same service gives the same bytes with the same version of Matplotlib.

    Raises:
        InputError: it cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "llmpq", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        _draw(figure, service)
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        with whole_file(path) as stream:
            figure.savefig(stream, format=path.suffix[1:], dpi=150, metadata=metadata)


def _draw(figure: Any, service: Service) -> None:
    workload = service.workload
    figure.suptitle(f"{workload.name} on {service.costs.cluster.name}, {service.costs.model.name}")
    above, below = figure.subplots(2, 2)
    arrival_s = workload.arrival_s[service.served]
    limits = service.objectives
    named = (
        ("time to first token", service.ttft_s, limits and limits.ttft_s),
        ("time to last token", service.latency_s, limits and limits.latency_s),
    )
    for axes, (name, value_s, limit_s) in zip(above, named, strict=True):
        _draw_over_time(axes, arrival_s, value_s)
        axes.set(xlabel="arrival (s)", ylabel=f"{name} (s)")
        if limit_s is not None:
            axes.axhline(limit_s, color="black", linestyle=":", linewidth=1, label="SLO")
        if axes.lines:
            axes.legend(frameon=False)
    for axes, (name, value_s, limit_s) in zip(below, named, strict=True):
        if len(value_s):
            share = np.arange(1, len(value_s) + 1) / len(value_s)
            axes.step(np.sort(value_s), share, where="post", color="tab:blue")
        axes.set(xlabel=f"{name} (s)", ylabel="share of requests", xscale="log", ylim=(0, 1))
        if limit_s is not None:
            axes.axvline(limit_s, color="black", linestyle=":", linewidth=1)


def _draw_over_time(axes: Any, arrival_s: FloatArray, value_s: FloatArray) -> None:
    if not len(arrival_s):
        return
    edges = np.linspace(0.0, float(arrival_s[-1]) or 1.0, PARTS + 1)
    part = np.minimum(np.searchsorted(edges, arrival_s, side="right") - 1, PARTS - 1)
    kept = np.unique(part)
    middles = (edges[kept] + edges[kept + 1]) / 2
    for percent, colour in ((50, "tab:blue"), (99, "tab:red")):
        lines = [float(np.percentile(value_s[part == number], percent)) for number in kept]
        axes.plot(middles, lines, color=colour, linewidth=1.2, label=f"p{percent}")
    axes.set_ylim(bottom=0)
