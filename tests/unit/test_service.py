"""Service: keeps what its answer follows from, and refuses a plan without room."""

import numpy as np
import pytest

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.simulator.continuous.compilation import stage_fixed_bytes
from llmpq_sim.simulator.continuous.recurrence import simulate_continuous
from llmpq_sim.simulator.continuous.service import serve
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from llmpq_sim.workloads.shaping import compress
from tests.services import made_service


def test_a_service_has_the_result_of_the_simulation() -> None:
    service = made_service(rate_per_s=5.0)
    alone = simulate_continuous(service.plan, service.costs, service.workload, service.settings)
    assert service.result == alone


def test_a_service_of_another_rate_is_that_of_a_new_start() -> None:
    service = made_service(rate_per_s=5.0)
    faster = compress(service.workload, 50.0)
    anew = serve(service.plan, service.costs, faster, service.settings)
    assert service.of(faster).result == anew.result


def test_memory_is_all_but_the_cache_and_the_blocks_in_use() -> None:
    service = made_service()
    fixed_bytes = stage_fixed_bytes(
        service.plan, service.costs.model, service.costs.cluster, service.settings
    )
    block_bytes = service.costs.model.only_kind.cache_bytes(1, service.settings.block_tokens)
    for stage, needed, fixed in zip(
        service.plan.stages, service.memory_bytes, fixed_bytes, strict=True
    ):
        assert needed - fixed == service.times.peak_blocks * len(stage.formats) * block_bytes
    assert all(
        needed <= limit
        for needed, limit in zip(service.memory_bytes, service.limit_bytes, strict=True)
    )


def test_times_are_of_the_requests_served() -> None:
    service = made_service(lengths=(100, 4000))
    assert service.result.refused == int((~service.served).sum()) > 0
    assert len(service.ttft_s) == len(service.latency_s) == service.result.finished
    assert (np.asarray(service.ttft_s) <= service.latency_s).all()


def test_a_plan_without_room_for_any_cache_says_so() -> None:
    huge = ContinuousSettings(10**7, 64, 2048)
    with pytest.raises(InfeasibleError) as error:
        made_service(settings=huge)
    assert str(error.value).startswith("does not fit: stage 0 on v100-32g-0 needs ")
    assert str(error.value).endswith("lower --token-budget, or search for a plan for this trace")
