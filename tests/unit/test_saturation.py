"""Saturation: a growing queue told from one that comes and goes, with the rate held."""

from dataclasses import replace

import numpy as np
import pytest

from llmpq_sim.simulator.continuous.saturation import LEAST_WAITING, queue_of
from llmpq_sim.workloads.shaping import compress
from tests.services import made_service


def test_a_plan_that_keeps_up_has_a_bounded_queue() -> None:
    queue = queue_of(made_service(rate_per_s=100.0))
    assert queue.sustained_rate_per_s is None
    assert queue.most < 20
    assert queue.at_end <= queue.most


@pytest.mark.parametrize("rate_per_s", [1000.0, 4000.0])
def test_the_rate_that_could_be_held_is_held_at_nine_tenths_and_not_at_five_quarters(
    rate_per_s: float,
) -> None:
    service = made_service(requests=1500, rate_per_s=rate_per_s)
    held_per_s = queue_of(service).sustained_rate_per_s
    assert held_per_s is not None
    assert held_per_s < rate_per_s
    for share, grows in ((0.9, False), (1.25, True)):
        there = service.of(compress(service.workload, share * held_per_s))
        assert (queue_of(there).sustained_rate_per_s is not None) is grows


def test_the_queue_is_counted_as_by_hand() -> None:
    service = made_service(requests=60, rate_per_s=1000.0)
    queue, times = queue_of(service), service.times
    arrival_s, span_s = service.workload.arrival_s, service.workload.span_s
    counts = [int(((arrival_s <= at) & (times.first_s > at)).sum()) for at in arrival_s]
    assert queue.most == max(counts)
    assert queue.at_end == counts[-1]
    waited_s = np.minimum(times.first_s, span_s) - arrival_s
    assert queue.mean == pytest.approx(waited_s.sum() / span_s)


def test_few_requests_and_requests_all_at_once_show_no_trend() -> None:
    few = made_service(requests=LEAST_WAITING - 1, rate_per_s=1e4)
    assert queue_of(few).sustained_rate_per_s is None
    once = made_service(requests=200, rate_per_s=1e12)
    assert queue_of(once).most > 100


def test_a_service_that_refuses_everything_has_no_queue() -> None:
    queue = queue_of(made_service(lengths=(3000, 4000)))
    assert (queue.most, queue.mean, queue.sustained_rate_per_s) == (0, 0.0, None)


def test_a_burst_at_the_end_is_no_growing_queue() -> None:
    service = made_service(requests=200, rate_per_s=20.0)
    arrival_s = np.array(service.workload.arrival_s)
    arrival_s[100:] = arrival_s[100]
    burst = service.of(replace(service.workload, arrival_s=arrival_s))
    assert queue_of(burst).at_end > 20
    assert queue_of(burst).sustained_rate_per_s is None
