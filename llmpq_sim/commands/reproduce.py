"""The command that repeats the paper's evaluation: ``llmpq reproduce``."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmpq_sim.commands.interruption import keeping
from llmpq_sim.commands.option_groups import grouped
from llmpq_sim.core.errors import InputError

if TYPE_CHECKING:
    from llmpq_sim.paper.cases import Case


@dataclass(frozen=True)
class CaseOptions:
    """What is repeated."""

    cluster: Annotated[
        list[int] | None,
        typer.Option(help="Only this of the paper's clusters; repeatable.", min=1, max=11),
    ] = None
    workload: Annotated[
        Literal["main", "lat"] | None,
        typer.Option(help="Only 32 x 512+100 (main) or 32 x 128+200 (lat)."),
    ] = None
    gamma: Annotated[
        float, typer.Option(help="Share of the output generated: 0.8 as logged, or 1.")
    ] = 0.8
    kernels: Annotated[
        Literal["gptq-2023", "spec"] | None,
        typer.Option(help="Only the paper's kernels, or data-sheet rooflines for current ones."),
    ] = None
    ablations: Annotated[
        bool,
        typer.Option(
            "--ablations", help="Instead: our planner without one decision, or with theta."
        ),
    ] = False

    def cases(self) -> "list[Case]":
        """Return the cases that are asked for."""
        from llmpq_sim.paper.cases import KERNEL_SETS, all_cases
        from llmpq_sim.paper.measurements import CLUSTERS, WORKLOADS
        from llmpq_sim.paper.reproduction import checked_gamma

        return all_cases(
            tuple(sorted(set(self.cluster))) if self.cluster else tuple(CLUSTERS),
            (self.workload,) if self.workload else tuple(WORKLOADS),
            checked_gamma(self.gamma),
            (self.kernels,) if self.kernels else KERNEL_SETS,
        )


@dataclass(frozen=True)
class ReportOutput:
    """What is written."""

    out: Annotated[
        Path | None,
        typer.Option(help="Folder for report, plots and results; what is there is not redone."),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a line for each result.")] = False
    as_markdown: Annotated[
        bool, typer.Option("--md", help="Print the report, which is the default.")
    ] = False

    def kept(self) -> str:
        """Return what an interruption leaves."""
        if self.out is None:
            return ""
        return f"what was finished is kept in {self.out}, the same command does the rest"


@grouped
def reproduce(wanted: CaseOptions, output: ReportOutput) -> None:
    """Repeat LLM-PQ's evaluation in the simulator, beside what its authors measured."""
    if output.as_json + output.as_csv + output.as_markdown > 1:
        raise InputError("--json, --csv, --md: expected one of them, got several")
    if wanted.ablations:
        _ablate(wanted.cases(), wanted.cluster is None, output)
        return
    from llmpq_sim.paper.report import csv_text, markdown, reproduction_content
    from llmpq_sim.paper.reproduction import reproduce_cases, write_reproduction
    from llmpq_sim.report.console import print_json

    cases = wanted.cases()
    with _working(output) as on_step:
        results, logged = reproduce_cases(cases, output.out, os.cpu_count() or 1, on_step)
    if output.out is not None:
        write_reproduction(output.out, results, logged)
    if output.as_json:
        print_json(reproduction_content(results, logged))
    else:
        sys.stdout.write(csv_text(results) if output.as_csv else markdown(results, logged))


def _ablate(cases: "list[Case]", with_mixes: bool, output: ReportOutput) -> None:
    """Plan without one decision at a time, and show what is left."""
    from llmpq_sim.paper.ablation_report import (
        ablations_content,
        ablations_csv,
        ablations_markdown,
    )
    from llmpq_sim.paper.evolution import MIXES
    from llmpq_sim.paper.reproduction import ablate_cases, write_ablations
    from llmpq_sim.report.console import print_json

    with _working(output) as on_step:
        mixes = MIXES if with_mixes else ()
        results = ablate_cases(cases, mixes, output.out, os.cpu_count() or 1, on_step)
    if output.out is not None:
        write_ablations(output.out, results)
    if output.as_json:
        print_json(ablations_content(results))
    else:
        sys.stdout.write(ablations_csv(results) if output.as_csv else ablations_markdown(results))


@contextmanager
def _working(output: ReportOutput) -> Iterator[Callable[[str], None]]:
    """Show the step at work meanwhile, and say at an interruption what is kept."""
    from llmpq_sim.report.progress import native_output_on_stderr, steps_shown

    with (
        keeping(output.kept),
        native_output_on_stderr(),
        steps_shown(sys.stderr.isatty()) as on_step,
    ):
        yield on_step
