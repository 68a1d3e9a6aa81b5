"""Rotation of copies, cold when their turn comes, and the choice of the faster kernel."""

import math
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from runtimes.profiling.forecast import Forecast, Peaks, call_s
from runtimes.profiling.points import Point
from runtimes.profiling.rotation import CACHES_FILLED, MOST_COPIES, copies_needed, rotated
from runtimes.profiling.rows_files import Origin, open_rows
from runtimes.profiling.switches import dense_from_tokens
from runtimes.profiling.timing import QUICK_EFFORT, Timing
from runtimes.torch_pipeline.weights.linear import NEVER

sizes = st.integers(1, 1 << 34)


@given(sizes, sizes, sizes)
def test_copies_exceed_the_cache_unless_memory_or_their_number_forbids(
    copy_bytes: int, cache_bytes: int, most_bytes: int
) -> None:
    copies = copies_needed(copy_bytes, cache_bytes, most_bytes)
    assert copies >= 1
    assert copies == 1 or copies * copy_bytes <= most_bytes
    is_bounded = copies == MOST_COPIES or (copies + 1) * copy_bytes > most_bytes
    is_cold = copies >= 2 and copies * copy_bytes >= CACHES_FILLED * cache_bytes
    assert is_cold or is_bounded
    if is_cold:
        assert copies == max(2, math.ceil(CACHES_FILLED * cache_bytes / copy_bytes))


@given(st.integers(1, 20), st.integers(1, 60))
def test_no_copy_is_used_again_before_all_the_others(copies: int, calls: int) -> None:
    used: list[int] = []
    call = rotated(range(copies), used.append)
    for _ in range(calls):
        call()
    assert used == [number % copies for number in range(calls)]


def gemm(kernel: str, m: int, n: int) -> Point:
    return Point("gemm", "any", "int8", "model", kernel, m=m, n=n, k=64)


def test_the_switch_is_that_of_the_fit_and_never_where_dense_does_not_pay(tmp_path: Path) -> None:
    origin = Origin("2.13.0", "core", ("model",))
    with open_rows(tmp_path / "rows.csv", origin, resume=False) as rows:
        for m in (1, 2, 4, 8):
            for n in (64, 128):
                rows.append(gemm("fused", m, n), Timing(m * n * 1e-6, 0, 5))
                rows.append(gemm("dense", m, n), Timing(3.5 * n * 1e-6, 0, 5))
    assert dense_from_tokens(tmp_path / "rows.csv", ("int8", "int4")) == {"int8": 4, "int4": NEVER}


def forecast_of(points: list[Point]) -> Forecast:
    return Forecast(points, Peaks(1e10, 1e10), {"model": 1000}, QUICK_EFFORT)


def test_nothing_is_left_when_all_is_done_or_left_out() -> None:
    points = [gemm("fused", m, 64) for m in (1, 2, 3)]
    forecast = forecast_of(points)
    assert forecast.left_s() > 0
    forecast.done(points[:1], 2.0)
    forecast.left_out(points[1:])
    assert forecast.left_s() == 0


@given(st.floats(0.01, 100))
def test_the_rest_is_expected_to_be_as_slow_as_what_was_done(factor: float) -> None:
    points = [gemm("fused", m, 64) for m in (1, 2, 3)]
    forecast = forecast_of(points)
    expected_s = QUICK_EFFORT.expected_s(call_s(points[0], Peaks(1e10, 1e10), 0))
    before_s = forecast.left_s()
    forecast.done(points[:1], factor * expected_s)
    assert math.isclose(forecast.left_s(), factor * (before_s - expected_s), rel_tol=1e-6)
