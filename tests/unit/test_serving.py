"""Settings of a service: from options, then the plan file, then by default."""

from dataclasses import replace
from typing import Any

import pytest

from llmpq_sim.api.replaying import (
    Replay,
    ServingOptions,
    chosen_settings,
    replay,
    service_objectives,
)
from llmpq_sim.core.errors import InputError
from llmpq_sim.io.workloads import TraceOptions
from llmpq_sim.simulator.continuous.settings import ContinuousSettings, ServiceObjectives
from tests.services import made_replay, made_service

SERVING = ContinuousSettings(512, 100, 1024, chunked_prefill=True, schedules_ahead=False)


def replayed(options: ServingOptions, serving: ContinuousSettings | None = None) -> Replay:
    saved = replace(made_replay(made_service()).saved, serving=serving)
    trace = TraceOptions(lengths="D(64,8)", arrivals="poisson", requests=60, rate_per_s=100.0)
    return replay(saved, trace=trace, options=options)


def test_without_options_the_defaults_hold() -> None:
    settings = replayed(ServingOptions()).service.settings
    assert (settings.token_budget, settings.sequence_limit) == (2048, 256)
    assert settings.longest_context_tokens == 2048


def test_the_plan_files_settings_hold_where_no_option_says_otherwise() -> None:
    assert replayed(ServingOptions(), SERVING).service.settings == SERVING
    given = replayed(ServingOptions(token_budget=64, prefix_caching=True), SERVING)
    assert given.service.settings == replace(
        SERVING, token_budget=64, sequence_limit=64, prefix_caching=True
    )


def test_every_choice_of_the_scheduler_can_be_given() -> None:
    options = ServingOptions(admission="no-evict", chunk_tokens=32, batches_in_flight=1)
    given: dict[str, Any] = {"admission": "no-evict", "chunk_tokens": 32, "batches_in_flight": 1}
    assert replayed(options, SERVING).service.settings == replace(SERVING, **given)
    whole = ServingOptions(token_budget=1024, chunked_prefill=False)
    cut = replace(SERVING, chunk_tokens=64)
    assert replayed(whole, cut).service.settings == replace(
        SERVING, token_budget=1024, chunked_prefill=False
    )
    stages = len(made_service().plan.stages)
    with pytest.raises(InputError, match=f"batches_in_flight: expected at most {stages}, "):
        replayed(ServingOptions(batches_in_flight=stages + 1))


def test_limits_that_contradict_each_other_are_refused() -> None:
    saved = made_replay(made_service()).saved
    options = ServingOptions(token_budget=8, sequence_limit=16)
    with pytest.raises(InputError) as error:
        chosen_settings(saved, made_service().workload, options)
    assert str(error.value).startswith("sequence_limit: expected at most the token budget of 8")


def test_objectives_are_given_in_milliseconds() -> None:
    assert service_objectives(ServingOptions()) is None
    found = service_objectives(ServingOptions(ttft_ms=2000, latency_ms=1.5))
    assert found == ServiceObjectives(ttft_s=2.0, tpot_s=None, latency_s=0.0015)


@pytest.mark.parametrize("limit_ms", [0.0, -5.0, float("nan"), float("inf")])
def test_objectives_that_cannot_be_are_refused(limit_ms: float) -> None:
    with pytest.raises(InputError) as error:
        service_objectives(ServingOptions(latency_ms=limit_ms))
    assert str(error.value) == (
        f"--slo-e2e-ms: expected a positive number of milliseconds, got {limit_ms}"
    )


def test_the_highest_rate_is_sought_where_a_share_is_given() -> None:
    found = replayed(ServingOptions(ttft_ms=20, attainment=0.8))
    assert found.max_rate is not None
    assert found.max_rate.attainment == 0.8
    assert replayed(ServingOptions(ttft_ms=20)).max_rate is None
