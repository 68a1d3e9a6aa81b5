"""Forecast of the time that the rest of a profile takes.

Each measurement is first expected to take what a roofline says; what those of its kind really took
corrects the rest.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from runtimes.profiling.points import Point
from runtimes.profiling.timing import Effort

CALL_S = 2e-5
"""Time that a call takes at least: a few operators of PyTorch."""

LINK_BYTES_PER_S = 2e9
SUSTAINED = 0.4
"""Share of the peak that kernels reach on average; corrected as soon as some were timed."""

STAGE_STEP_S = 3e-4

Kind = tuple[str, str, str]


@dataclass(frozen=True)
class Peaks:
    """What a machine reaches at most, in operations and bytes per second."""

    flops_per_s: float
    bytes_per_s: float


class Forecast:
    """Expected seconds of measurements, corrected by those that were made."""

    def __init__(
        self,
        points: Iterable[Point],
        peaks: Peaks,
        layer_weights: Mapping[str, int],
        effort: Effort,
    ) -> None:
        self._left = {
            p: effort.expected_s(call_s(p, peaks, layer_weights.get(p.model, 0))) for p in points
        }
        self._expected_s: defaultdict[Kind, float] = defaultdict(float)
        self._taken_s: defaultdict[Kind, float] = defaultdict(float)

    def done(self, points: Collection[Point], taken_s: float) -> None:
        """Note how long the measurements of one series took, or of a part of it."""
        for point in points:
            self._expected_s[_kind(point)] += self._left.pop(point)
            self._taken_s[_kind(point)] += taken_s / len(points)

    def left_out(self, points: Iterable[Point]) -> None:
        """Note that points will not be measured."""
        for point in points:
            self._left.pop(point, None)

    def left_s(self) -> float:
        """Return about how long what is left takes."""
        overall = _ratio(sum(self._taken_s.values()), sum(self._expected_s.values()), 1.0)
        by_kind: defaultdict[Kind, float] = defaultdict(float)
        for point, expected_s in self._left.items():
            by_kind[_kind(point)] += expected_s
        return sum(
            expected_s * _ratio(self._taken_s[kind], self._expected_s[kind], overall)
            for kind, expected_s in by_kind.items()
        )


def call_s(point: Point, peaks: Peaks, layer_weights: int) -> float:
    """Return about how long the call of a measurement takes, by what the machine reaches at most.

    Args:
        point: what is called.
        peaks: of the machine.
        layer_weights: of one layer of the point's model.
    """
    if point.op == "link":
        return 2 * (CALL_S + point.bytes / LINK_BYTES_PER_S)
    fixed_s, weights, moved, flops = CALL_S, float(point.n * point.k), 0.0, 0.0
    if point.op in {"layer", "visit", "served"}:
        fixed_s, weights = STAGE_STEP_S * (1 + point.layers), float(point.layers * layer_weights)
    if point.op == "embedding":
        weights, moved = 0.0, 4.0 * point.m * point.n
    if point.op == "attention":
        seen = min(point.seq, point.window or point.seq)
        keys = point.batch * seen
        queries = point.seq / 2 if point.phase == "prefill" else 1
        flops = 4.0 * keys * queries * point.heads * point.head_dim
        moved = 4.0 * keys * point.kv_heads * point.head_dim
    if point.op == "experts":
        flops = 6.0 * point.m * point.chosen * point.n * point.k
        moved = 6.0 * min(point.m * point.chosen, point.experts) * point.n * point.k
        weights = 0.0
    flops += 2.0 * weights * point.tokens
    moved += 2.0 * weights
    return fixed_s + flops / (SUSTAINED * peaks.flops_per_s) + moved / peaks.bytes_per_s


def _kind(point: Point) -> Kind:
    return point.op, point.quant, point.kernel or point.phase


def _ratio(taken: float, expected: float, otherwise: float) -> float:
    return taken / expected if expected > 0 else otherwise
