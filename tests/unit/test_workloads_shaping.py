"""Workloads cut, scaled and shortened."""

import numpy as np
import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.workloads.shaping import (
    compress,
    drop_overlong,
    head,
    scale_rate,
    superpose,
    truncate_overlong,
    window,
)
from tests.traces import columns, dispersion, gap_variation, requests, rng, same


def test_the_head_is_the_first_requests() -> None:
    workload = requests([0.0, 1.0, 4.0], [10, 20, 30])
    assert columns(head(workload, 2)) == ([0.0, 1.0], [10, 20], [2, 2])
    assert same(head(workload, 9), workload)
    with pytest.raises(InputError, match="requests: expected at least 1 request to keep, got 0"):
        head(workload, 0)


def test_a_window_counts_from_its_first_request() -> None:
    workload = requests([0.0, 1.0, 4.0, 6.0], [10, 20, 30, 40])
    assert columns(window(workload, 1.0, 6.0)) == ([0.0, 3.0], [20, 30], [2, 2])


def test_an_empty_window_says_where_the_workload_ends() -> None:
    with pytest.raises(InputError) as caught:
        window(requests([0.0, 1.0]), 5.0, 9.0)
    assert str(caught.value) == (
        "requests: no request arrives from 5 s on and before 9 s; the last arrives at 1 s"
    )


def test_a_part_keeps_the_blocks_and_sessions_of_its_requests() -> None:
    workload = requests(
        [0.0, 1.0, 4.0],
        prefix_blocks=((1,), (1, 2), (3,)),
        block_tokens=16,
        session=np.array([0, 0, 1]),
    )
    part = window(workload, 1.0, 9.0)
    assert part.prefix_blocks == ((1, 2), (3,))
    assert part.session is not None
    assert part.session.tolist() == [0, 1]


def test_compressing_scales_every_gap_by_one_factor() -> None:
    workload = requests([0.0, 1.0, 3.0, 8.0])  # 0.5 per second
    assert columns(scale_rate(workload, 2.0, "compress", rng()))[0] == [0.0, 0.25, 0.75, 2.0]
    assert compress(workload, 0.25).arrival_s.tolist() == [0.0, 2.0, 6.0, 16.0]


def test_superposing_keeps_the_number_of_requests_and_reaches_the_rate() -> None:
    bursts = np.repeat(np.arange(400.0), 5)
    workload = requests((bursts - bursts[0]).tolist())
    faster = scale_rate(workload, 40.0, "superpose", rng())
    assert faster.requests == workload.requests
    assert faster.rate_per_s == pytest.approx(40.0, rel=0.05)


def test_superposing_smooths_bursts_and_compressing_keeps_their_shape() -> None:
    gaps = rng().exponential(1.0, 20_000) * np.where(np.arange(20_000) % 10 == 0, 30.0, 0.1)
    instants_s = np.cumsum(gaps)
    workload = requests((instants_s - instants_s[0]).tolist())
    rate_per_s = 40 * workload.requests / workload.span_s
    laid, faster = superpose(workload, rate_per_s, rng()), compress(workload, rate_per_s)
    # independent copies: variance and mean of a window's count grow alike
    own = dispersion(workload.arrival_s, 0.4)
    assert dispersion(laid.arrival_s, 0.4) == pytest.approx(own, rel=0.1)
    assert dispersion(faster.arrival_s, 0.01) == pytest.approx(own, rel=0.1)
    assert gap_variation(faster.arrival_s) == pytest.approx(gap_variation(workload.arrival_s))
    assert gap_variation(laid.arrival_s) < 0.6 * gap_variation(workload.arrival_s)


def test_copies_share_only_the_system_prompt_and_have_conversations_of_their_own() -> None:
    workload = requests(
        [0.0, 1.0, 2.0, 3.0],
        prefix_blocks=((0, 1), (0, 2), (0, 3), (0, 4)),
        block_tokens=16,
        session=np.arange(4),
    )
    laid = superpose(workload, 12.0, rng())
    assert laid.prefix_blocks is not None
    assert laid.session is not None
    assert {row[0] for row in laid.prefix_blocks} == {0}
    assert len({row[1] for row in laid.prefix_blocks}) == 4
    assert len(set(laid.session.tolist())) == 4


@pytest.mark.parametrize(
    ("arrival_s", "rate_per_s", "message"),
    [
        ([0.0], 1.0, "requests: expected a rate that can be scaled, got one request"),
        (
            [0.0, 0.0],
            1.0,
            "requests: expected a rate that can be scaled, got all requests at one instant; "
            "give --arrivals poisson",
        ),
        ([0.0, 1.0], 0.0, "requests: expected a rate above 0 and at most 1e+09 requests/s, got 0"),
        (
            [0.0, 1.0],
            float("inf"),
            "requests: expected a rate above 0 and at most 1e+09 requests/s, got inf",
        ),
        (
            [0.0, 1.0],
            1.0,
            "requests: superposing brings a rate to 1 to 1000 times 2 requests/s, not to 1; "
            "compress instead",
        ),
    ],
)
def test_a_rate_that_cannot_be_had_is_refused(
    arrival_s: list[float], rate_per_s: float, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        scale_rate(requests(arrival_s), rate_per_s, "superpose", rng())
    assert str(caught.value) == message


def test_overlong_requests_are_dropped_with_a_note() -> None:
    kept = drop_overlong(requests([0.0, 1.0, 2.0], [50, 10, 8]), 12)
    assert columns(kept) == ([0.0, 1.0], [10, 8], [2, 2])
    assert kept.notes == ("dropped as longer than 12 tokens: 1 of 3",)


def test_when_no_request_fits_the_shortest_is_named() -> None:
    with pytest.raises(InputError) as caught:
        drop_overlong(requests([0.0, 1.0], [50, 40]), 12)
    assert str(caught.value) == (
        "requests: no request fits the longest context of 12 tokens; the shortest takes 42"
    )


def test_overlong_prompts_are_cut_with_their_blocks() -> None:
    workload = requests([0.0, 1.0], [50, 10], prefix_blocks=((1, 2, 3, 4), (1,)), block_tokens=16)
    cut = truncate_overlong(workload, 22)
    assert columns(cut) == ([0.0, 1.0], [20, 10], [2, 2])
    assert cut.prefix_blocks == ((1, 2), (1,))
    assert cut.notes == ("cut to 22 tokens: 1 of 2",)


def test_an_output_that_leaves_no_room_for_a_prompt_is_cut_too() -> None:
    cut = truncate_overlong(requests([0.0], [10]), 2)
    assert columns(cut) == ([0.0], [1], [1])


def test_what_fits_is_left_as_it_is() -> None:
    workload = requests([0.0, 1.0])
    assert drop_overlong(workload, 12) is workload
    assert truncate_overlong(workload, 12) is workload
