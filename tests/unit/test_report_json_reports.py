import json
from dataclasses import replace

import pytest

from llmpq_sim.api.verification import Verification
from llmpq_sim.report.json_reports import (
    fit_content,
    predicted_content,
    search_content,
    verification_content,
)
from llmpq_sim.search.scoring import score_plan
from tests.reports import GOOD, small_fit, small_outcome, small_task


def test_a_search_is_plain_data_with_these_parts() -> None:
    content = search_content(small_outcome(small_task()), {"some": "plan"}, "plan.json")
    assert list(content) == [
        "schema",
        "version",
        "plan",
        "plan_file",
        "predicted",
        "bound",
        "capacity",
        "speeds",
        "memory",
        "quality",
        "baselines",
        "what_if",
        "search",
    ]
    assert (content["schema"], content["plan"]) == ("llmpq/search-report", {"some": "plan"})
    assert content["search"] == {
        "seconds": 1.5,
        "evaluations": 120,
        "generations": 9,
        "seed": 7,
        "ended": "done",
    }


def test_the_bound_and_the_prediction_agree() -> None:
    content = search_content(small_outcome(small_task()), {}, None)
    bound, predicted = content["bound"], content["predicted"]
    assert bound["gap_fraction"] == pytest.approx(0.02)
    assert predicted["tokens_per_s"] == pytest.approx(bound["tokens_per_s"] * 0.98)
    assert len(predicted["stage_busy_fraction"]) == len(predicted["stage_memory_bytes"]) == 2
    assert list(predicted["ttft_s"]) == ["mean", "p50", "p90", "p95", "p99"]


def test_a_baseline_without_a_plan_has_only_a_reason() -> None:
    baselines = search_content(small_outcome(small_task()), {}, None)["baselines"]
    assert [baseline["feasible"] for baseline in baselines] == [True, False]
    assert baselines[1] == {
        "name": "memory-weighted",
        "feasible": False,
        "tokens_per_s": None,
        "quality_loss": None,
        "why_not": "does not fit: stage 0 on t4-0 needs 2 GiB, has 1",
    }


def test_a_front_comes_only_where_it_was_sought() -> None:
    front = search_content(small_outcome(small_task(), wants_front=True), {}, None)["front"]
    assert front[0]["formats"] == {"fp16": 2, "int8": 8, "int4": 2}
    assert front[0]["plan"]["stages"][1]["first_layer"] == 8


def test_a_plan_that_does_not_fit_is_null_but_keeps_its_memory() -> None:
    task = small_task()
    content = predicted_content(replace(score_plan(GOOD, task), result=None), task)
    assert (content["schema"], content["tokens_per_s"]) == ("llmpq/simulation", None)
    assert len(content["stage_memory_limit_bytes"]) == 2


def test_infinity_is_null() -> None:
    outcome = small_outcome(small_task())
    entries = outcome.certificate.entries
    endless = {
        batching: replace(entry, bound_s=float("inf")) for batching, entry in entries.items()
    }
    outcome = replace(outcome, certificate=replace(outcome.certificate, entries=endless))
    content = search_content(outcome, {}, None)
    assert content["bound"]["makespan_s"] is None
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_a_verification_is_plain_data() -> None:
    score = score_plan(GOOD, small_task())
    assert verification_content(Verification(score, score.makespan_s / 2, 85, 2)) == {
        "schema": "llmpq/verification",
        "version": 1,
        "bound_s": score.makespan_s / 2,
        "makespan_s": score.makespan_s,
        "gap_fraction": 0.5,
        "micro_batchings": 85,
        "refined": 2,
    }


def test_a_fit_is_plain_data() -> None:
    content = fit_content(small_fit(), "profile.json")
    assert (content["schema"], content["profile_file"]) == ("llmpq/fit-report", "profile.json")
    assert content["rows_dropped"] == {"another library": 12, "no tokens": 0}
    assert content["errors"] == [
        {
            "op": "gemm",
            "format": "int4",
            "phase": "decode",
            "median_ape": 0.031,
            "p90_ape": 0.092,
            "rows": 800,
        }
    ]
    assert json.loads(json.dumps(content, allow_nan=False)) == content
