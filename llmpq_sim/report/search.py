"""Screens of a search, a simulation, a proof, a fit and what ships."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmpq_sim.core.capacity import batch_capacity
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.result import SimulationResult, Summary
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.report.capacity import capacity_parts
from llmpq_sim.report.comparison import (
    comparison_rows,
    front_marks,
    front_rows,
    scatter_lines,
    thinned,
    what_if_rows,
)
from llmpq_sim.report.console import (
    folded_lines,
    labelled,
    new_table,
    paragraph,
    plain,
    print_to,
    width_of,
)
from llmpq_sim.report.formatting import joined, seconds_text
from llmpq_sim.report.layer_kinds import layer_parts
from llmpq_sim.report.layer_map import layer_kinds_legend, layer_map_legend, layer_map_lines
from llmpq_sim.report.memory import memory_table
from llmpq_sim.report.quality import risk_sentences
from llmpq_sim.report.speeds import batch_speeds, speeds_row
from llmpq_sim.report.stages import bottleneck_text, stage_rows, unused_devices
from llmpq_sim.report.summary import (
    checked_parts,
    effort_parts,
    error_fraction,
    error_sentence,
    fit_parts,
    micro_batching_parts,
    plan_profiles,
    rows_parts,
    scenario_parts,
    search_headline,
    simulation_headline,
    trust_parts,
    verification_parts,
)
from llmpq_sim.report.tables import (
    Listing,
    comparison_table,
    error_table,
    front_table,
    latency_table,
    listing_table,
    stage_table,
    what_if_table,
)
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.scoring import PlanScore

if TYPE_CHECKING:
    from llmpq_sim.api.verification import Verification
    from llmpq_sim.latency.fitting.fit import FitReport
    from llmpq_sim.search.planner import LogbookRow, SearchOutcome

SCATTER_HEIGHT = 14


def show_search(
    console: Console,
    outcome: SearchOutcome,
    plan_file: str | None,
    profile_lines: Sequence[str] = (),
    *,
    verbose: bool = False,
) -> None:
    """Write what a search found, the answer first.

    Args:
        console: where to.
        outcome: what was found.
        plan_file: name of the file the plan was written to, or None.
        profile_lines: what else is to be said of latency profiles and measured losses.
        verbose: whether to show memory by purpose and the generations of the genetic search.
    """
    score, task = outcome.best, outcome.task
    _print_headline(console, search_headline(outcome), score, task.costs.profiles)
    _print_risks(console, risk_sentences(score, task, shlex.quote(plan_file or "...")))
    notes = [("" if number else "notes", [line]) for number, line in enumerate(profile_lines)]
    _print_facts(console, score, task, [*notes, ("search", effort_parts(outcome))])
    _print_stages(console, score, task)
    if verbose:
        print_to(console, memory_table(score.plan, score.memory), "")
    _print_layer_map(console, score.plan, task.costs.scenario.model)
    print_to(console, "", comparison_table(comparison_rows(outcome), width_of(console)))
    if outcome.what_if:
        print_to(console, "", what_if_table(what_if_rows(outcome)))
    if verbose:
        show_logbook(console, outcome.logbook, seconds_text)
    if plan_file is not None:
        _print_next(console, plan_file)


def show_simulation(
    console: Console, score: PlanScore, task: PlanningTask, written: Sequence[str] = ()
) -> None:
    """Write what a plan would do; a plan that does not fit shows its memory and what is short."""
    profiles = plan_profiles(score, task)
    _print_headline(console, simulation_headline(score, task), score, profiles)
    _print_risks(console, risk_sentences(score, task))
    _print_facts(console, score, task, [])
    _print_stages(console, score, task)
    print_to(console, memory_table(score.plan, score.memory), "")
    _print_layer_map(console, score.plan, task.costs.scenario.model)
    if score.result is not None:
        print_to(console, "", latency_table(_waits(score.result)))
    for text in written:
        print_to(console, "", plain(text))


def _waits(result: SimulationResult) -> list[tuple[str, Summary]]:
    return [
        ("to its first token (TTFT)", result.ttft_s),
        ("per further token (TPOT)", result.tpot_s),
        ("to its last token", result.latency_s),
    ]


def show_front(console: Console, outcome: SearchOutcome) -> None:
    """Write the plans that none beats in both speed and quality, and where they lie."""
    rows, measure = front_rows(outcome), outcome.task.quality.measure
    shown = thinned(rows)
    print_to(console, "", plain("Plans that none found beats in both speed and quality", "bold"))
    print_to(console, front_table(shown, measure))
    if len(shown) < len(rows):
        print_to(console, plain(f"{len(shown)} of {len(rows)} plans; --json has them all", "dim"))
    if len(rows) > 1:
        lines = scatter_lines(front_marks(outcome), width_of(console), SCATTER_HEIGHT, measure)
        print_to(console, "", plain("tokens/s (o: these plans, +: baselines)", "dim"))
        print_to(console, plain("\n".join(lines)))


def show_logbook(
    console: Console, logbook: Sequence[LogbookRow], figure_text: Callable[[float], str]
) -> None:
    """Write the generations of a genetic search, one a row.

    Args:
        console: where to.
        logbook: the rows.
        figure_text: returns a figure of survivors in words, with its unit.
    """
    figures = ("best", "median", "worst")
    table = new_table("generation", "tried", *figures, right=("generation", "tried", *figures))
    for row in logbook:
        texts = [figure_text(row[name]) for name in figures]
        table.add_row(str(row["gen"]), str(row["evaluations"]), *texts)
    print_to(
        console, "", plain("Generations of the genetic search, and what survived", "bold"), table
    )


def show_verification(console: Console, verification: Verification) -> None:
    """Write what a plan's certificate proves."""
    width = width_of(console)
    print_to(console, folded_lines(verification_parts(verification), width, "bold"))
    print_to(console, folded_lines(checked_parts(verification), width))


