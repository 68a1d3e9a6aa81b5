"""The command that tells what is known of one thing: ``llmpq describe``."""

from typing import Annotated

import typer

from llmpq_sim.commands.option_groups import grouped
from llmpq_sim.commands.options import JsonFlag


@grouped
def describe(
    kind: Annotated[str, typer.Argument(help="A model, device, cluster or format.")],
    name: Annotated[str, typer.Argument(help="Its name; of a model or cluster also its place.")],
    as_json: JsonFlag = False,
) -> None:
    """Show all that is known of a model, a device, a cluster or a weight format."""
    from llmpq_sim.report.console import answer_console, print_json
    from llmpq_sim.report.descriptions import describe as described
    from llmpq_sim.report.descriptions import show_description
    from runtimes.torch_pipeline.engine.families import FAMILIES

    found = described(kind, name, FAMILIES)
    if as_json:
        print_json(found.content())
        return
    show_description(answer_console(), found)
