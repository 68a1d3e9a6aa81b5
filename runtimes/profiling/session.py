"""Session of a profile: series of points, one row at a time, until they end."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from llmpq_sim.core.errors import ExecutionError
from runtimes.profiling.conditions import Conditions
from runtimes.profiling.experts import ExpertsBench
from runtimes.profiling.forecast import Forecast
from runtimes.profiling.kernels import AttentionBench, GemmBench
from runtimes.profiling.layers import (
    EmbeddingBench,
    HeadBench,
    LayerBench,
    StepBench,
    share_of_a_layer,
)
from runtimes.profiling.points import Point, Series
from runtimes.profiling.rotation import Rotation
from runtimes.profiling.rows_files import RowsFile
from runtimes.profiling.settings import OnProgress, ProfileProgress
from runtimes.profiling.timing import (
    Call,
    Effort,
    Stopwatch,
    Timing,
    Warm,
    measure_together,
    warmed_up_s,
)
from runtimes.torch_pipeline.engine.cuda_graphs import Recorder
from runtimes.torch_pipeline.weights.loading import release_freed_memory


class Bench(Protocol):
    """Holds what the points of a series share, such as weights."""

    def calls(self, point: Point) -> tuple[Call, ...]:
        """Return what is timed for a point: the work, and for layers a step without them."""


BENCHES: dict[str, Callable[[Series, Conditions], Bench]] = {
    "gemm": GemmBench,
    "attention": AttentionBench,
    "experts": ExpertsBench,
    "layer": LayerBench,
    "embedding": EmbeddingBench,
    "head": HeadBench,
    "visit": StepBench,
}


RECORDED = {"gemm", "attention"}
"""What a GPU repeats without waiting for its host; whole layers do so by themselves."""

LONGER = {"visit": 5, "embedding": 5, "head": 5, "layer": 5}
"""How many times the least time these take: series of few and short calls would see the machine in
one of its moods only, and every step depends on them."""


@dataclass
class Session:
    """A profile under way.

    Attributes:
        rows: the file that grows.
        stopwatch, effort: of all measurements.
        forecast: of the time that is left.
        on_progress: told before each measurement.
        recorder: of a GPU's kernels, or None where Python calls each.
        measured: points of this run.
        too_long: points left out because a smaller one took too long.
    """

    rows: RowsFile
    stopwatch: Stopwatch
    effort: Effort
    forecast: Forecast
    on_progress: OnProgress
    recorder: Recorder | None = None
    measured: int = 0
    too_long: int = 0

    def __post_init__(self) -> None:
        self._began_s = time.monotonic()

    def run(self, series: Series, conditions: Conditions) -> None:
        """Measure what the file lacks of a series, until a call takes too long.

        Raises:
            ExecutionError: the device ran out of memory.
        """
        began_s = time.monotonic()
        try:
            warm = self._warmed_up(series, conditions)
            calls = [call for own in warm.values() for call in own]
            effort = self.effort.longer(LONGER.get(series[0].op, 1))
            timings = iter(measure_together(calls, self.stopwatch, effort))
        except torch.OutOfMemoryError as error:
            raise ExecutionError(
                f"out of memory while timing {series[0].title} and longer: {error}; the rows "
                "before are kept, continue with --resume when others use less"
            ) from error
        for point, own in warm.items():
            self.keep(point, _of_point(point, [next(timings) for _ in own]))
        self.forecast.done(warm, time.monotonic() - began_s)
        del warm, calls
        release_freed_memory()

    def _warmed_up(self, series: Series, conditions: Conditions) -> dict[Point, list[Warm]]:
        """Return the calls of the points that are measured now, and leave too long ones out."""
        bench: Bench | None = None
        warm: dict[Point, list[Warm]] = {}
        for number, point in enumerate(series):
            known = self.rows.timings.get(point)
            if known is None:
                self.announce(point)
                bench = bench or BENCHES[point.op](series, conditions)
                warm[point] = [self._warm(call, point) for call in bench.calls(point)]
                call_s = warm[point][0].one_s
            else:
                call_s = known.median_s * max(point.layers, 1)
            if call_s > self.effort.longest_call_s:
                self.leave_out(series[number + 1 :])
                break
        return warm

    def _warm(self, call: Call, point: Point) -> Warm:
        """Return a call that is warm; kernels are recorded where a stage's decodes would be."""
        call_s = warmed_up_s(call, self.stopwatch, self.effort)
        if self.recorder is None or point.op not in RECORDED or not isinstance(call, Rotation):
            return Warm(call, call_s)
        replay = self.recorder(call.round)
        return Warm(replay, warmed_up_s(replay, self.stopwatch, self.effort), call.turns)

    def announce(self, point: Point) -> None:
        """Say what is timed next."""
        left_s = self.forecast.left_s()
        elapsed_s = time.monotonic() - self._began_s
        fraction = elapsed_s / (elapsed_s + left_s) if elapsed_s + left_s > 0 else 1.0
        self.on_progress(ProfileProgress(fraction, point.title, left_s))

    def keep(self, point: Point, timing: Timing) -> None:
        """Write a row."""
        self.rows.append(point, timing)
        self.measured += 1

    def leave_out(self, points: Sequence[Point]) -> None:
        """Count points that take too long to be timed."""
        fresh = [point for point in points if point not in self.rows.timings]
        self.forecast.left_out(fresh)
        self.too_long += len(fresh)


def _of_point(point: Point, timings: list[Timing]) -> Timing:
    if point.op == "layer":
        return share_of_a_layer(timings[0], timings[1], point.layers)
    return timings[0]
