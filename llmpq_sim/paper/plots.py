"""Plots of all methods' throughputs on a cluster, predicted beside measured."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from llmpq_sim.io.files import whole_file
from llmpq_sim.paper.measurements import CLUSTERS
from llmpq_sim.paper.methods import METHODS

SIZE_INCHES = (7.0, 3.2)

Content = dict[str, Any]


def write_plots(folder: Path, results: list[Content]) -> list[str]:
    """Write an SVG for each cluster and return the names of the files.

    The same results give the same bytes with the same version of Matplotlib.

    Raises:
        InputError: one cannot be written.
    """
    names = []
    for cluster in dict.fromkeys(one["cluster"] for one in results):
        own = [one for one in results if one["cluster"] == cluster]
        name = f"cluster-{cluster}.svg"
        write_figure(folder / name, SIZE_INCHES, partial(_draw, cluster=cluster, results=own))
        names.append(name)
    return names


def write_figure(path: Path, size_inches: tuple[float, float], draw: Callable[[Any], None]) -> None:
    """Write a figure as SVG, the same for the same drawing and version of Matplotlib.

    Args:
        path: the file.
        size_inches: width and height.
        draw: draws on a figure.

    Raises:
        InputError: it cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "llmpq", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=size_inches, layout="constrained")
        draw(figure)
        with whole_file(path) as stream:
            figure.savefig(stream, format="svg", metadata={"Date": None})


def _draw(figure: Any, *, cluster: int, results: list[Content]) -> None:
    """Draw a bar for each method and series, and a mark where the authors measured."""
    axes = figure.subplots()
    series = list(dict.fromkeys((one["kernels"], one["workload"]) for one in results))
    width = 0.8 / len(series)
    for number, (kernels, workload) in enumerate(series):
        own = {
            one["method"]: one
            for one in results
            if (one["kernels"], one["workload"]) == (kernels, workload)
        }
        places = [place + (number + 0.5) * width - 0.4 for place in range(len(METHODS))]
        rates = [own[method]["tokens_per_s"] or 0.0 for method in METHODS]
        axes.bar(places, rates, width, label=f"{kernels}, {workload}")
        marks = [
            (place, own[method]["measured_tokens_per_s"])
            for place, method in zip(places, METHODS, strict=True)
            if own[method]["measured_tokens_per_s"] is not None
        ]
        if marks:
            axes.plot(*zip(*marks, strict=True), "k_", markersize=12, label="measured")
    axes.set_xticks(range(len(METHODS)), METHODS, rotation=20)
    axes.set(ylabel="tokens/s", title=f"cluster {cluster}, {CLUSTERS[cluster].model}", yscale="log")
    axes.legend(frameon=False, fontsize=7)
