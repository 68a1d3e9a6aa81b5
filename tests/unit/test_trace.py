"""Workloads that can be, and those that cannot."""

from typing import Any

import numpy as np
import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.trace import TraceWorkload
from tests.traces import requests


def refused(**changes: Any) -> str:
    given: dict[str, Any] = {
        "name": "w",
        "arrival_s": np.array([0.0, 1.0]),
        "prompt_tokens": np.array([1, 2]),
        "output_tokens": np.array([3, 4]),
    }
    with pytest.raises(InputError) as caught:
        TraceWorkload(**(given | changes))
    return str(caught.value)


def test_a_workload_counts_its_requests_tokens_and_rate() -> None:
    workload = requests([0.0, 1.0, 4.0], [10, 20, 30])
    assert (workload.requests, workload.span_s, workload.rate_per_s) == (3, 4.0, 0.75)
    assert (workload.total_prompt_tokens, workload.total_output_tokens) == (60, 6)
    assert workload.context_tokens.tolist() == [12, 22, 32]


def test_requests_that_arrive_at_once_have_no_rate() -> None:
    assert requests([0.0, 0.0]).rate_per_s is None
    assert requests([0.0]).rate_per_s is None


def test_columns_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        requests([0.0, 1.0]).arrival_s[0] = 5.0


def test_a_workload_without_requests_is_refused() -> None:
    empty = np.array([])
    message = refused(arrival_s=empty, prompt_tokens=empty, output_tokens=empty)
    assert message == "w: expected at least one request, got none"


def test_columns_of_different_lengths_are_refused() -> None:
    assert refused(prompt_tokens=np.array([1])) == "w.prompt_tokens: expected 2 entries, got 1"
    assert refused(session=np.array([1])) == "w.session: expected 2 entries, got 1"


def test_a_request_without_tokens_is_refused() -> None:
    message = "w.output_tokens: expected at least 1 token, got 0"
    assert refused(output_tokens=np.array([0, 1])) == message


@pytest.mark.parametrize("arrival_s", [[0.0, -1.0], [1.0, 2.0], [0.0, np.inf], [0.0, np.nan]])
def test_instants_out_of_order_are_refused(arrival_s: list[float]) -> None:
    message = "w.arrival_s: expected finite instants, sorted, the first at 0"
    assert refused(arrival_s=np.array(arrival_s)) == message


def test_blocks_without_their_size_are_refused() -> None:
    message = "w: expected prefix_blocks and block_tokens together, got one"
    assert refused(prefix_blocks=((1,), (1, 2))) == message
