"""Prediction beside its measurement: errors, reasons, tables, JSON, timeline."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.io.executions import SavedExecution
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.report.execution import (
    comparison_headline,
    error_text,
    reading_sentences,
    show_comparison,
    size_text,
    verdict_text,
    write_comparison_timeline,
)
from llmpq_sim.report.execution_comparison import Comparison, Figure, compare
from llmpq_sim.report.json_reports import comparison_content
from tests.executions import LIMITS, executed, poisson, saved_plan, served, with_visits
from tests.reports import paper, written

SAME = [served(32, 10)] * 8
RAGGED = [served(20 + number, 10 + number % 3) for number in range(13)]
AT_ONCE = [replace(request, arrival_s=0.0) for request in poisson(20)]


def compared(
    times: float, *, stated: float = 0.05, continuous: bool = False
) -> tuple[Comparison, SavedExecution]:
    """Return a run that takes so many times as long as predicted, beside its prediction."""
    saved = saved_plan(error_fraction=stated)
    settings, requests = (LIMITS, AT_ONCE) if continuous else (None, RAGGED)
    loaded = executed(saved, requests, times, settings)
    return compare(saved, loaded), loaded


def visit_figures(comparison: Comparison) -> list[Figure]:
    return [phase.step for stage in comparison.stages for phase in stage.phases]


# ---- errors


@pytest.mark.parametrize("continuous", [False, True])
def test_what_happens_as_predicted_has_no_error(continuous: bool) -> None:
    comparison, _ = compared(1.0, stated=0.0, continuous=continuous)
    for figure in (*comparison.figures, *visit_figures(comparison)):
        assert figure.error == 0.0
        assert figure.is_within
    for stage in comparison.stages:
        assert stage.memory.error == stage.busy.error == 0.0
        assert all(p.predicted_steps == p.measured_steps > 0 for p in stage.phases)
    assert reading_sentences(comparison) == ["Every time is within what the profiles state."]


@settings(max_examples=25)
@given(st.floats(0.2, 5.0), st.booleans())
def test_a_slower_machine_has_the_same_error_everywhere(times: float, continuous: bool) -> None:
    comparison, _ = compared(times, continuous=continuous)
    for figure in (*comparison.figures, *visit_figures(comparison)):
        expected = times - 1 if figure.kind == "rate" else 1 / times - 1
        assert figure.error == pytest.approx(expected, abs=1e-9)
    for stage in comparison.stages:
        assert stage.busy.error == pytest.approx(0.0, abs=1e-9)
        assert stage.memory.error == 0.0


@pytest.mark.parametrize(("times", "is_within"), [(1.04, True), (0.96, True), (1.1, False)])
def test_an_error_is_held_against_what_the_profiles_state(times: float, is_within: bool) -> None:
    comparison, _ = compared(times)
    assert {figure.is_within for figure in comparison.figures} == {is_within}
    assert {figure.is_within for figure in visit_figures(comparison)} == {is_within}


def test_memory_is_held_against_its_measurement() -> None:
    saved = saved_plan()
    loaded = executed(saved, SAME)
    peaks = tuple(2 * peak for peak in loaded.execution.stage_peak_bytes)
    loaded = replace(loaded, execution=replace(loaded.execution, stage_peak_bytes=peaks))
    assert [stage.memory.error for stage in compare(saved, loaded).stages] == [-0.5, -0.5]


def test_single_tokens_have_no_time_per_further_token() -> None:
    saved = saved_plan()
    names = [f.name for f in compare(saved, executed(saved, [served(32, 1)] * 8)).figures]
    assert names == [
        "tokens_per_s", "requests_per_s", "makespan_s", "ttft_s.mean", "ttft_s.p50", "ttft_s.p99",
        "prefill_tokens_per_s",
    ]  # fmt: skip


def test_figures_without_a_measurement_have_no_error() -> None:
    figure = Figure("visit_s", "time", 1.0, 0.0, 0.05)
    assert (figure.error, figure.is_within) == (None, None)
    assert (error_text(figure), verdict_text(figure)) == ("-", "")


def test_an_error_that_rounds_to_nothing_has_no_minus() -> None:
    assert error_text(Figure("makespan_s", "time", 0.9999999, 1.0)) == "+0.0 %"
    assert error_text(Figure("busy_fraction", "share", 0.5, 0.7)) == "-20.0 points"


# ---- another plan


def test_a_result_of_another_plan_is_refused_by_its_hash() -> None:
    saved = saved_plan()
    loaded = executed(saved, SAME)
    other = replace(saved, plan=replace(saved.plan, micro_batching=MicroBatching(1, 4, 2)))
    with pytest.raises(InputError) as caught:
        compare(other, loaded)
    theirs, ours = loaded.plan_sha256[:12], executed(other, SAME).plan_sha256[:12]
    assert theirs != ours
    assert str(caught.value) == (
        f"the result is of another plan: it was measured with opt-125m and plan {theirs}, --plan "
        f"has opt-125m and {ours}; give the plan file that was deployed, or deploy this one"
    )


# ---- reasons


def slow(
    loaded: SavedExecution, saved: SavedPlan, stage: int, times: float, *, decodes: bool
) -> SavedExecution:
    """Return a run twice as long, because one phase took longer on one stage."""
    steps = tuple(
        replace(step, ended_s=step.began_s + times * (step.ended_s - step.began_s))
        if step.stage == stage and (step.decodes > 0) == decodes
        else step
        for step in loaded.execution.steps
    )
    doubled = executed(saved, SAME, 2.0)
    return with_visits(doubled, steps)


@pytest.mark.parametrize(
    ("stage", "decodes", "sentence"),
    [
        (1, True, "Stage 1 (p100-12g-0): decode visits take 0.420 ms, predicted 0.336 ms "),
        (0, False, "Stage 0 (v100-32g-0): prefill visits take 0.383 ms, predicted 0.307 ms "),
    ],
)
def test_the_stage_and_phase_that_took_longer_are_named(
    stage: int, decodes: bool, sentence: str
) -> None:
    saved = saved_plan(error_fraction=0.05)
    loaded = slow(executed(saved, SAME), saved, stage, 1.25, decodes=decodes)
    assert reading_sentences(compare(saved, loaded)) == [sentence + "(-20.0 %, outside ± 5 %)."]


def test_the_reasons_that_cost_most_come_first_and_are_few() -> None:
    comparison, _ = compared(1.25)
    sentences = reading_sentences(comparison)
    starts = [sentence.split(" visits")[0] for sentence in sentences]
    assert starts == [
        "Stage 1 (p100-12g-0): decode",
        "Stage 0 (v100-32g-0): decode",
        "Stage 1 (p100-12g-0): prefill",
    ]


def test_time_lost_between_visits_is_said_to_be_there() -> None:
    saved = saved_plan(error_fraction=0.05)
    loaded = executed(saved, SAME, 1.5)
    loaded = with_visits(loaded, executed(saved, SAME).execution.steps)
    assert reading_sentences(compare(saved, loaded)) == [
        "The visits of every stage take what was predicted, within what its profile states: the "
        "error lies between them, in links, scheduling and waiting."
    ]


def test_visits_that_were_not_foreseen_are_counted() -> None:
    saved = saved_plan(error_fraction=0.05)
    loaded = executed(saved, SAME)
    steps = loaded.execution.steps
    mixed = tuple(replace(v, decodes=1) if v.prompt_tokens else v for v in steps)
    assert reading_sentences(compare(saved, with_visits(loaded, mixed)))[1:] == [
        "Batches were cut otherwise than predicted: 0 prefill visits (predicted 4), 4 mixed visits "
        "(predicted 0) a stage.",
    ]


# ---- the screen

SCREEN = """\
predicted 7177.4 tokens/s, measured 7064.4: error +1.6 %, within the stated ± 5 %
Every time is within what the profiles state.

