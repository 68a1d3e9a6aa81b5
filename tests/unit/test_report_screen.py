from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_sim.api.verification import Verification
from llmpq_sim.report.console import paragraph, plain, print_to
from llmpq_sim.report.search import (
    show_fit,
    show_front,
    show_listing,
    show_search,
    show_simulation,
    show_verification,
)
from llmpq_sim.report.tables import Listing
from llmpq_sim.search.scoring import score_plan
from tests.reports import GOOD, paper, plan_of, small_fit, small_outcome, small_task, written


def search_text() -> str:
    console = paper()
    show_search(console, small_outcome(small_task()), "plan.json", ["p100: assumed"])
    return written(console)


def test_a_search_begins_with_its_answer() -> None:
    outcome = small_outcome(small_task())
    speed, loss, trust, *_ = search_text().splitlines()
    assert outcome.best.result is not None
    assert speed.startswith(f"{outcome.best.result.tokens_per_s:.1f} tokens/s · at most ")
    assert loss == "quality loss 0.0098 of 0.3158 nominal nats"
    assert trust.startswith("times ± 30 %: p100-12g and v100-32g by data sheet only · so ")


def test_no_line_is_wider_than_88_columns_or_ends_in_blanks() -> None:
    lines = search_text().splitlines()
    assert max(map(len, lines)) <= 88
    assert [line for line in lines if line != line.rstrip()] == []


@pytest.mark.parametrize(
    "content",
    [
        "scenario  opt-125m (12 layers) · paper-4 (3 x p100-12g, 1 x v100-32g)",
        "notes     p100: assumed",
        "search    1.50 s · 120 plans tried · 9 generations · seed 7",
        "    1  p100-12g-0  8-11    2 x int8, 2 x int4",
        "FF888888|8844",
        "memory-weighted  does not fit: stage 0 on t4-0 needs 2 GiB, has 1",
        "without one v100-32g            no plan",
        "Not used: p100-12g-1 and p100-12g-2.",
        "  llmpq simulate plan.json   how each request would fare",
        "  llmpq verify plan.json     check the bound by arithmetic",
    ],
)
def test_a_search_shows(content: str) -> None:
    assert content in search_text()


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_other_widths_are_drawn_too(width: int) -> None:
    console, outcome = paper(width), small_outcome(small_task(), wants_front=True)
    show_search(console, outcome, "plan.json")
    show_front(console, outcome)
    assert max(map(len, written(console).splitlines())) <= max(min(width, 88), 40)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text("F843", min_size=8, max_size=10), min_size=7, max_size=7))
def test_any_formats_on_eight_devices_fit_the_width(stages: list[str]) -> None:
    console, task = paper(), small_task("paper-7", model="bloom-176b")
    names = [member.name for member in task.costs.scenario.cluster.devices]
    last = "4" * (70 - sum(map(len, stages)))
    layers = [*stages, last] if last else stages
    score = score_plan(plan_of(*zip(names, layers, strict=False)), task)
    show_simulation(console, score, task)
    assert max(map(len, written(console).splitlines())) <= 88


def test_without_a_plan_file_there_is_no_next_command() -> None:
    console = paper()
    show_search(console, small_outcome(small_task()), None)
    assert "Next" not in written(console)


def test_a_file_name_with_blanks_is_quoted_in_commands() -> None:
    console = paper()
    show_search(console, small_outcome(small_task()), "my plan.json")
    assert "llmpq verify 'my plan.json'" in written(console)


def test_a_simulation_shows_what_requests_wait_for() -> None:
    console, task = paper(), small_task()
    show_simulation(console, score_plan(GOOD, task), task)
    for row in ("to its first token (TTFT)", "per further token (TPOT)", "to its last token"):
        assert row in written(console)


def test_a_front_is_a_table_and_a_scatter() -> None:
    console = paper()
    show_front(console, small_outcome(small_task(), wants_front=True))
    assert "2 x fp16, 8 x int8, 2 x int4" in written(console)
    assert "└─" in written(console)
    assert max(map(len, written(console).splitlines())) <= 88


def test_a_listing_shows_names_as_they_are() -> None:
    console = paper()
    rows = (("[red]mine[/red]", "2 x \x1b[31mt4", "14.8"), ("b", "1 x t4", "4.0"))
    show_listing(console, Listing("clusters", ("cluster", "devices", "GiB"), rows, ()))
    assert written(console).splitlines() == [
        "cluster          devices       GiB",
        "──────────────────────────────────",
        "[red]mine[/red]  2 x �[31mt4  14.8",
        "b                1 x t4        4.0",
    ]


def test_a_verification_is_shown() -> None:
    console, score = paper(), score_plan(GOOD, small_task())
    show_verification(console, Verification(score, score.makespan_s, entries=1, refined=0))
    assert "· gap 0.0 %\n" in written(console)
    assert "1 micro-batching checked by arithmetic · the proof is about" in written(console)


def test_a_fit_shows_its_errors_beside_those_of_the_linear_model() -> None:
    console = paper()
    show_fit(console, small_fit(), "v100.json")
    assert written(console) == (
        "v100-32g/spec: measured · a layer's time ± 8 % · fp16, int8, int4 and int3\n"
        "4000 rows used · 12 dropped: another library\n"
        "\n"
        "error on unseen shapes  format  phase   median  90th percentile  rows\n"
        "─────────────────────────────────────────────────────────────────────\n"
        "gemm                    int4    decode   3.1 %            9.2 %   800\n"
        "\n"
        "LLM-PQ's linear model  format  phase   median  90th percentile  rows\n"
        "────────────────────────────────────────────────────────────────────\n"
        "layer                  int4    decode  21.0 %           48.0 %    90\n"
        "\n"
        "int3 is int4.\n"
        "\n"
        "Wrote v100.json. Use it with --profile.\n"
    )


def test_a_paragraph_never_parts_a_number_from_its_per_cent_sign() -> None:
    assert paragraph("busy for 30 % of it", 11).plain == "busy for\n30 % of it"


def test_text_is_never_markup() -> None:
    console = paper()
    print_to(console, plain("[bold]:smile:[/bold]"))
    assert written(console) == "[bold]:smile:[/bold]\n"


def test_the_generations_of_a_search_are_a_table_where_they_are_asked_for() -> None:
    rows = ({"gen": 0, "evaluations": 25, "best": 2.5, "median": 3.0, "worst": 4.0},)
    outcome = replace(small_outcome(small_task()), logbook=rows)
    console = paper()
    show_search(console, outcome, None, verbose=True)
    (line,) = [each for each in written(console).splitlines() if each.split()[:2] == ["0", "25"]]
    assert line.split() == ["0", "25", "2.50", "s", "3.00", "s", "4.00", "s"]
    quiet = paper()
    show_search(quiet, outcome, None)
    assert "generation " not in written(quiet)
