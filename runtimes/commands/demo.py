"""The command that shows all of llmpq on one machine: ``llmpq demo``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from llmpq_sim.commands.interruption import keeping
from llmpq_sim.commands.option_groups import grouped
from llmpq_sim.commands.options import JsonFlag, Seed
from runtimes.commands.installed import check_torch


@dataclass(frozen=True)
class DemoOptions:
    """What is demonstrated."""

    folder: Annotated[Path, typer.Option("--dir", help="Where its files go.")] = Path("demo")
    model: Annotated[
        str, typer.Option(help="Bundled model or folder; its weights are made up.")
    ] = "llama-160m"
    requests: Annotated[int, typer.Option("--batch", help="Requests.", min=1)] = 8
    prompt_tokens: Annotated[int, typer.Option(help="Of each prompt.", min=1)] = 64
    output_tokens: Annotated[int, typer.Option(help="To generate per request.", min=2)] = 48
    runs: Annotated[int, typer.Option(help="Of each plan, in turns.", min=1)] = 3
    seed: Seed = 0


@grouped
def demo(wanted: DemoOptions, as_json: JsonFlag = False) -> None:
    """Profile this machine, plan for two unequal cores, carry the plan out, and compare."""
    check_torch("llmpq demo profiles and serves")
    from llmpq_sim.io.files import make_folder

    make_folder(wanted.folder)
    from llmpq_sim.report.console import answer_console, print_json
    from runtimes.demo.demo import DemoSettings, demonstrate
    from runtimes.demo.report import demonstration_content, show_demonstration, steps_told
    from runtimes.profiling.report import profile_progress

    settings = DemoSettings(**vars(wanted))
    kept = f"what was made until then is in {wanted.folder}; a new demo begins anew"
    with keeping(lambda: kept), profile_progress(sys.stderr.isatty()) as on_profile:
        shown = demonstrate(settings, steps_told(sys.stderr), on_profile)
    if as_json:
        print_json(demonstration_content(shown))
        return
    show_demonstration(answer_console(), shown)
