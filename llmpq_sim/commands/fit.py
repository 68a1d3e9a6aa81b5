"""The commands about what plans are made of: ``llmpq fit`` and ``llmpq list``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from llmpq_sim.commands.option_groups import grouped
from llmpq_sim.commands.options import JsonFlag


@grouped
def fit(
    measurements: Annotated[
        list[Path], typer.Argument(help="Tidy rows or public tables, CSV or parquet.")
    ],
    device: Annotated[str, typer.Option(help="Bundled device that was measured.")],
    out: Annotated[Path, typer.Option(help="Where the profile is written.")],
    kernels: Annotated[
        str | None, typer.Option(help="Name of the kernel set; default: from the rows.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same profile.", min=0)] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Fit a latency profile to profiled kernels, and report its error on unseen shapes."""
    from llmpq_sim.core.records import to_dict
    from llmpq_sim.io.files import check_writable, write_json
    from llmpq_sim.io.profiles import fit_measurements
    from llmpq_sim.report.console import answer_console, print_json
    from llmpq_sim.report.json_reports import fit_content
    from llmpq_sim.report.progress import steps_shown
    from llmpq_sim.report.search import show_fit

    check_writable(out)
    with steps_shown(sys.stderr.isatty()) as on_progress:
        report = fit_measurements(measurements, device, kernels, seed, on_progress)
    write_json(out, to_dict(report.profile))
    if as_json:
        print_json(fit_content(report, str(out)))
        return
    show_fit(answer_console(), report, str(out))


@grouped
def list_bundled(
    kind: Annotated[str, typer.Argument(help="models, devices, clusters, formats, links, traces.")],
    as_json: JsonFlag = False,
) -> None:
    """Show what ships: models, devices, clusters, weight formats, links or traces."""
    from llmpq_sim.report.console import answer_console, print_json
    from llmpq_sim.report.search import show_listing
    from llmpq_sim.report.tables import bundled_listing
    from runtimes.torch_pipeline.engine.families import FAMILIES

    listing = bundled_listing(kind, FAMILIES)
    if as_json:
        print_json(listing.content())
        return
    show_listing(answer_console(), listing)
