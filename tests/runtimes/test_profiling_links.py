"""Messages between stages, timed where they were waited for, however long they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.units import KIB, MIB
from runtimes.profiling.grid import FULL_GRID, link_series
from runtimes.profiling.link_worker import (
    BUSY_S,
    FEWEST_LONG,
    FEWEST_ROUNDS,
    MOST_S,
    SEQUENCES,
    WARM_UP_ROUNDS,
    awaited,
    rounds_of,
)
from runtimes.profiling.links import link_timings
from runtimes.profiling.processor import find_target
from runtimes.profiling.served import serves_here
from runtimes.profiling.timing import FULL_EFFORT, QUICK_EFFORT
from runtimes.torch_pipeline.engine.records import StageRecord
from tests.runtimes.sockets_of_tests import LOOPBACK, listeners_seen

STEPS = SEQUENCES * (WARM_UP_ROUNDS + 20)


def pipeline(step_s: float, way_s: float, last_visit_s: float) -> tuple[StageRecord, StageRecord]:
    """Return what two stages write down whose messages go one after another through one wire."""
    first, last = StageRecord(), StageRecord()
    wire_free_s = last_free_s = 0.0
    for step in range(STEPS):
        first.began_s.append(step * step_s)
        first.ended_s.append((step + 1) * step_s)
        wire_free_s = max(wire_free_s, first.ended_s[step]) + way_s
        last.began_s.append(max(wire_free_s, last_free_s))
        last_free_s = last.began_s[step] + last_visit_s
        last.ended_s.append(last_free_s)
    return first, last


@given(st.integers(1, 50), st.integers(51, 99), st.integers(1, 40))
def test_a_message_that_is_waited_for_takes_its_way(way: int, step: int, last_visit: int) -> None:
    """The last stage is idle again before the next message leaves, and tells its whole way."""
    first, last = pipeline(step / 64, min(way, step - last_visit) / 64, last_visit / 64)
    found = awaited(first, last, is_back=False)
    assert len(found) == STEPS - SEQUENCES * WARM_UP_ROUNDS
    assert found == pytest.approx([min(way, step - last_visit) / 64] * len(found))


def test_messages_on_the_heels_of_others_do_not_count() -> None:
    """A wire slower than the steps keeps the last stage waiting for what left long before."""
    first, last = pipeline(step_s=1.0, way_s=2.0, last_visit_s=0.25)
    assert awaited(first, last, is_back=False) == []


def test_long_visits_have_fewer_rounds() -> None:
    for effort in (QUICK_EFFORT, FULL_EFFORT):
        rounds = [rounds_of(BUSY_S * 2**power, effort) for power in range(10)]
        assert rounds == sorted(rounds, reverse=True)
        assert rounds[0] >= FEWEST_ROUNDS
        assert rounds[-1] == FEWEST_LONG
        assert rounds[3] * SEQUENCES * BUSY_S * 8 <= MOST_S + SEQUENCES * BUSY_S * 8


@pytest.mark.skipif(not serves_here(find_target("cpu", 1)), reason="needs two cores")
def test_messages_that_take_longer_than_a_visit_are_timed() -> None:
    target = find_target("cpu", 1)
    points = [point for point in link_series(FULL_GRID) if point.bytes in (KIB, 16 * MIB)]
    with listeners_seen() as found:
        small, large = link_timings(tuple(points), target, QUICK_EFFORT)
    assert found
    assert {host for host, _ in found} <= LOOPBACK
    assert 0 < small.median_s < large.median_s
    assert large.median_s > BUSY_S / 3  # 16 MiB in less would be 16 GiB/s through gloo