def show_fit(console: Console, report: FitReport, profile_file: str) -> None:
    """Write the errors of a fit on shapes it has not seen, and which rows it left out."""
    width = width_of(console)
    print_to(console, folded_lines(fit_parts(report), width, "bold"))
    print_to(console, folded_lines(rows_parts(report), width))
    if report.errors:
        unseen = "shapes" if report.profile.machine is None else "sizes"
        print_to(console, "", error_table(f"error on unseen {unseen}", report.errors))
    if report.baseline_errors:
        print_to(console, "", error_table("LLM-PQ's linear model", report.baseline_errors))
    notes = (*report.profile.notes, *report.profile.part_notes)
    print_to(console, "", *(paragraph(note, width) for note in notes))
    print_to(console, "", plain(f"Wrote {profile_file}. Use it with --profile."))


def show_listing(console: Console, listing: Listing) -> None:
    """Write what ships of one kind, one a row."""
    print_to(console, listing_table(listing))


def _print_headline(
    console: Console,
    parts: Sequence[str],
    score: PlanScore,
    profiles: Mapping[str, DeviceProfile],
) -> None:
    print_to(console, folded_lines(parts, width_of(console), "bold"))
    trust = trust_parts(profiles)
    if score.result is not None:
        trust.append(error_sentence(score.result.tokens_per_s, error_fraction(profiles)))
    print_to(console, folded_lines(trust, width_of(console)), "")


def _print_risks(console: Console, sentences: Sequence[str]) -> None:
    if sentences:
        print_to(console, *(paragraph(text, width_of(console)) for text in sentences), "")


def _print_facts(
    console: Console,
    score: PlanScore,
    task: PlanningTask,
    more: Sequence[tuple[str, Sequence[str]]],
) -> None:
    scenario = task.costs.scenario
    batches = micro_batching_parts(score.plan.micro_batching, scenario.workload)
    fits = capacity_parts(batch_capacity(score.plan, scenario))
    speeds = speeds_row(batch_speeds(score, task), score.result)
    shapes = [("scenario", scenario_parts(scenario)), ("batches", batches), ("capacity", fits)]
    kinds = layer_parts(scenario.model)
    shapes[1:1] = [("layers", kinds)] if kinds else []
    rows = [*shapes, *speeds, *more]
    print_to(console, labelled(rows, width_of(console)))


def _print_stages(console: Console, score: PlanScore, task: PlanningTask) -> None:
    rows = stage_rows(score, task)
    print_to(console, "", stage_table(rows, width_of(console)), "")
    why, unused = bottleneck_text(rows), unused_devices(score, task)
    sentences = [*([why] if why else []), *([f"Not used: {joined(unused)}."] if unused else [])]
    if sentences:
        print_to(console, *(paragraph(text, width_of(console)) for text in sentences), "")


def _print_layer_map(console: Console, plan: Plan, model: ModelSpec) -> None:
    width, are_several = width_of(console), len(model.kinds) > 1
    print_to(console, plain(f"Layers by stage and format ({layer_map_legend(plan)})", "dim"))
    for line in layer_map_lines(plan, width, model.kind_of_layer if are_several else ()):
        print_to(console, plain(line.stages, "dim"), _coloured(line.layers))
        if line.kinds:
            print_to(console, plain(line.kinds, "dim"))
    if are_several:
        print_to(console, paragraph(f"Kinds: {layer_kinds_legend(model)}", width))


def _coloured(layers: str) -> Text:
    styles = {each.symbol: each.colour for each in FORMATS.values()}
    runs = groupby(layers)
    return Text.assemble(*(("".join(run), styles.get(symbol, "")) for symbol, run in runs))


def _print_next(console: Console, plan_file: str) -> None:
    name = shlex.quote(plan_file)
    grid = Table.grid(padding=(0, 3))
    grid.add_row(plain(f"  llmpq simulate {name}"), plain("how each request would fare", "dim"))
    grid.add_row(plain(f"  llmpq verify {name}"), plain("check the bound by arithmetic", "dim"))
    print_to(console, "", plain(f"Wrote {plan_file}. Next:"), grid)
