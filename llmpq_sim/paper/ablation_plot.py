"""Plot of ablations: what is left without each decision, cluster by cluster."""

from pathlib import Path
from typing import Any

from llmpq_sim.paper.ablation_report import shares
from llmpq_sim.paper.ablations import ABLATIONS, GROUP_LAYERS, PROGRAM, WHOLE
from llmpq_sim.paper.plots import write_figure

WIDTH_INCHES, HEIGHT_INCHES = 9.0, 2.8
"""Of the bars of one kernel set and workload."""

REFERENCES = {WHOLE: ABLATIONS, PROGRAM: tuple(GROUP_LAYERS)}

Content = dict[str, Any]


def write_ablation_plot(path: Path, results: list[Content]) -> None:
    """Write an SVG with a bar for each cluster and ablation: its share of the tokens/s without.

    The same results give the same bytes with the same version of Matplotlib.

    Raises:
        InputError: it cannot be written.
    """
    results = [one for one in results if isinstance(one["cluster"], int)]  # not of a mix
    series = list(dict.fromkeys((one["kernels"], one["workload"]) for one in results))
    size_inches = (WIDTH_INCHES, HEIGHT_INCHES * len(series))
    write_figure(path, size_inches, lambda figure: _draw(figure, series, results))


def _draw(figure: Any, series: list[tuple[str, str]], results: list[Content]) -> None:
    rows = figure.subplots(len(series), squeeze=False)[:, 0]
    for axes, (kernels, workload) in zip(rows, series, strict=True):
        own = [one for one in results if (one["kernels"], one["workload"]) == (kernels, workload)]
        _draw_bars(axes, own)
        axes.set(ylabel=f"{kernels}, {workload}\n% of tokens/s kept")
        axes.set_ylim(bottom=0)
        axes.axhline(100, color="black", linewidth=0.8)
    rows[-1].set_xlabel("cluster")
    handles = rows[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, frameon=False, fontsize=7)


def _draw_bars(axes: Any, results: list[Content]) -> None:
    """Draw a bar for each cluster and ablation; none where there is no plan."""
    clusters = list(dict.fromkeys(one["cluster"] for one in results))
    labels = [
        f"{name} (of {reference})" for reference, names in REFERENCES.items() for name in names[1:]
    ]
    width = 0.8 / len(labels)
    for number, label in enumerate(labels):
        heights = []
        for cluster in clusters:
            own = [one for one in results if one["cluster"] == cluster]
            kept = [share for names in REFERENCES.values() for share in shares(own, names)]
            heights.append(100 * (kept[number] or 0.0))
        places = [place + (number + 0.5) * width - 0.4 for place in range(len(clusters))]
        axes.bar(places, heights, width, label=label)
    axes.set_xticks(range(len(clusters)), [str(cluster) for cluster in clusters])
