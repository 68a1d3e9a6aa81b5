"""Service of a trace, as JSON and on the screen."""

import json
import re
from pathlib import Path

import pytest

from llmpq_sim.report.charts import MEDIAN
from llmpq_sim.report.json_reports import replay_content
from llmpq_sim.report.service import show_replay
from llmpq_sim.simulator.continuous.settings import ServiceObjectives
from tests.reports import paper, written
from tests.services import LIMITS, made_replay, made_service, with_prices

KEYS = (
    "schema", "requests", "finished", "refused", "makespan_s", "tokens_per_s", "requests_per_s",
    "ttft_s", "tpot_s", "itl_s", "latency_s", "stage_busy_fraction", "kv_peak_fraction",
    "preemptions", "goodput_per_s", "slo_attainment", "wall_seconds",
)  # fmt: skip


def test_json_has_every_key_asked_for() -> None:
    content = replay_content(made_replay(made_service(objectives=LIMITS)))
    assert set(KEYS) <= set(content)
    for name in ("ttft_s", "tpot_s", "itl_s", "latency_s"):
        assert list(content[name]) == ["mean", "p50", "p90", "p95", "p99"]
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_goodput_is_attainment_of_all_requests() -> None:
    content = replay_content(made_replay(made_service(lengths=(1000, 3000), objectives=LIMITS)))
    good = content["slo_attainment"] * content["requests"]
    assert content["refused"] > 0
    assert content["goodput_per_s"] * content["makespan_s"] == pytest.approx(good)
    without = replay_content(made_replay(made_service()))
    assert without["goodput_per_s"] is without["slo_attainment"] is None


def test_the_metrics_page_has_an_entry_for_every_key() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/metrics.md").read_text(encoding="utf-8")
    found = made_replay(made_service(rate_per_s=1000.0, objectives=LIMITS), seeks_max_rate=True)
    content = replay_content(found)
    listed = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", page, re.MULTILINE))))
    assert set(content) <= listed
    names = ("queue", "max_rate", "capacity", "speeds")
    parts = {key for name in names for key in content[name]}
    assert parts <= listed <= {*content, *parts}


def test_a_price_is_that_of_the_devices_in_use() -> None:
    service = made_service()
    assert with_prices(service, 1.0, None).usd_per_million_tokens is None
    one = with_prices(service, 1.5, 0.5).usd_per_million_tokens
    assert one == pytest.approx(2.0 / 3600 / service.result.tokens_per_s * 1e6)


def test_the_screen_says_what_is_served_and_what_waits() -> None:
    console = paper()
    show_replay(console, made_replay(made_service(objectives=LIMITS)), ["Wrote t.json."])
    text = written(console)
    first, second = text.splitlines()[:2]
    assert re.match(r"[\d.]+ requests/s · [\d.]+ tokens/s · goodput [\d.]+ requests/s · ", first)
    assert "Waiting for a first token: at most " in text
    assert "SLO       TTFT at most 20.0 ms · TPOT at most 4.00 ms" in text
    assert text.endswith("Wrote t.json.\n")
    assert MEDIAN in text
    assert second


@pytest.mark.parametrize("width", [40, 60, 88, 200])
def test_no_line_is_wider_than_the_console(width: int) -> None:
    console = paper(width)
    show_replay(console, made_replay(made_service(rate_per_s=1000.0, objectives=LIMITS)))
    assert max(map(len, written(console).splitlines())) <= min(width, 88)


def test_a_rate_that_the_plan_cannot_hold_is_said_with_one_it_could() -> None:
    found = made_replay(made_service(requests=1000, rate_per_s=4000.0))
    console = paper()
    show_replay(console, found)
    text = " ".join(written(console).split())
    assert "The queue grows without bound: 4087.1 requests/s arrive" in text
    assert re.search(r"The plan could hold about [\d.]+ requests/s: try --rate [\d.]+\.", text)
    assert replay_content(found)["notes"][-1].startswith("the queue grows without bound: ")


def test_refused_requests_and_preemptions_are_said() -> None:
    console = paper()
    show_replay(console, made_replay(made_service(lengths=(1000, 3000))))
    assert "Refused: " in written(console)
    none = paper()
    show_replay(none, made_replay(made_service(lengths=(3000, 4000))))
    assert written(none).startswith("all 200 requests refused: none fits\n")


def test_the_highest_rate_is_said() -> None:
    console = paper()
    found = made_replay(made_service(rate_per_s=100.0, objectives=LIMITS), seeks_max_rate=True)
    show_replay(console, found)
    assert re.search(r"Up to [\d.]+ requests/s, 90.0 % meet the SLO", written(console))
    never = made_service(objectives=ServiceObjectives(ttft_s=1e-9))
    console = paper()
    show_replay(console, made_replay(never, seeks_max_rate=True))
    assert "At no rate down to " in written(console)
