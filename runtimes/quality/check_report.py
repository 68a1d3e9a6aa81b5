"""Report of a plan whose loss was measured."""

import math
from typing import Any

from rich.console import Console

import llmpq_sim
from llmpq_sim.quality.measured import TextFacts
from llmpq_sim.quality.table import STANDARD_ERRORS
from llmpq_sim.report.console import labelled, new_table, paragraph, plain, print_to, width_of
from llmpq_sim.report.formatting import counted, loss_text
from runtimes.quality.plan_check import PlanCheck

SCHEMA = "llmpq/quality-check"
VERSION = 1


def show_check(console: Console, check: PlanCheck, text: TextFacts) -> None:
    """Write what a plan was predicted and measured to lose, the measurement first."""
    width = width_of(console)
    headline = paragraph(f"{_measured_text(check)} nats of KL per token, measured", width)
    headline.stylize("bold")
    drawn = new_table("", "loss", "perplexity", right=("loss", "perplexity"))
    predicted = _perplexity_text(check.reference_nats + check.predicted)
    drawn.add_row(
        "predicted",
        plain(_with_interval(check.predicted, check.interval)),
        plain(predicted if check.is_comparable else ""),
    )
    drawn.add_row(
        "measured", plain(_measured_text(check)), plain(_perplexity_text(check.plan_nats))
    )
    drawn.add_row("target", plain(loss_text(check.budget)), "")
    drawn.add_row("16 bits", "0", plain(_perplexity_text(check.reference_nats)))
    print_to(console, headline, "", drawn, "")
    windows = f"{counted(text.windows, 'window')} of {text.window_tokens} tokens"
    rows = [("text", [text.name, windows])]
    if not check.is_comparable:
        note = f"predicted and target are {check.measure}: not to be compared with nats of KL"
        rows.append(("note", [note]))
    if check.other_text is not None:
        rows.append(("note", [f"the prediction was measured on another text, {check.other_text}"]))
    print_to(console, labelled(rows, width))
    if check.is_comparable and not check.misses_target:
        print_to(console, "", plain("The plan keeps to its target."))


def missed_text(check: PlanCheck) -> str:
    """Return in a line what a plan that misses its target loses, and what it may."""
    if check.has_diverged:
        return "the plan diverged: its predictions are of no use; allow fewer formats"
    allowed = _with_interval(check.budget, check.interval)
    return (
        f"the plan misses its target: {_measured_text(check)} nats of KL per token measured, "
        f"at most {allowed} expected; search with a smaller budget"
    )


def check_content(check: PlanCheck, text: TextFacts) -> dict[str, Any]:
    """Return what a plan was predicted and measured to lose as plain data."""
    diverged = check.has_diverged
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "llmpq_version": llmpq_sim.__version__,
        "text": {
            "name": text.name,
            "sha256": text.sha256,
            "windows": text.windows,
            "window_tokens": text.window_tokens,
        },
        "predicted": {
            "measure": check.measure,
            "loss": check.predicted,
            "interval": check.interval,
            "budget": check.budget,
            "other_text": check.other_text,
        },
        "measured": {
            "kl_nats": None if diverged else check.divergence.mean,
            "standard_error": check.divergence.standard_error,
            "perplexity": None if diverged else math.exp(check.plan_nats),
            "reference_perplexity": math.exp(check.reference_nats),
            "diverged": diverged,
        },
        "misses_target": check.misses_target,
    }


def _measured_text(check: PlanCheck) -> str:
    half_width = STANDARD_ERRORS * check.divergence.standard_error
    return _with_interval(check.divergence.mean, half_width)


def _with_interval(loss: float, interval: float) -> str:
    if not math.isfinite(loss):
        return "infinite"
    return f"{loss_text(loss)} ± {loss_text(interval)}" if interval else loss_text(loss)


def _perplexity_text(nats: float) -> str:
    return f"{math.exp(nats):.2f}" if math.isfinite(nats) else "infinite"
