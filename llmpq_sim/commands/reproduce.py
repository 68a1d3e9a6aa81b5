"""Command `llmpq reproduce`: the paper's evaluation repeated.

Like those of ``cli.py`` it parses, calls and prints, and imports what it needs when it runs.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from llmpq_sim.paper.cases import Case


def reproduce(
    cluster: Annotated[
        list[int] | None,
        typer.Option(help="Only this of the paper's clusters; repeatable.", min=1, max=11),
    ] = None,
    workload: Annotated[
        Literal["main", "lat"] | None,
        typer.Option(help="Only 32 x 512+100 (main) or 32 x 128+200 (lat)."),
    ] = None,
    gamma: Annotated[
        float, typer.Option(help="Share of the output generated: 0.8 as logged, or 1.")
    ] = 0.8,
    kernels: Annotated[
        Literal["gptq-2023", "spec"] | None,
        typer.Option(help="Only the paper's kernels, or data-sheet rooflines for current ones."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for report, plots and results; what is there is not redone."),
    ] = None,
    ablations: Annotated[
        bool,
        typer.Option(
            "--ablations", help="Instead: our planner without one decision, or with theta."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a line for each result.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--md", help="Print the report, which is the default.")
    ] = False,
) -> None:
    """Repeat LLM-PQ's evaluation in the simulator, beside what its authors measured."""
    from llmpq_sim.paper.cases import KERNEL_SETS, all_cases
    from llmpq_sim.paper.measurements import CLUSTERS, WORKLOADS
    from llmpq_sim.paper.report import csv_text, markdown, reproduction_content
    from llmpq_sim.paper.reproduction import checked_gamma, reproduce_cases, write_reproduction
    from llmpq_sim.report.native_output import native_output_on_stderr
    from llmpq_sim.report.output import print_json
    from llmpq_sim.report.progress import steps_shown

    if as_json + as_csv + as_markdown > 1:
        from llmpq_sim.core.errors import InputError

        raise InputError("--json, --csv, --md: expected one of them, got several")
    cases = all_cases(
        tuple(sorted(set(cluster))) if cluster else tuple(CLUSTERS),
        (workload,) if workload else tuple(WORKLOADS),
        checked_gamma(gamma),
        (kernels,) if kernels else KERNEL_SETS,
    )
    if ablations:
        _ablate(cases, out, as_csv=as_csv, as_json=as_json)
        return
    with native_output_on_stderr(), steps_shown(sys.stderr.isatty()) as on_step:
        results, logged = reproduce_cases(cases, out, os.cpu_count() or 1, on_step)
    if out is not None:
        write_reproduction(out, results, logged)
    if as_json:
        print_json(reproduction_content(results, logged))
    else:
        sys.stdout.write(csv_text(results) if as_csv else markdown(results, logged))


def _ablate(cases: "list[Case]", out: Path | None, *, as_csv: bool, as_json: bool) -> None:
    """Plan without one decision at a time, and show what is left."""
    from llmpq_sim.paper.ablation_report import (
        ablations_content,
        ablations_csv,
        ablations_markdown,
    )
    from llmpq_sim.paper.reproduction import ablate_cases, write_ablations
    from llmpq_sim.report.native_output import native_output_on_stderr
    from llmpq_sim.report.output import print_json
    from llmpq_sim.report.progress import steps_shown

    with native_output_on_stderr(), steps_shown(sys.stderr.isatty()) as on_step:
        results = ablate_cases(cases, out, os.cpu_count() or 1, on_step)
    if out is not None:
        write_ablations(out, results)
    if as_json:
        print_json(ablations_content(results))
    else:
        sys.stdout.write(ablations_csv(results) if as_csv else ablations_markdown(results))
