"""Command line `llmpq`: the app, the commands, and how failures end.

Every command imports what it needs when it runs, so that ``llmpq --help`` starts at once.
"""

import sys

import typer

from llmpq_sim.commands.fit import fit, list_bundled
from llmpq_sim.commands.guard import guarded
from llmpq_sim.commands.reproduce import reproduce
from llmpq_sim.commands.search import search
from llmpq_sim.commands.simulate import simulate, verify
from runtimes.commands.demo import demo
from runtimes.commands.deploy import compare, deploy
from runtimes.commands.profile import cluster, profile
from runtimes.commands.quality import quality

app = typer.Typer(
    name="llmpq",
    help="Plan how to serve a large language model on a mixed set of devices.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; whatever ends it is one line on stderr and an exit code."""
    sys.exit(guarded(app))


for _command in (search, simulate, verify, fit):
    app.command()(_command)
app.command("list")(list_bundled)
for _command in (quality, deploy, compare, profile, cluster, demo, reproduce):
    app.command()(_command)


if __name__ == "__main__":
    main()
