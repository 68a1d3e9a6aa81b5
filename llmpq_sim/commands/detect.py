"""The command ``llmpq detect``: a cluster file of this machine's cards."""

from pathlib import Path
from typing import Annotated

import typer

from llmpq_sim.commands.option_groups import grouped


@grouped
def detect(
    listing: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Pasted output of nvidia-smi, rocm-smi or system_profiler; default: ask."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The cluster file, YAML.")] = Path("cluster.yaml"),
    name: Annotated[str, typer.Option(help="Of the cluster.")] = "detected",
) -> None:
    """Write a cluster file of a machine's cards, with the memory that is free on them."""
    from llmpq_sim.core.limits import check_name
    from llmpq_sim.io.clusters import load_cluster
    from llmpq_sim.io.detected_clusters import detected_cluster
    from llmpq_sim.io.files import check_writable, write_text
    from llmpq_sim.report.console import answer_console
    from llmpq_sim.report.summary import kinds_text

    check_name("--name", name)
    check_writable(out)
    write_text(out, detected_cluster(listing, name))
    console = answer_console()
    console.print(f"{kinds_text(load_cluster(str(out)))}\nWrote {out}.", markup=False)
