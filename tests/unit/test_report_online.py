import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from llmpq_sim.io.files import json_text
from llmpq_sim.io.plans import online_to_dict
from llmpq_sim.io.tasks import QualityTarget
from llmpq_sim.report.online import online_content, show_online
from llmpq_sim.search.online.planner import OnlineOutcome
from llmpq_sim.simulator.continuous.settings import ServiceObjectives
from tests.online import found, online_task, priced, tiny_trace

TARGET = QualityTarget("int4", None)


@pytest.fixture(name="outcome", scope="module")
def _outcome() -> OnlineOutcome:
    return found(online_task())


def screen(outcome: OnlineOutcome) -> str:
    console = Console(file=StringIO(), width=88, highlight=False)
    show_online(console, outcome, "plan.json", ["fast is not given int3"])
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_the_screen_names_the_answer_each_baseline_and_what_is_next(
    outcome: OnlineOutcome,
) -> None:
    text = screen(outcome)
    assert "meet the SLO" in text.splitlines()[0]
    for baseline in outcome.baselines:
        assert f"\n{baseline.name}" in text
    assert "fast is not given int3" in text
    assert "Wrote plan.json. Next:" in text
    assert max(map(len, text.splitlines())) <= 88


def test_what_is_sought_stands_first_in_the_table() -> None:
    task = online_task(tiny_trace(12), objective="p99-latency", objectives=None)
    text = screen(found(task, generations=0))
    assert "E2E p99" in text
    assert "goodput" not in text


def test_an_objective_that_nothing_meets_is_said() -> None:
    never = ServiceObjectives(ttft_s=1e-9)
    outcome = found(online_task(tiny_trace(12), objectives=never), generations=0)
    text = " ".join(screen(outcome).split())
    assert "Even alone on idle devices no request meets the TTFT of" in text
    content = online_content(outcome, {}, None)
    assert content["objective"] == {"name": "goodput", "value": 0.0, "attainment": None}
    (limit,) = content["alone"]
    assert (limit["name"], limit["limit_s"], limit["met_share"]) == ("ttft_s", 1e-9, 0.0)
    assert 0 < limit["least_s"] <= limit["median_s"]
    served = [outcome.best, *(each.served for each in outcome.baselines if each.served)]
    assert limit["least_s"] <= min(each.result.ttft_s.p50 for each in served)


def test_a_rate_at_which_nothing_is_good_is_said() -> None:
    burst = tiny_trace(40, gap_s=1e-6)
    outcome = found(online_task(burst, objectives=ServiceObjectives(latency_s=0.2)), generations=0)
    task = replace(outcome.task, attainment=0.01)
    missing = replace(outcome.best.result, good=0)
    outcome.best.simulated(missing)
    text = " ".join(screen(replace(outcome, task=task)).split())
    assert "No request meets the SLO with any plan found." in text
    by_cost = replace(task, objective="cost", costs=priced(task, 1.0))
    text = " ".join(screen(replace(outcome, task=by_cost)).split())
    assert "$/M tokens meet SLO" in text
    assert "No plan found meets the SLO for 1 % of requests; this one does for 0.0 %" in text


def test_a_rate_that_no_plan_holds_is_said() -> None:
    task = online_task(tiny_trace(60, gap_s=0.0005))
    assert "The queue grows without bound: 2033.9 requests/s arrive" in " ".join(
        screen(found(task, generations=0)).split()
    )


def test_the_content_is_plain_data_with_the_bound_of_its_objective(
    outcome: OnlineOutcome,
) -> None:
    content = online_content(outcome, online_to_dict(outcome, TARGET), "plan.json")
    assert json_text(json.loads(json_text(content))) == json_text(content)
    assert outcome.task.rate is not None
    assert content["bound"] == {
        "measure": "goodput_per_s",
        "requests_per_s": outcome.task.rate.requests_per_s,
        "tokens_per_s": content["bound"]["tokens_per_s"],
        "offered_per_s": outcome.offered_per_s,
        "gap_fraction": outcome.gap_fraction,
    }
    assert content["objective"] == {
        "attainment": None,
        "name": "goodput", "value": outcome.best.result.goodput_per_s
    }  # fmt: skip
    assert content["predicted"]["tokens_per_s"] <= content["bound"]["tokens_per_s"]
    for baseline, row in zip(outcome.baselines, content["baselines"], strict=True):
        served = baseline.served
        budget = row["settings"] and row["settings"]["token_budget"]
        assert budget == (served and served.serving.settings.token_budget)


def test_the_plan_file_says_how_to_serve_with_it(outcome: OnlineOutcome) -> None:
    serving = online_to_dict(outcome, TARGET)["serving"]
    assert serving["settings"]["token_budget"] == outcome.best.serving.settings.token_budget
    assert serving["trace"] == "made up"
    assert serving["requests"] == outcome.task.workload.requests
    assert serving["slo"] == {"ttft_s": 0.05, "tpot_s": 0.02, "latency_s": None}
    assert serving["predicted"]["goodput_per_s"] == outcome.best.result.goodput_per_s
