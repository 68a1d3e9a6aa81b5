"""Report of a deployment, while it runs and at the end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

import llmpq_sim
from llmpq_sim.core.execution import Execution
from llmpq_sim.core.units import gib
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.report.console import labelled, new_table, paragraph, plain, print_to, width_of
from llmpq_sim.report.execution import size_text
from llmpq_sim.report.execution_comparison import compare
from llmpq_sim.report.formatting import (
    bar,
    counted,
    format_parts,
    percent_text,
    rate_text,
    seconds_text,
)
from llmpq_sim.report.json_reports import comparison_content, result_content
from llmpq_sim.report.progress import progress_line
from runtimes.base import Progress
from runtimes.deployment.deploy import Outcome

SCHEMA = "llmpq/deployment"
VERSION = 1
BAR_WIDTH = 8
MOST_REFUSALS = 3


@contextmanager
def deploy_progress(
    enabled: bool, console: Console | None = None
) -> Iterator[Callable[[Progress], None]]:
    """Give a callback that draws how far a deployment is, and clear it at the end.

    Args:
        enabled: whether to draw at all.
        console: where to; stderr unless told. Nothing is drawn where it is no terminal.
    """
    with progress_line(enabled, console) as update:

        def show(progress: Progress) -> None:
            text = f"{progress.phase}: {progress.finished}/{progress.requests} requests"
            update(text, progress.finished / max(progress.requests, 1), progress_text(progress))

        yield show


def progress_text(progress: Progress) -> str:
    """Return throughput and busy shares so far, nothing before there is any."""
    if not progress.output_tokens or not progress.elapsed_s:
        return ""
    busy = " ".join(percent_text(share) for share in progress.busy_fraction)
    return f"{rate_text(progress.output_tokens / progress.elapsed_s)} tokens/s, busy {busy}"


def show_outcome(console: Console, outcome: Outcome, result_file: str, out_file: str) -> None:
    """Write what came of a deployment, the answer first.

    Args:
        console: where to.
        outcome: what came of it.
        result_file: where the measurement was written.
        out_file: where answers are kept, empty for nowhere.
    """
    width = width_of(console)
    if outcome.measured is not None:
        execution = outcome.measured.execution
        headline = paragraph(execution_headline(execution), width)
        headline.stylize("bold")
        print_to(console, headline, "", labelled(_facts(outcome), width))
        print_to(console, "", _stage_table(outcome.saved, execution), "")
    elif outcome.totals is not None:
        print_to(console, plain("Nothing is left to do: every request has its answer."), "")
    for name, message in outcome.rejected[:MOST_REFUSALS]:
        print_to(console, paragraph(f"Refused {name}: {message}", width))
    if len(outcome.rejected) > MOST_REFUSALS:
        others = counted(len(outcome.rejected) - MOST_REFUSALS, "other")
        print_to(console, plain(f"and {others}."))
    for sentence in _files(outcome, result_file, out_file):
        print_to(console, paragraph(sentence, width))


def execution_headline(execution: Execution) -> str:
    """Return the throughput that was measured, and of what."""
    result = execution.result
    return (
        f"{rate_text(result.tokens_per_s)} tokens/s · {counted(result.finished, 'request')}, "
        f"{counted(result.output_tokens, 'token')} in {seconds_text(result.makespan_s)}"
    )


def _facts(outcome: Outcome) -> list[tuple[str, list[str]]]:
    measured = outcome.measured
    if measured is None:
        return []
    execution, result = measured.execution, measured.execution.result
    latency = [
        f"TTFT {seconds_text(result.ttft_s.p50)} p50, {seconds_text(result.ttft_s.p99)} p99",
        f"TPOT {seconds_text(result.tpot_s.p50)} p50, {seconds_text(result.tpot_s.p99)} p99",
    ]
    run = [
        f"{measured.policy} batching",
        f"computed in {execution.dtype}",
        f"loaded in {seconds_text(execution.loading_s)}",
        f"seed {measured.seed}",
    ]
    notes = [("" if i else "notes", [note]) for i, note in enumerate(execution.notes)]
    return [("latency", latency), ("run", run), *notes]


def _stage_table(saved: SavedPlan, execution: Execution) -> Table:
    table = new_table("stage", "device", "layers", "formats", "memory", "busy", right=("stage",))
    scenario = saved.task.costs.scenario
    rows = zip(
        saved.plan.stages,
        saved.plan.first_layers(),
        execution.stage_peak_bytes,
        execution.result.stage_busy_fraction,
        strict=True,
    )
    for number, (stage, first, peak_bytes, busy) in enumerate(rows):
        place = scenario.cluster.index(stage.device, "plan")
        limit = scenario.cluster.devices[place].device.memory_bytes
        table.add_row(
            str(number),
            plain(stage.device),
            f"{first}-{first + len(stage.formats) - 1}",
            ", ".join(format_parts(stage.formats)),
            f"{size_text(peak_bytes)} of {gib(limit)} GiB",
            f"{bar(busy, BAR_WIDTH)} {percent_text(busy):>5}",
        )
    return table


def _files(outcome: Outcome, result_file: str, out_file: str) -> Iterator[str]:
    totals = outcome.totals
    if totals is not None and out_file:
        rejected = f", {totals.rejected} refused" if totals.rejected else ""
        yield f"{out_file} holds {counted(totals.served, 'answer')}{rejected}."
    if outcome.measured is not None:
        yield f"Wrote {result_file}: llmpq compare {result_file} sets it beside the prediction."


def outcome_content(outcome: Outcome, result_file: str, wants_comparison: bool) -> dict[str, Any]:
    """Return what came of a deployment as plain data."""
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "version": VERSION,
        "llmpq_version": llmpq_sim.__version__,
        "seed": outcome.seed,
        "refused": [{"name": name, "message": message} for name, message in outcome.rejected],
        "answers": None if outcome.totals is None else outcome.totals.served,
        "result_file": None,
        "measured": None,
    }
    if outcome.measured is None:
        return content
    execution = outcome.measured.execution
    content |= {
        "result_file": result_file,
        "measured": result_content(execution.result),
        "stage_peak_bytes": list(execution.stage_peak_bytes),
        "loading_s": execution.loading_s,
        "policy": outcome.measured.policy,
        "dtype": execution.dtype,
        "plan_sha256": outcome.measured.plan_sha256,
    }
    if wants_comparison:
        content["comparison"] = comparison_content(compare(outcome.saved, outcome.measured))
    return content
