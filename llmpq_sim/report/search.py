"""Screens of a search, a simulation, a proof, a fit and what ships."""

import shlex
from collections.abc import Mapping, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmpq_sim.api.verify import Verification
from llmpq_sim.core.plan import Plan
from llmpq_sim.latency.fitting.fit import FitReport
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.report.comparison import comparison_rows, what_if_rows
from llmpq_sim.report.console import folded_lines, labelled, paragraph, plain, put, width_of
from llmpq_sim.report.formatting import joined
from llmpq_sim.report.front import front_marks, front_rows, scatter_lines, thinned
from llmpq_sim.report.layer_map import SYMBOLS, strip_legend, strip_lines
from llmpq_sim.report.listings import Listing
from llmpq_sim.report.quality import risk_sentences
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
    comparison_table,
    error_table,
    front_table,
    latency_table,
    listing_table,
    stage_table,
    what_if_table,
)
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.planner import SearchOutcome
from llmpq_sim.search.scoring import PlanScore

SCATTER_HEIGHT = 14

FORMAT_STYLES = {"fp16": "magenta", "bf16": "magenta", "int8": "cyan", "int4": "green"}


def show_search(
    console: Console,
    outcome: SearchOutcome,
    plan_file: str | None,
    profile_lines: Sequence[str] = (),
) -> None:
    """Write what a search found, the answer first.

    Args:
        console: where to.
        outcome: what was found.
        plan_file: name of the file the plan was written to, or None.
        profile_lines: what else is to be said of latency profiles and measured losses.
    """
    score, task = outcome.best, outcome.task
    _put_headline(console, search_headline(outcome), score, task.costs.profiles)
    _put_risks(console, risk_sentences(score, task, shlex.quote(plan_file or "...")))
    notes = [("" if number else "notes", [line]) for number, line in enumerate(profile_lines)]
    _put_facts(console, score, task, [*notes, ("search", effort_parts(outcome))])
    _put_stages(console, score, task)
    _put_strip(console, score.plan)
    put(console, "", comparison_table(comparison_rows(outcome), width_of(console)))
    if outcome.what_if:
        put(console, "", what_if_table(what_if_rows(outcome)))
    if plan_file is not None:
        _put_next(console, plan_file)


def show_simulation(
    console: Console, score: PlanScore, task: PlanningTask, written: Sequence[str] = ()
) -> None:
    """Write what a plan would do; a plan that does not fit shows its memory and what is short."""
    profiles = plan_profiles(score, task)
    _put_headline(console, simulation_headline(score, task), score, profiles)
    _put_risks(console, risk_sentences(score, task))
    _put_facts(console, score, task, [])
    _put_stages(console, score, task)
    _put_strip(console, score.plan)
    if score.result is not None:
        put(console, "", latency_table(score.result))
    for text in written:
        put(console, "", plain(text))


def show_front(console: Console, outcome: SearchOutcome) -> None:
    """Write the plans that none beats in both speed and quality, and where they lie."""
    rows, measure = front_rows(outcome), outcome.task.quality.measure
    shown = thinned(rows)
    put(console, "", plain("Plans that none found beats in both speed and quality", "bold"))
    put(console, front_table(shown, measure))
    if len(shown) < len(rows):
        put(console, plain(f"{len(shown)} of {len(rows)} plans; --json has them all", "dim"))
    if len(rows) > 1:
        lines = scatter_lines(front_marks(outcome), width_of(console), SCATTER_HEIGHT, measure)
        put(console, "", plain("tokens/s (o: these plans, +: baselines)", "dim"))
        put(console, plain("\n".join(lines)))


def show_verification(console: Console, verification: Verification) -> None:
    """Write what a plan's certificate proves."""
    width = width_of(console)
    put(console, folded_lines(verification_parts(verification), width, "bold"))
    put(console, folded_lines(checked_parts(verification), width))


def show_fit(console: Console, report: FitReport, profile_file: str) -> None:
    """Write the errors of a fit on shapes it has not seen, and which rows it left out."""
    width = width_of(console)
    put(console, folded_lines(fit_parts(report), width, "bold"))
    put(console, folded_lines(rows_parts(report), width))
    if report.errors:
        unseen = "shapes" if report.profile.machine is None else "sizes"
        put(console, "", error_table(f"error on unseen {unseen}", report.errors))
    if report.baseline_errors:
        put(console, "", error_table("LLM-PQ's linear model", report.baseline_errors))
    put(console, "", *(paragraph(note, width) for note in report.profile.notes))
    put(console, "", plain(f"Wrote {profile_file}. Use it with --profile."))


def show_listing(console: Console, listing: Listing) -> None:
    """Write what ships of one kind, one a row."""
    put(console, listing_table(listing))


def _put_headline(
    console: Console,
    parts: Sequence[str],
    score: PlanScore,
    profiles: Mapping[str, DeviceProfile],
) -> None:
    put(console, folded_lines(parts, width_of(console), "bold"))
    trust = trust_parts(profiles)
    if score.result is not None:
        trust.append(error_sentence(score.result.tokens_per_s, error_fraction(profiles)))
    put(console, folded_lines(trust, width_of(console)), "")


def _put_risks(console: Console, sentences: Sequence[str]) -> None:
    if sentences:
        put(console, *(paragraph(text, width_of(console)) for text in sentences), "")


def _put_facts(
    console: Console,
    score: PlanScore,
    task: PlanningTask,
    more: Sequence[tuple[str, Sequence[str]]],
) -> None:
    scenario = task.costs.scenario
    batches = micro_batching_parts(score.plan.micro_batching, scenario.workload.requests)
    rows = [("scenario", scenario_parts(scenario)), ("batches", batches), *more]
    put(console, labelled(rows, width_of(console)))


def _put_stages(console: Console, score: PlanScore, task: PlanningTask) -> None:
    rows = stage_rows(score, task)
    put(console, "", stage_table(rows, width_of(console)), "")
    why, unused = bottleneck_text(rows), unused_devices(score, task)
    sentences = [*([why] if why else []), *([f"Not used: {joined(unused)}."] if unused else [])]
    if sentences:
        put(console, *(paragraph(text, width_of(console)) for text in sentences), "")


def _put_strip(console: Console, plan: Plan) -> None:
    put(console, plain(f"Layers by stage and format ({strip_legend(plan)})", "dim"))
    for line in strip_lines(plan, width_of(console)):
        put(console, plain(line.stages, "dim"), _coloured(line.layers))


def _coloured(layers: str) -> Text:
    styles = {SYMBOLS[name]: style for name, style in FORMAT_STYLES.items()}
    runs = groupby(layers)
    return Text.assemble(*(("".join(run), styles.get(symbol, "")) for symbol, run in runs))


def _put_next(console: Console, plan_file: str) -> None:
    name = shlex.quote(plan_file)
    grid = Table.grid(padding=(0, 3))
    grid.add_row(plain(f"  llmpq simulate {name}"), plain("how each request would fare", "dim"))
    grid.add_row(plain(f"  llmpq verify {name}"), plain("check the bound by arithmetic", "dim"))
    put(console, "", plain(f"Wrote {plan_file}. Next:"), grid)