scenario  opt-125m (12 layers) · paper-4 (3 x p100-12g, 1 x v100-32g)
          13 requests of 20 to 32 prompt + 10 to 12 output tokens
run       static batching · computed in fp32 · loaded in 3.25 s · seed 4
profiles  times ± 5 %: p100-12g and v100-32g by data sheet only
notes     2 batches of 8 requests, the last one of 5, one after another
          prompts of 20 to 32 tokens are predicted at the mean length of their batch,
          rounded up

whole pipeline     predicted  measured   error  stated
────────────────────────────────────────────────────────────
tokens/s              7177.4    7064.4  +1.6 %  within ± 5 %
requests/s             657.1     646.7  +1.6 %  within ± 5 %
makespan             19.8 ms   20.1 ms  -1.6 %  within ± 5 %
TTFT, mean           5.72 ms   5.81 ms  -1.6 %  within ± 5 %
TTFT, p50            2.87 ms   2.91 ms  -1.6 %  within ± 5 %
TTFT, p99            12.4 ms   12.6 ms  -1.6 %  within ± 5 %
TPOT, mean          0.735 ms  0.747 ms  -1.6 %  within ± 5 %
TPOT, p50           0.733 ms  0.745 ms  -1.6 %  within ± 5 %
TPOT, p99           0.842 ms  0.856 ms  -1.6 %  within ± 5 %
prefill tokens/s     66379.3   65334.0  +1.6 %  within ± 5 %
decode tokens/s       7895.3    7771.0  +1.6 %  within ± 5 %
tokens/s per user     1360.8    1339.4  +1.6 %  within ± 5 %

                      memory                         busy
