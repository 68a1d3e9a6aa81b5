"""Report of a demonstration."""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, TextIO

from rich.console import Console

import llmpq_sim
from llmpq_sim.report.console import new_table, paragraph, print_to, width_of
from llmpq_sim.report.execution import error_text, show_comparison
from llmpq_sim.report.execution_comparison import Comparison
from llmpq_sim.report.formatting import format_parts, rate_text, seconds_text
from llmpq_sim.report.json_reports import comparison_content
from runtimes.demo.demo import Demonstration

SCHEMA = "llmpq/demonstration"
VERSION = 1


def steps_told(stream: TextIO) -> Callable[[str], None]:
    """Return a callback that writes each step with how long after the start it begins."""
    began_s = monotonic()

    def tell(step: str) -> None:
        stream.write(f"{seconds_text(monotonic() - began_s):>8}  {step}\n")
        stream.flush()

    return tell


def show_demonstration(console: Console, shown: Demonstration) -> None:
    """Write the plan found, predicted beside measured, and what it gains over an even split."""
    show_comparison(console, shown.found)
    width = width_of(console)
    table = new_table(
        "carried out", "tokens/s\npredicted", "\nmeasured", "\nerror", "stages",
        right=("tokens/s\npredicted", "\nmeasured", "\nerror"),
    )  # fmt: skip
    for name, comparison in (("plan found", shown.found), ("even split", shown.even)):
        figure = comparison.figures[0]
        table.add_row(
            name,
            rate_text(figure.predicted),
            rate_text(figure.measured),
            error_text(figure),
            stages_text(comparison),
        )
    print_to(console, "", table, "")
    print_to(console, paragraph(gain_sentence(shown), width))
    print_to(console, paragraph(runs_sentence(shown), width))
    folder = shown.settings.folder
    print_to(console, paragraph(f"Profiles, plan, model and measurements are in {folder}.", width))


def gain_sentence(shown: Demonstration) -> str:
    """Return what the plan gains over an even split, predicted and measured."""
    return (
        f"The plan found is x{shown.measured_speedup:.2f} as fast as the even split when carried "
        f"out; predicted was x{shown.predicted_speedup:.2f}."
    )


def runs_sentence(shown: Demonstration) -> str:
    """Return how far the runs lie apart, of which the median ones are shown."""
    return (
        f"Of {len(shown.found_runs)} runs in turns the median ones are shown: the plan reached "
        f"{_span(shown.found_runs)} tokens/s, the even split {_span(shown.even_runs)}."
    )


def _span(runs: Sequence[Comparison]) -> str:
    rates = [run.figures[0].measured for run in runs]
    return f"{rate_text(min(rates))} to {rate_text(max(rates))}"


def stages_text(comparison: Comparison) -> str:
    """Return the layers and formats of each stage of what was carried out."""
    parts = [
        f"{stage.device}: {', '.join(format_parts(stage.formats))}"
        for stage in comparison.saved.plan.stages
    ]
    return "\n".join(parts)


def demonstration_content(shown: Demonstration) -> dict[str, Any]:
    """Return a demonstration as plain data."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "llmpq_version": llmpq_sim.__version__,
        "seed": shown.settings.seed,
        "model": shown.settings.model,
        "predicted_speedup": shown.predicted_speedup,
        "measured_speedup": shown.measured_speedup,
        "found": comparison_content(shown.found),
        "even": comparison_content(shown.even),
        "found_runs_tokens_per_s": [run.figures[0].measured for run in shown.found_runs],
        "even_runs_tokens_per_s": [run.figures[0].measured for run in shown.even_runs],
    }
