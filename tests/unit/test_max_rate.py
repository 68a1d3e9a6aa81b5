"""Highest rate: it holds, and one a little higher does not."""

from collections.abc import Sequence

import numpy as np
import pytest

from llmpq_sim.api import spreading
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.result import SimulationResult
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.simulator.continuous.max_rate import PRECISION, Trial, max_rate
from llmpq_sim.simulator.continuous.settings import ServiceObjectives
from llmpq_sim.workloads.shaping import compress
from tests.services import made_service

LIMITS = ServiceObjectives(ttft_s=0.02, tpot_s=0.004)


@pytest.mark.parametrize("rate_per_s", [20.0, 3000.0])
def test_at_the_highest_rate_the_objectives_hold_and_one_percent_above_they_do_not(
    rate_per_s: float,
) -> None:
    service = made_service(rate_per_s=rate_per_s, objectives=LIMITS)
    told: list[Trial] = []
    found = max_rate(service, 0.9, told.append)
    assert found.rate_per_s is not None
    assert found.is_limit
    assert found.trials == tuple(told)
    shares = {trial.rate_per_s: trial.slo_attainment for trial in told}
    assert shares[found.rate_per_s] >= 0.9
    failed = min(rate for rate, share in shares.items() if share < 0.9)
    assert found.rate_per_s < failed <= found.rate_per_s * (1 + PRECISION)
    there = service.of(compress(service.workload, found.rate_per_s)).result
    assert there.slo_attainment == shares[found.rate_per_s]


def test_the_search_starts_anywhere_and_ends_at_the_same_rate() -> None:
    rates = [
        max_rate(made_service(rate_per_s=rate, objectives=LIMITS), 0.9).rate_per_s
        for rate in (100.0, 1000.0)
    ]
    assert None not in rates
    assert np.ptp(np.log([rate for rate in rates if rate])) <= 2 * PRECISION


@pytest.mark.parametrize("at_once", [2, 3, 8])
def test_rates_tried_at_once_find_what_one_by_one_find(at_once: int) -> None:
    service = made_service(rate_per_s=300.0, objectives=LIMITS)
    asked: list[int] = []

    def results(workloads: Sequence[TraceWorkload]) -> list[SimulationResult]:
        asked.append(len(workloads))
        return [service.of(each).result for each in workloads]

    alone = max_rate(service, 0.9)
    assert max_rate(service, 0.9, results=results, at_once=at_once) == alone
    assert max(asked) == at_once
    assert len(asked) < len(alone.trials)


def test_processes_find_what_one_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreading, "REQUESTS_PER_POOL", 1)
    service = made_service(rate_per_s=300.0, objectives=LIMITS)
    results = spreading.results_of(service, 2)
    assert max_rate(service, 0.9, results=results, at_once=2) == max_rate(service, 0.9)


def test_objectives_that_none_or_all_rates_meet_say_so() -> None:
    never = max_rate(made_service(objectives=ServiceObjectives(ttft_s=1e-9)), 0.9)
    assert never.rate_per_s is None
    always = max_rate(made_service(objectives=ServiceObjectives(ttft_s=1e9)), 0.9)
    assert always.rate_per_s is not None
    assert not always.is_limit


def test_a_rate_needs_objectives_and_a_trace_with_one() -> None:
    with pytest.raises(InputError) as error:
        max_rate(made_service(), 0.9)
    assert str(error.value) == (
        "--max-rate: expected at least one of --slo-ttft-ms, --slo-tpot-ms and --slo-e2e-ms"
    )
    with pytest.raises(InputError) as error:
        max_rate(made_service(requests=1, objectives=LIMITS), 0.9)
    assert str(error.value) == (
        "--max-rate: made up has no rate to change: all requests arrive at once; give --arrivals"
    )
