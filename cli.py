"""Command line `llmpq`: the app, the commands, and how failures end.

Every command imports what it needs when it runs, so that ``llmpq --help`` starts at once.
"""

import json
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import llmpq_sim
from llmpq_sim.commands.describe import describe
from llmpq_sim.commands.detect import detect
from llmpq_sim.commands.fit import fit, list_bundled
from llmpq_sim.commands.guard import Failure, guarded
from llmpq_sim.commands.help import GroupedCommand, GroupedCommands
from llmpq_sim.commands.plan import plan
from llmpq_sim.commands.reproduce import reproduce
from llmpq_sim.commands.search import search
from llmpq_sim.commands.simulate import simulate, verify
from llmpq_sim.io.termination import interrupt_on_sigterm
from llmpq_sim.report.encoding import allow_plain_characters
from runtimes.commands.demo import demo
from runtimes.commands.deploy import compare, deploy
from runtimes.commands.profile import cluster, profile
from runtimes.commands.quality import quality

EXIT_CODES = """\
Exit codes: 0 done, 1 refused or infeasible, 2 wrong usage, 70 a fault of llmpq,
130 Ctrl-C, 143 SIGTERM. With --json a failure is {"error": {"message", "kind"}}."""

COMMANDS = (
    (
        "Plan",
        search,
        "llmpq search --model llama-3.1-70b --cluster a100-l40s --quality-at-least int4",
    ),
    (
        "Plan",
        plan,
        "llmpq plan --model llama-3.1-70b --cluster a100-l40s --layers 40,20,20 "
        "--layer-formats int4",
    ),
    ("Plan", simulate, "llmpq simulate plan.json --trace azure-conv --rate 1 --slo-ttft-ms 500"),
    ("Plan", verify, "llmpq verify plan.json"),
    ("Plan", list_bundled, "llmpq list clusters"),
    ("Plan", describe, "llmpq describe model qwen3-30b-a3b"),
    ("Run", deploy, "llmpq deploy plan.json --model-dir DIR --requests in.jsonl --out out.jsonl"),
    ("Run", compare, "llmpq compare result.json --plan plan.json"),
    ("Measure", profile, "llmpq profile --quick --out rows.csv"),
    ("Measure", fit, "llmpq fit rows.csv --device cpu --out cpu.json"),
    ("Measure", cluster, "llmpq cluster cpu.json --count 2 --out lab.yaml"),
    ("Measure", detect, "llmpq detect --out lab.yaml"),
    ("Measure", quality, "llmpq quality DIR --text mine.txt --out q.json"),
    ("See it work", demo, "llmpq demo"),
    ("See it work", reproduce, "llmpq reproduce --cluster 3"),
)
"""The commands as help lists them: the heading, what runs, and an example."""

app = typer.Typer(
    name="llmpq",
    cls=GroupedCommands,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line and exit, as docs/exit-codes.md says."""
    interrupt_on_sigterm()
    allow_plain_characters(sys.stdout, sys.stderr)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Return the exit code of a command line; a failure is said on stderr, and in JSON if asked."""

    def say(failure: Failure) -> None:
        print(failure.shown, file=sys.stderr)  # noqa: T201
        if "--json" in arguments:
            print(json.dumps({"error": failure.content()}, indent=1))  # noqa: T201

    return guarded(lambda: app(list(arguments), standalone_mode=False), say)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"llmpq {llmpq_sim.__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _llmpq(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Plan how to serve a large language model on a mixed set of devices."""


for _heading, _command, _example in COMMANDS:
    app.command(
        "list" if _command is list_bundled else None,
        cls=GroupedCommand,
        rich_help_panel=_heading,
        epilog=f"Example:\n  {_example}",
    )(_command)


if __name__ == "__main__":
    main()
