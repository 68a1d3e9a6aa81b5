"""Charts of latencies in characters: over a trace, and as distributions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.report.formatting import seconds_text

FloatArray = NDArray[np.float64]

MEDIAN, TAIL = "·", "▲"
LEAST_COLUMNS = 8
SHORTEST_S = 1e-9


@dataclass(frozen=True)
class Chart:
    """Marks in a rectangle, with what is written at its borders.

    Attributes:
        title: above it.
        rows: of characters, all as wide.
        ticks: text at the left of each row, empty for most.
        first, last: texts below its left and right ends.
        axis: what lies between them.
    """

    title: str
    rows: tuple[str, ...]
    ticks: tuple[str, ...]
    first: str
    last: str
    axis: str

    def lines(self) -> list[str]:
        """Return the chart as lines of text."""
        margin = max(map(len, self.ticks))
        width = len(self.rows[0])
        body = [
            f"{tick:>{margin}} │{row}".rstrip()
            for tick, row in zip(self.ticks, self.rows, strict=True)
        ]
        room = width - len(self.first) - len(self.last)
        below = f"{self.first}{self.axis:^{max(room, 0)}}{self.last}"
        if room <= len(self.axis):
            below = f"{self.last:>{width}}"
        indent = " " * (margin + 2)
        return [self.title, *body, " " * margin + " └" + "─" * width, indent + below]


def over_time(
    title: str, arrival_s: FloatArray, value_s: FloatArray, width: int, height: int
) -> Chart:
    """Return median and 99th percentile of times of requests, by when these arrived.

    Args:
        title: of the chart.
        arrival_s: instants, sorted.
        value_s: a time of each request.
        width: characters of a line.
        height: rows, from zero to the longest time.
    """
    span_s, most_s = float(arrival_s[-1]) or 1.0, float(value_s.max()) or 1.0
    ticks = _ticks(height, seconds_text(most_s), "", "0")
    width = _columns(width, ticks)
    column = np.minimum((arrival_s / span_s * width).astype(int), width - 1)
    places = np.split(value_s, np.searchsorted(column, np.arange(1, width)))
    points = [np.percentile(part, [50, 99]) if len(part) else None for part in places]
    grid = [[" "] * width for _ in range(height)]
    for number, point in enumerate(points):
        if point is not None:
            for value, symbol in ((point[1], TAIL), (point[0], MEDIAN)):
                grid[_row(float(value) / most_s, height)][number] = symbol
    return Chart(title, _joined(grid), ticks, "0", seconds_text(span_s), "arrival")


def distribution(title: str, value_s: FloatArray, width: int, height: int) -> Chart:
    """Return the share of requests that took no longer, over times on a logarithmic axis."""
    ticks = _ticks(height, "100 %", "50 %", "0 %")
    width = _columns(width, ticks)
    ordered = np.sort(value_s)
    most_s = max(float(ordered[-1]), SHORTEST_S)
    least_s = min(max(float(ordered[0]), most_s / 1e6), most_s / 2)
    edges = np.geomspace(least_s, most_s, width)
    edges[-1] = most_s
    shares = np.searchsorted(ordered, edges, side="right") / len(ordered)
    grid = [[" "] * width for _ in range(height)]
    for number, share in enumerate(shares.tolist()):
        grid[_row(share, height)][number] = "•"
    first, last = seconds_text(least_s), seconds_text(most_s)
    return Chart(title, _joined(grid), ticks, first, last, "log")


def side_by_side(left: Sequence[str], right: Sequence[str], width: int) -> list[str]:
    """Return two blocks of as many lines beside each other, the left one this wide."""
    return [f"{one:<{width}}{other}".rstrip() for one, other in zip(left, right, strict=True)]


def _columns(width: int, ticks: tuple[str, ...]) -> int:
    """Return what a line has beside its tick and the axis."""
    return max(width - max(map(len, ticks)) - len(" │"), LEAST_COLUMNS)


def _row(share: float, height: int) -> int:
    """Return the row of a share of the height; row 0 is at the top."""
    return height - 1 - min(round(share * (height - 1)), height - 1)


def _ticks(height: int, top: str, middle: str, bottom: str) -> tuple[str, ...]:
    ticks = [""] * height
    ticks[height // 2], ticks[0], ticks[-1] = middle, top, bottom
    return tuple(ticks)


def _joined(grid: list[list[str]]) -> tuple[str, ...]:
    return tuple("".join(row) for row in grid)
