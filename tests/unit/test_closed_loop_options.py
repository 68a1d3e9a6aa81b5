"""Options of closed loops and of capacity, as the library refuses them."""

from dataclasses import replace
from typing import Any

import pytest

from llmpq_sim.api import ServingOptions, TraceOptions, capacity, replay, sweep_concurrency
from llmpq_sim.commands.capacity import SweepOptions
from llmpq_sim.core.errors import InputError
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.io.tasks import QualityTarget
from llmpq_sim.io.workloads import load_workload
from llmpq_sim.search.bound.bound import Certificate
from runtimes.base import RuntimeOptions
from runtimes.deployment.deploy import Deployment, deploy
from tests.reports import GOOD, small_task

EIGHT = TraceOptions(lengths="D(64,8)", requests=8)


def saved() -> SavedPlan:
    target = QualityTarget("int3", None, None)
    return SavedPlan(GOOD, small_task(), target, Certificate({}), seed=0)


def loop(**changes: Any) -> TraceOptions:
    return replace(EIGHT, **{"concurrency": 4} | changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (loop(rate_per_s=2.0), "arrive as others end, so --rate says nothing; give one of the two"),
        (loop(arrivals="poisson"), "arrive as others end, so --arrivals says nothing"),
        (
            loop(concurrency=9),
            "--concurrency: expected at most as many in flight as there are requests, 8, got 9; "
            "--requests asks for more",
        ),
        (loop(concurrency=0), "--concurrency: expected 1 to 50000000 requests in flight, got 0"),
        (loop(concurrency=-3), "--concurrency: expected 1 to 50000000 requests in flight, got -3"),
    ],
)
def test_a_loop_that_cannot_be_is_refused(options: TraceOptions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_workload(options, 2048)


def test_a_loop_has_no_rate_to_seek() -> None:
    with pytest.raises(InputError, match="--max-rate: a closed loop has no rate to change"):
        replay(saved(), trace=loop(), options=ServingOptions(ttft_ms=9.0, attainment=0.9))


@pytest.mark.parametrize(
    ("sizes", "trace", "message"),
    [
        ([], EIGHT, "expected at least one number, got none"),
        ([1, 9], EIGHT, "expected at most as many in flight as there are requests, 8, got 9"),
        ([1], loop(), "says how many are in flight; leave --concurrency out"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(
    sizes: list[int], trace: TraceOptions, message: str
) -> None:
    with pytest.raises(InputError, match=f"--sweep-concurrency: {message}"):
        sweep_concurrency(saved(), concurrencies=sizes, trace=trace)


def test_sizes_of_a_sweep_keep_their_order_and_come_once() -> None:
    assert SweepOptions("8, 1,2,8").concurrencies == [8, 1, 2]
    for text in ("", "1,,2", "1.5", "-1", "1;2", "\u0661"):
        with pytest.raises(InputError, match="expected whole numbers with commas between"):
            _ = SweepOptions(text).concurrencies
    with pytest.raises(InputError, match="--sweep-concurrency: expected 1 to 50000000 in flight"):
        _ = SweepOptions("1,0").concurrencies


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"context_tokens": 2049}, "--context: expected 2 to 2048 tokens, prompt and output"),
        ({"context_tokens": 1}, "--context: expected 2 to 2048 tokens"),
        ({"sequences": 0}, "--sequences: expected 1 to 100000 sequences, got 0"),
    ],
)
def test_a_length_or_a_number_of_no_sequences_is_refused(
    asked: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        capacity(saved(), **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "static"}, "--concurrency: is of continuous batching; give --policy"),
        ({"concurrency": 9}, "expected at most as many in flight as there are requests, 8, got 9"),
        ({"concurrency": 0}, "--concurrency: expected 1 to 50000000 in flight, got 0"),
        (
            {"trace": TraceOptions("azure-conv", requests=9, rate_per_s=2.0)},
            "--concurrency: requests of a closed loop arrive as others end, so --rate says nothing",
        ),
    ],
)
def test_a_loop_that_cannot_be_deployed_is_refused(changes: dict[str, Any], message: str) -> None:
    deployment: dict[str, Any] = {
        "saved": saved(),
        "runtime": "simulated",
        "model_dir": None,
        "requests_file": None,
        "trace": None,
        "policy": "continuous",
        "token_budget": None,
        "sequence_limit": None,
        "out": None,
        "resume": False,
        "seed": 0,
        "options": RuntimeOptions(),
        "concurrency": 4,
    }
    with pytest.raises(InputError, match=message):
        deploy(Deployment(**deployment | changes))