stage  device      predicted  measured   error  predicted  measured        error
────────────────────────────────────────────────────────────────────────────────
    0  v100-32g-0   1.15 GiB  1.15 GiB  +0.0 %     69.4 %    69.4 %  +0.0 points
    1  p100-12g-0   1.10 GiB  1.10 GiB  +0.0 %     96.6 %    96.6 %  +0.0 points

                   visits            mean time
stage  phase    predicted  measured  predicted  measured   error  stated
──────────────────────────────────────────────────────────────────────────────
    0  prefill          7         7   0.296 ms  0.300 ms  -1.6 %  within ± 5 %
    0  decode          44        44   0.265 ms  0.269 ms  -1.6 %  within ± 5 %
    1  prefill          7         7   0.640 ms  0.650 ms  -1.6 %  within ± 5 %
    1  decode          44        44   0.333 ms  0.338 ms  -1.6 %  within ± 5 %

Wrote t.json.
"""


def test_the_answer_comes_first_and_every_figure_is_shown() -> None:
    console = paper()
    show_comparison(console, compared(1.016)[0], ["Wrote t.json."])
    assert written(console) == SCREEN


@pytest.mark.parametrize("width", [60, 88, 200])
@pytest.mark.parametrize("times", [0.001, 1.25, 1000.0])
def test_any_error_fits_the_width(width: int, times: float) -> None:
    console = paper(width)
    show_comparison(console, compared(times, stated=0.053, continuous=True)[0])
    assert max(map(len, written(console).splitlines())) <= min(width, 88)


def test_notes_of_the_runtime_are_shown() -> None:
    saved, console = saved_plan(), paper()
    loaded = executed(saved, SAME)
    notes = ("stages shared \x1b[31mone core",)
    loaded = replace(loaded, execution=replace(loaded.execution, notes=notes))
    show_comparison(console, compare(saved, loaded))
    assert "notes     stages shared �[31mone core" in written(console)


def test_a_note_of_both_is_shown_once() -> None:
    comparison, loaded = compared(1.0)
    notes = comparison.prediction.notes
    execution = replace(loaded.execution, notes=(*notes, "pinned to one core each"))
    again = compare(comparison.saved, replace(loaded, execution=execution))
    assert comparison_content(again)["notes"] == [*notes, "pinned to one core each"]


def test_the_headline_says_on_which_side_of_the_interval_it_is() -> None:
    assert comparison_headline(compared(1.25, stated=0.125)[0]) == (
        "predicted 7177.4 tokens/s, measured 5741.9: error +25.0 %, outside the stated ± 12.5 %"
    )


def test_sizes_keep_three_digits() -> None:
    sizes = (0, 87.3 * 2**20, 5.25 * 2**20, 1.206 * 2**30, 45 * 2**30)
    assert [size_text(size) for size in sizes] == [
        "0.00 MiB", "87.3 MiB", "5.25 MiB", "1.21 GiB", "45.0 GiB",
    ]  # fmt: skip


# ---- JSON and timeline


@pytest.mark.parametrize("continuous", [False, True])
def test_json_has_what_the_screen_shows(continuous: bool) -> None:
    comparison, loaded = compared(1.25, continuous=continuous)
    content = comparison_content(comparison)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["schema"] == "llmpq/comparison"
    assert content["plan_sha256"] == loaded.plan_sha256
    assert content["figures"]["makespan_s"]["error_fraction"] == pytest.approx(-0.2)
    assert content["figures"]["tokens_per_s"]["error_fraction"] == pytest.approx(0.25)
    assert content["figures"]["tpot_s.p99"]["is_within"] is False
    assert content["stages"][1]["busy_fraction"]["error_points"] == pytest.approx(0, abs=1e-9)
    assert content["stages"][0]["memory_bytes"]["error_fraction"] == 0
    step = content["stages"][1]["phases"]["decode"]["visit_s"]
    assert step["error_fraction"] == pytest.approx(-0.2)
    assert content["headline"] == comparison_headline(comparison)
    assert content["reading"] == reading_sentences(comparison)


def test_a_share_is_compared_in_points() -> None:
    saved = saved_plan()
    loaded = executed(saved, SAME)
    result = loaded.execution.result
    busy_s = tuple(busy - 0.1 * result.makespan_s for busy in result.stage_busy_s)
    less = replace(loaded.execution, result=replace(result, stage_busy_s=busy_s))
    content = comparison_content(compare(saved, replace(loaded, execution=less)))
    for stage in content["stages"]:
        assert stage["busy_fraction"]["error_points"] == pytest.approx(10)


@pytest.mark.parametrize("continuous", [False, True])
def test_a_timeline_has_both_executions_with_all_visits(tmp_path: Path, continuous: bool) -> None:
    comparison, loaded = compared(1.25, continuous=continuous)
    path = tmp_path / "t.json"
    timeline = write_comparison_timeline(path, comparison)
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {1: "predicted", 2: "measured"}
    tracks = Counter((e["pid"], e["args"]["name"]) for e in events if e["name"] == "thread_name")
    stages = ("stage 0: v100-32g-0", "stage 1: p100-12g-0")
    assert tracks == {(pid, stage): 1 for pid in (1, 2) for stage in stages}
    slices = [event for event in events if event["ph"] == "X"]
    for pid, steps in ((1, comparison.prediction.steps), (2, loaded.execution.steps)):
        drawn = [
            (e["tid"] - 1, e["args"]["batch"], e["args"]["decodes"], e["args"]["prompt_tokens"])
            for e in slices
            if e["pid"] == pid
        ]
        assert Counter(drawn) == Counter(
            (step.stage, step.step, step.decodes, step.prompt_tokens) for step in steps
        )
        busy_us = sum(event["dur"] for event in slices if event["pid"] == pid)
        busy_s = sum(step.ended_s - step.began_s for step in steps)
        assert busy_us == pytest.approx(1e6 * busy_s, rel=1e-3)
    assert timeline.slices == len(slices)
    assert not timeline.is_cut


def test_a_long_timeline_ends_at_the_same_instant_in_both(tmp_path: Path) -> None:
    comparison, loaded = compared(1.25)
    path = tmp_path / "t.json"
    timeline = write_comparison_timeline(path, comparison, most_slices=20)
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    drawn = Counter(event["pid"] for event in events if event["ph"] == "X")
    assert timeline.is_cut
    for pid, steps in ((1, comparison.prediction.steps), (2, loaded.execution.steps)):
        assert drawn[pid] == sum(step.ended_s <= timeline.end_s for step in steps)
