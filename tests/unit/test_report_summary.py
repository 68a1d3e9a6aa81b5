from dataclasses import replace

import pytest

from llmpq_sim.api.verification import Verification
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.io.clusters import load_cluster
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.latency.spec import spec_profile
from llmpq_sim.report.summary import (
    checked_parts,
    effort_parts,
    error_fraction,
    error_sentence,
    micro_batching_parts,
    plan_profiles,
    scenario_parts,
    search_headline,
    simulation_headline,
    trust_parts,
    verification_parts,
)
from llmpq_sim.search.scoring import score_plan
from tests.reports import GOOD, SLOW, small_outcome, small_task


def profile(status: str, rows: int, error: float) -> DeviceProfile:
    base = spec_profile(load_cluster("paper-1").devices[0].device)
    return replace(base, status=status, calibration_rows=rows, error_fraction=error)


def test_a_search_answers_with_speed_bound_and_loss() -> None:
    outcome = small_outcome(small_task())
    speed, bound, loss = search_headline(outcome)
    found, most = outcome.best.result, outcome.bound_tokens_per_s
    assert found is not None
    assert speed == f"{found.tokens_per_s:.1f} tokens/s"
    assert bound == f"at most {most:.1f} are possible (gap 2.0 %)"
    assert loss == "quality loss 0.0098 of 0.3158 nominal nats"


def test_a_simulation_answers_with_speed_and_time() -> None:
    task = small_task()
    score = score_plan(GOOD, task)
    assert simulation_headline(score, task)[1].startswith("80 tokens in ")


def test_a_plan_that_does_not_fit_answers_with_what_is_short() -> None:
    task = small_task()
    score = score_plan(GOOD, task)
    short = replace(score.memory[0], limit_bytes=1 << 30)
    score = replace(score, memory=(short, *score.memory[1:]), result=None)
    needs = short.total_bytes / (1 << 30)
    assert simulation_headline(score, task) == [
        f"does not fit: stage 0 on v100-32g-0 needs {needs:.1f} GiB, has 1.0"
    ]


def test_alike_profiles_are_trusted_together() -> None:
    profiles = {
        "a100": profile("measured", 4000, 0.08),
        "t4": profile("spec", 0, 0.30),
        "l40s": profile("calibrated", 12, 0.15),
        "p100": profile("spec", 0, 0.30),
    }
    assert trust_parts(profiles) == [
        "times ± 8 %: a100 measured",
        "± 30 %: t4 and p100 by data sheet only",
        "± 15 %: l40s calibrated on 12 measurements",
    ]
    assert error_fraction(profiles) == 0.30


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (0.25, "so 80 to 133 tokens/s"),
        (0.0, "so 100 to 100 tokens/s"),
        (1.0, "so 50 tokens/s or more"),
    ],
)
def test_an_error_of_times_is_a_range_of_throughput(error: float, sentence: str) -> None:
    assert error_sentence(100.0, error) == sentence


def test_only_the_profiles_a_plan_uses_matter_to_it() -> None:
    task = small_task()
    assert list(plan_profiles(score_plan(SLOW, task), task)) == ["p100-12g"]


def test_a_scenario_is_a_model_devices_and_requests() -> None:
    assert scenario_parts(small_task(output_tokens=(3, 9)).costs.scenario) == [
        "opt-125m (12 layers)",
        "paper-4 (3 x p100-12g, 1 x v100-32g)",
        "2 requests of 32 prompt + 3 to 9 output tokens",
    ]


@pytest.mark.parametrize(
    ("batching", "parts"),
    [
        (
            MicroBatching(4, 8, 4),
            [
                "prefill 4 prompts at a time",
                "decode 8 requests at a time",
                "all 4 groups in flight",
            ],
        ),
        (
            MicroBatching(1, 6, 3),
            [
                "prefill 1 prompt at a time",
                "decode 5 or 6 requests at a time",
                "3 of 6 groups in flight",
                "2 waves",
            ],
        ),
        (
            MicroBatching(32, 32, 1),
            ["prefill all 32 prompts at once", "decode all 32 requests at once"],
        ),
        (
            MicroBatching(2, 32, 1, chunk_tokens=256),
            ["prefill 2 x 2000 in 8 chunks of 250", "decode all 32 requests at once"],
        ),
        (
            MicroBatching(32, 32, 1, chunk_tokens=2000),
            ["prefill all 32 prompts at once", "decode all 32 requests at once"],
        ),
    ],
)
def test_micro_batches_are_told_in_the_sizes_that_occur(
    batching: MicroBatching, parts: list[str]
) -> None:
    assert micro_batching_parts(batching, BatchWorkload(2000, (9,) * 32)) == parts


def test_one_request_is_one_at_a_time() -> None:
    parts = ["prefill 1 prompt at a time", "decode 1 request at a time"]
    assert micro_batching_parts(MicroBatching(1, 1, 1), BatchWorkload(8, (1,))) == parts


def test_a_search_that_was_cut_short_says_so() -> None:
    outcome = small_outcome(small_task())
    parts = ["1.50 s", "120 plans tried", "9 generations", "seed 7"]
    assert effort_parts(outcome) == parts
    assert effort_parts(replace(outcome, ended="interrupted")) == [
        *parts,
        "interrupted: more time may find more",
    ]


def test_a_verification_says_what_is_proven_by_what() -> None:
    score = score_plan(GOOD, small_task())
    verification = Verification(score, score.makespan_s * 0.98, entries=85, refined=2)
    proven, taken, gap = verification_parts(verification)
    assert proven.startswith("proven: no plan takes less than ")
    assert taken.startswith("this one takes ")
    assert gap == "gap 2.0 %"
    assert checked_parts(verification) == [
        "85 micro-batchings checked by arithmetic",
        "2 of them cell by cell",
        "the proof is about predicted times",
    ]
