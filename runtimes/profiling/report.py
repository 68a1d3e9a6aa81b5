"""Report of a profile, while it is made and at the end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

import llmpq_sim
from llmpq_sim.core.units import gib
from llmpq_sim.report.console import labelled, paragraph, plain, print_to, width_of
from llmpq_sim.report.execution import size_text
from llmpq_sim.report.formatting import counted, seconds_text
from llmpq_sim.report.progress import progress_line
from runtimes.profiling.settings import ProfileProgress, ProfileSummary
from runtimes.torch_pipeline.weights.linear import NEVER

SCHEMA, VERSION = "llmpq/profile-summary", 1


@contextmanager
def profile_progress(
    enabled: bool, console: Console | None = None
) -> Iterator[Callable[[ProfileProgress], None]]:
    """Give a callback that draws how far a profile is, and clear it at the end."""
    with progress_line(enabled, console) as update:

        def show(progress: ProfileProgress) -> None:
            left = "" if progress.left_s is None else f"about {seconds_text(progress.left_s)} left"
            update(f"{progress.doing[:44]:<44}", progress.fraction, left)

        yield show


def show_profile(console: Console, summary: ProfileSummary) -> None:
    """Write what a profile came to."""
    width, machine = width_of(console), summary.machine
    headline = paragraph(
        f"{counted(summary.rows, 'row')} of timings in {seconds_text(summary.elapsed_s)}", width
    )
    headline.stylize("bold")
    switches = [
        f"{name} from {counted(tokens, 'token')}"
        for name, tokens in summary.dense_from_tokens.items()
        if tokens < NEVER
    ]
    rows = [
        (
            "machine",
            [
                machine.processor,
                counted(machine.threads, "thread"),
                f"timed beside {counted(summary.neighbours, 'busy stage')}",
            ],
        ),
        (
            "reaches",
            [
                f"{machine.memory_bytes_per_s / 1e9:.1f} GB/s",
                f"{machine.flops_per_s / 1e9:.0f} GFLOP/s",
                f"{gib(machine.memory_bytes)} GiB of memory",
                f"a stage takes {size_text(machine.runtime_bytes)} before its tensors",
            ],
        ),
        ("formats", list(machine.formats)),
        ("decodes", switches or ["no weights first: fused kernels are always faster"]),
    ]
    rows += [("left out", parts)] if (parts := _left_out(summary)) else []
    print_to(console, headline, "", labelled(rows, width), "")
    print_to(console, plain(f"Wrote {summary.rows_path} and {summary.machine_path}. Next:"))
    print_to(
        console, plain(f"  llmpq fit {summary.rows_path} --device {machine.device} --out FILE")
    )


def _left_out(summary: ProfileSummary) -> list[str]:
    parts = []
    if summary.too_long:
        parts.append(f"{counted(summary.too_long, 'size')} that would take too long")
    if summary.too_large:
        parts.append(f"{counted(summary.too_large, 'size')} that memory does not hold")
    if summary.disturbed:
        parts.append(f"{counted(summary.disturbed, 'row')} disturbed by other work")
    return parts


def profile_content(summary: ProfileSummary) -> dict[str, Any]:
    """Return what a profile came to as plain data."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "llmpq_version": llmpq_sim.__version__,
        "rows_file": str(summary.rows_path),
        "machine_file": str(summary.machine_path),
        "rows": summary.rows,
        "measured": summary.measured,
        "disturbed": summary.disturbed,
        "too_long": summary.too_long,
        "too_large": summary.too_large,
        "dense_from_tokens": dict(summary.dense_from_tokens),
        "elapsed_s": summary.elapsed_s,
        "neighbours": summary.neighbours,
    }
