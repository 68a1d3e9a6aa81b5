import pytest

from tests.oracles.closed_form import decode_round_s, pipeline_makespan_s


def test_one_micro_batch_takes_the_sum_of_its_servers() -> None:
    assert pipeline_makespan_s([2.0, 5.0, 3.0], 1) == 10.0


def test_each_further_micro_batch_takes_a_turn_of_the_slowest_server() -> None:
    assert pipeline_makespan_s([2.0, 5.0, 3.0], 4) == 10.0 + 3 * 5.0


def test_few_groups_wait_for_their_own_token() -> None:
    assert decode_round_s([2.0, 5.0, 3.0], 1) == decode_round_s([2.0, 5.0, 3.0], 2) == 10.0


def test_many_groups_wait_for_the_slowest_server() -> None:
    assert decode_round_s([2.0, 5.0, 3.0], 3) == 15.0


@pytest.mark.parametrize(
    ("prefill_s", "decode_s", "total_s"),
    [
        ([1.6110, 1.7309, 1.7309, 1.7309], [0.1561, 0.0829, 0.0829, 0.0829], 73.8),
        ([1.4770, 1.8231, 1.8231, 1.7950], [0.0667, 0.0833, 0.0833, 0.1871], 86.5),
    ],
)
def test_the_papers_stage_costs_on_cluster_3_imply_its_batch_latencies(
    prefill_s: list[float], decode_s: list[float], total_s: float
) -> None:
    batch_s = pipeline_makespan_s(prefill_s, 4) + 99 * decode_round_s(decode_s, 4)
    assert batch_s == pytest.approx(total_s, abs=0.05)
