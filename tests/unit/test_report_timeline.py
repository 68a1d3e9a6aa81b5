"""Timelines in the documented format: every step once, counters between, whole or not at all.

Format: "Trace Event Format", Google, sections on complete, counter and metadata events.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.report.artifacts import write_batch_timeline
from llmpq_sim.report.timeline import Timeline, timeline_file, timeline_text
from llmpq_sim.simulator.continuous.service import Service, serve
from llmpq_sim.simulator.continuous.watch import Watch
from llmpq_sim.simulator.static.simulate import simulate_static
from tests.reports import GOOD, small_task
from tests.services import SETTINGS, made_workload, serving_costs

TRACKS = ["stage 0: v100-32g-0", "stage 1: p100-12g-0"]


def written(path: Path, most_slices: int = 10**6) -> tuple[Service, Timeline, dict[str, Any]]:
    costs, workload = serving_costs(), made_workload(80, 100.0)
    with timeline_file(path, TRACKS, most_slices) as timeline:
        watch = Watch(timeline.step, timeline.batch)
        service = serve(GOOD, costs, workload, SETTINGS, None, watch)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return service, timeline, content


def check_format(content: dict[str, Any]) -> None:
    assert set(content) == {"traceEvents", "displayTimeUnit"}
    assert content["displayTimeUnit"] == "ms"
    for event in content["traceEvents"]:
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["args"], dict)
        match event["ph"]:
            case "X":
                assert event["ts"] >= 0
                assert event["dur"] >= 0
                assert event["tid"] in {1, 2}
            case "C":
                assert event["ts"] >= 0
                assert all(isinstance(value, int) for value in event["args"].values())
            case kind:
                assert kind == "M"
                assert event["name"] in {"process_name", "thread_name", "thread_sort_index"}


def busy_s(content: dict[str, Any]) -> list[float]:
    """Return the seconds of the slices of each track, which must not overlap."""
    tracks = defaultdict(list)
    for event in content["traceEvents"]:
        if event["ph"] == "X":
            tracks[event["tid"]].append((event["ts"], event["dur"]))
    for slices in tracks.values():
        ends = [ts + dur for ts, dur in slices]
        assert all(ts >= end - 0.002 for (ts, _), end in zip(slices[1:], ends[:-1], strict=True))
    return [sum(dur for _, dur in tracks[track]) / 1e6 for track in sorted(tracks)]


def test_every_visit_of_a_service_is_a_slice(tmp_path: Path) -> None:
    service, timeline, content = written(tmp_path / "t.json")
    check_format(content)
    assert timeline.slices == service.result.stage_steps
    assert busy_s(content) == pytest.approx(service.result.stage_busy_s, abs=1e-3)
    slices = [event for event in content["traceEvents"] if event["ph"] == "X"]
    last = [event["args"] for event in slices if event["tid"] == 2]
    prompts = service.workload.total_prompt_tokens
    assert sum(each["prompt_tokens"] for each in last) == prompts
    outputs = service.workload.total_output_tokens - service.workload.requests
    assert sum(each["decodes"] for each in last) == outputs


def test_counters_reach_the_peak_of_the_cache(tmp_path: Path) -> None:
    service, _, content = written(tmp_path / "t.json")
    counted = [event for event in content["traceEvents"] if event["ph"] == "C"]
    blocks = [e["args"]["value"] for e in counted if e["name"] == "KV blocks in use"]
    assert max(blocks) == service.times.peak_blocks
    assert min(e["args"]["value"] for e in counted if e["name"] == "requests waiting") == 0


def test_a_long_timeline_is_cut_and_says_where(tmp_path: Path) -> None:
    _, timeline, content = written(tmp_path / "t.json", most_slices=10)
    check_format(content)
    assert sum(event["ph"] == "X" for event in content["traceEvents"]) == 10
    assert timeline_text(timeline, "t.json") == (
        f"Wrote t.json, for ui.perfetto.dev: the first 10 visits, up to {timeline.end_s:.1f} s."
    )


def test_a_timeline_told_does_not_change_the_service(tmp_path: Path) -> None:
    service, _, _ = written(tmp_path / "t.json")
    silent = serve(GOOD, service.costs, service.workload, SETTINGS)
    assert silent.result == service.result


def test_the_batch_of_a_plan_has_a_timeline_too(tmp_path: Path) -> None:
    task, path = small_task(), tmp_path / "t.json"
    timeline = write_batch_timeline(path, GOOD, task.costs, "static")
    content = json.loads(path.read_text(encoding="utf-8"))
    check_format(content)
    result = simulate_static(GOOD, task.costs)
    assert timeline.slices == result.stage_steps
    assert busy_s(content) == pytest.approx(result.stage_busy_s, abs=1e-3)
    assert timeline_text(timeline, "t.json") == (
        f"Wrote t.json: {timeline.slices} visits, for ui.perfetto.dev."
    )


def test_a_timeline_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), timeline_file(tmp_path / "t.json", TRACKS):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
