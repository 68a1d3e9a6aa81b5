"""The commands that measure a machine: ``llmpq profile`` and ``llmpq cluster``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from llmpq_sim.commands.interruption import keeping
from llmpq_sim.commands.option_groups import grouped
from llmpq_sim.commands.options import JsonFlag, Seed
from runtimes.commands.installed import check_torch


@dataclass(frozen=True)
class TimedKernels:
    """What is timed."""

    model: Annotated[
        list[str] | None,
        typer.Option(help="Bundled model or folder whose matrices are timed; repeatable."),
    ] = None
    formats: Annotated[str | None, typer.Option(help="As int4,bf16; default: all.")] = None
    dtype: Annotated[
        Literal["bf16", "fp16"] | None, typer.Option(help="Of what is not quantized.")
    ] = None
    is_quick: Annotated[bool, typer.Option("--quick", help="A thinner grid: some minutes.")] = False
    uses_cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs", help="For a deployment with --cuda-graphs.")
    ] = False


@dataclass(frozen=True)
class TimedDevice:
    """On what it is timed."""

    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu"
    threads: Annotated[
        int | None, typer.Option(help="Processor cores; default: all of them.", min=1)
    ] = None
    neighbours: Annotated[
        int | None,
        typer.Option(help="Stages that keep other cores busy; default: all there is room for."),
    ] = None
    name: Annotated[str | None, typer.Option(help="What to call the device; default: cpu.")] = None
    seed: Seed = 0


@dataclass(frozen=True)
class RowsOutput:
    """What is written."""

    out: Annotated[Path, typer.Option(help="Rows of timings, a .csv file.")] = Path("rows.csv")
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the rows in --out.")] = False
    as_json: JsonFlag = False


@grouped
def profile(timed: TimedKernels, machine: TimedDevice, output: RowsOutput) -> None:
    """Time this machine's kernels, layers and links, for llmpq fit."""
    check_torch("llmpq profile times kernels")
    from llmpq_sim.io.files import check_writable
    from llmpq_sim.io.locks import locked
    from llmpq_sim.report.console import answer_console, print_json
    from runtimes.profiling.profiler import profile as time_kernels
    from runtimes.profiling.report import profile_content, profile_progress, show_profile
    from runtimes.profiling.settings import DEFAULT_MODELS, ProfileSettings

    formats, name = timed.formats, machine.name
    settings = ProfileSettings(
        out=output.out,
        device=machine.device,
        threads=machine.threads,
        models=tuple(timed.model) if timed.model else DEFAULT_MODELS,
        formats=tuple(part.strip() for part in formats.split(",")) if formats else None,
        is_quick=timed.is_quick,
        name=name or ("cpu" if machine.device == "cpu" else None),
        resume=output.resume,
        dtype=timed.dtype,
        seed=machine.seed,
        neighbours=machine.neighbours,
        uses_cuda_graphs=timed.uses_cuda_graphs,
    )
    check_writable(output.out)
    with (
        locked(output.out),
        keeping(lambda: _kept(output.out)),
        profile_progress(sys.stderr.isatty()) as on_progress,
    ):
        summary = time_kernels(settings, on_progress)
    if output.as_json:
        print_json(profile_content(summary))
        return
    show_profile(answer_console(), summary)


def _kept(rows: Path) -> str:
    return f"rows timed so far are kept in {rows}, --resume does the rest" if rows.exists() else ""


@grouped
def cluster(
    profiles: Annotated[
        list[Path], typer.Argument(help="Profiles of your own devices, one for each kind.")
    ],
    from_profiles: Annotated[  # noqa: ARG001 - says what the arguments are
        bool, typer.Option("--from-profiles", help="The files are profiles; nothing else can be.")
    ] = True,
    out: Annotated[Path, typer.Option(help="The cluster file, YAML.")] = Path("cluster.yaml"),
    name: Annotated[str, typer.Option(help="Of the cluster.")] = "local",
    count: Annotated[int, typer.Option(help="Devices of each kind.", min=1)] = 1,
) -> None:
    """Write a cluster file of the devices that were profiled on this machine."""
    from llmpq_sim.io.files import check_writable, write_text
    from llmpq_sim.io.profiled_clusters import cluster_from_profiles
    from llmpq_sim.report.console import answer_console

    check_writable(out)
    write_text(out, cluster_from_profiles(profiles, name, count))
    answer_console().print(f"Wrote {out}.", markup=False)
