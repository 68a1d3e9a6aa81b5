"""Proven limits on the rate: in plan files, checked, damaged, on screens and in JSON."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.api import load, verify
from llmpq_sim.api.planned import Planned
from llmpq_sim.api.replaying import replay
from llmpq_sim.core.errors import CertificateError, InputError
from llmpq_sim.io.files import sha256_of
from llmpq_sim.io.tasks import QualityTarget
from llmpq_sim.io.workloads import TraceOptions
from llmpq_sim.report.json_reports import replay_content, verification_content
from llmpq_sim.report.rate_limit import rate_limit_parts, rate_limit_sentences
from llmpq_sim.search.bound.rate import known_certificate, rate_certificate
from llmpq_sim.workloads.shaping import compress
from tests.online import found as search
from tests.online import online_task, tiny_trace

Content = dict[str, Any]
TRACE = TraceOptions(lengths="D(100,10)", arrivals="poisson", rate_per_s=2.0, requests=20)


@pytest.fixture(scope="module")
def found() -> Planned:
    return Planned(search(online_task(), generations=0), QualityTarget("int4", None, None))


@pytest.fixture
def content(found: Planned) -> Content:
    copied = json.loads(json.dumps(found.content))
    assert isinstance(copied, dict)
    return copied


def stated(content: Content) -> Content:
    bound = content["serving"]["bound"]
    assert isinstance(bound, dict)
    return bound


def test_the_limit_is_kept_in_the_file(found: Planned, content: Content, tmp_path: Path) -> None:
    found.save(tmp_path / "plan.json")
    loaded = load(tmp_path / "plan.json")
    assert loaded.rate == found.saved.rate
    assert loaded.rate is not None
    assert verify(loaded).requests_per_s == stated(content)["requests_per_s"]
    assert verification_content(verify(loaded))["requests_per_s"] == loaded.rate.requests_per_s


def written(content: Content, folder: Path) -> Path:
    path = folder / "changed.json"
    path.write_text(json.dumps(content))
    return path


def weaker(bound: Content) -> None:
    bound["requests_per_s"] *= 3
    for interval in bound["intervals"]:
        interval["busy"][0] *= 1.5
        interval["held_price_s"][0] *= 0.5


def test_weaker_multipliers_still_prove_a_limit(content: Content, tmp_path: Path) -> None:
    limit_per_s = stated(content)["requests_per_s"]
    weaker(stated(content))
    assert verify(load(written(content, tmp_path))).requests_per_s == 3 * limit_per_s


def claim(bound: Content) -> None:
    bound["requests_per_s"] *= 0.99


def blur(bound: Content) -> None:
    for interval in bound["intervals"]:
        interval["busy"] = [0.0] * len(interval["busy"])


def leave_out(bound: Content) -> None:
    del bound["intervals"][0]


def shorten(bound: Content) -> None:
    bound["intervals"][0]["byte_price_s"].pop()


@pytest.mark.parametrize("damage", [claim, blur, leave_out, shorten])
def test_a_limit_that_is_not_proven_is_refused(
    content: Content, tmp_path: Path, damage: Callable[[Content], None]
) -> None:
    damage(stated(content))
    with pytest.raises(CertificateError, match="certificate: "):
        verify(load(written(content, tmp_path)))


def test_a_workload_that_was_changed_is_refused(content: Content, tmp_path: Path) -> None:
    bound = stated(content)
    bound["workload"]["prompt_tokens"] *= 2
    with pytest.raises(InputError, match="workload: was changed after the plan was made"):
        load(written(content, tmp_path))


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("longest_request_tokens", 10**9),
        ("longest_prompt", 10**9),
        ("longest_context", 10**9),
        ("shortest_context", 10**9),
        ("attended_contexts", 1),
        ("attended_squares", 1),
    ],
)
def test_sums_that_no_requests_have_are_refused(
    content: Content, tmp_path: Path, name: str, figure: int
) -> None:
    bound = stated(content)
    bound["workload"][name] = figure
    bound["sha256"] = sha256_of(bound["workload"])
    with pytest.raises(InputError, match=rf"bound\.workload\.{name}: expected "):
        load(written(content, tmp_path))


def test_a_replay_shows_the_limit_of_the_requests_it_serves(found: Planned) -> None:
    again = replay(found, trace=TRACE)
    assert again.rate is not None
    content = replay_content(again)
    assert content["bound"]["requests_per_s"] == again.rate.requests_per_s
    assert content["requests_per_s"] <= content["bound"]["requests_per_s"]
    assert content["tokens_per_s"] <= content["bound"]["tokens_per_s"]


def test_the_proof_in_the_file_serves_for_the_same_requests(found: Planned) -> None:
    saved, workload = found.saved, tiny_trace()
    assert saved.rate is not None
    untrue = replace(saved.rate, requests_per_s=1e9)
    assert known_certificate(saved.task, workload, untrue) == saved.rate
    shorter = tiny_trace(30)
    assert known_certificate(saved.task, shorter, saved.rate) == rate_certificate(
        saved.task, shorter
    )


def test_a_rate_above_the_limit_is_said(found: Planned) -> None:
    limit, workload = found.saved.rate, replay(found, trace=TRACE).service.workload
    assert limit is not None
    assert rate_limit_parts(None) == rate_limit_sentences(None, workload) == []
    assert rate_limit_sentences(limit, workload) == []
    fast = compress(workload, 2 * limit.requests_per_s)
    assert "are the proven limit of any plan" in " ".join(rate_limit_sentences(limit, fast))
    assert rate_limit_parts(limit)[0].endswith("requests/s (proven)")
