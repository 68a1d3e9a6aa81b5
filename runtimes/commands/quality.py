"""The command that measures quality: ``llmpq quality``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmpq_sim.commands.interruption import keeping
from llmpq_sim.commands.option_groups import grouped
from llmpq_sim.commands.options import JsonFlag, Seed
from llmpq_sim.core.errors import InputError
from runtimes.commands.installed import check_torch

if TYPE_CHECKING:
    from llmpq_sim.quality.measured import MeasuredQuality
    from runtimes.quality.measured_model import MeasuredModel
    from runtimes.quality.settings import QualitySettings
    from runtimes.quality.streaming import Run

Method = Literal["kl", "variance", "variance-stochastic", "hessian"]

DEFAULT_OUT = Path("quality.json")
DEFAULT_CHECK = 8


@dataclass(frozen=True)
class Measurement:
    """What is measured."""

    method: Annotated[
        Method | None,
        typer.Option(help="Measured KL (default), or an indicator from one pass."),
    ] = None
    formats: Annotated[
        str | None, typer.Option(help="As int4,int8; default: all that quantize.")
    ] = None
    quantizer: Annotated[
        str | None, typer.Option(help="hqq, or as int4=hqq,int3=rtn; default: round to nearest.")
    ] = None
    check: Annotated[
        int | None,
        typer.Option(help="Mixed assignments to measure whole, to judge sums; default: 8.", min=0),
    ] = None
    plan: Annotated[
        Path | None, typer.Option(help="Measure this plan instead, against its prediction.")
    ] = None
    profile: Annotated[
        list[Path] | None,
        typer.Option(help="Latency profile of your own that --plan was made with; repeatable."),
    ] = None

    @property
    def is_of_kl(self) -> bool:
        """Whether KL is measured, rather than an indicator."""
        return self.method in (None, "kl")


@dataclass(frozen=True)
class MeasuredText:
    """What it is measured on."""

    text: Annotated[
        Path | None,
        typer.Option(
            help="Text to measure on, UTF-8; best one like what will be served. Default: a bundled "
            "one of general English."
        ),
    ] = None
    window_tokens: Annotated[int, typer.Option(help="Of each window of the text.", min=2)] = 512
    windows: Annotated[int, typer.Option(help="At most; drawn where the text has more.", min=1)] = (
        16
    )


@dataclass(frozen=True)
class Computing:
    """How it is computed."""

    dtype: Annotated[
        Literal["bf16", "fp16", "fp32"] | None,
        typer.Option(help="Of all that is not quantized; default: the model's."),
    ] = None
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu"
    seed: Seed = 0


@dataclass(frozen=True)
class QualityOutput:
    """What is written."""

    out: Annotated[
        Path | None, typer.Option(help="Where the losses are written; default: quality.json.")
    ] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run, if there is one.")
    ] = False
    as_json: JsonFlag = False

    @property
    def file(self) -> Path:
        """Where the losses are written."""
        return self.out or DEFAULT_OUT


@grouped
def quality(
    model_dir: Annotated[
        Path, typer.Argument(help="Folder of the model, as Hugging Face lays it out.")
    ],
    wanted: Measurement,
    text: MeasuredText,
    computing: Computing,
    output: QualityOutput,
) -> None:
    """Measure how much quality each layer loses in each format, or what a whole plan loses."""
    check_torch("llmpq quality measures")
    _check_options(wanted, output)
    from llmpq_sim.io.locks import locked
    from runtimes.quality.settings import QualitySettings, chosen_formats
    from runtimes.torch_pipeline.weights.quantizers import parse_quantizers

    target = wanted.plan or output.file
    settings = QualitySettings(
        model_dir=model_dir,
        formats=chosen_formats(wanted.formats),
        quantizers=parse_quantizers(wanted.quantizer) if wanted.quantizer else {},
        check=DEFAULT_CHECK if wanted.check is None else wanted.check,
        work_dir=target.with_name(f"{target.name}.work"),
        resume=output.resume,
        **vars(text),
        **vars(computing),
    )
    held = locked(output.file) if wanted.plan is None else locked(settings.work_dir, "--plan")
    with held, keeping(lambda: _kept(settings)):
        if wanted.plan is not None:
            _measure_plan(wanted.plan, settings, wanted.profile or [], as_json=output.as_json)
        else:
            _measure_layers(output.file, settings, wanted.method or "kl", as_json=output.as_json)


def _check_options(wanted: Measurement, output: QualityOutput) -> None:
    """Raise InputError where an option has no meaning beside others, or nothing can be written."""
    from llmpq_sim.io.files import check_writable

    said_by_plan = {
        "--method": not wanted.is_of_kl,
        "--formats": wanted.formats is not None,
        "--quantizer": wanted.quantizer is not None,
        "--check": wanted.check is not None,
        "--out": output.out is not None,
    }
    only_kl = {"--check": wanted.check is not None, "--resume": output.resume}
    check_writable(output.file)
    if wanted.plan is not None:
        for name in (name for name, is_given in said_by_plan.items() if is_given):
            raise InputError(f"{name}: goes without --plan, whose KL is measured as it is")
    elif not wanted.is_of_kl:
        for name in (name for name, is_given in only_kl.items() if is_given):
            raise InputError(f"{name}: goes with --method kl; {wanted.method} takes a single pass")


def _kept(settings: "QualitySettings") -> str:
    if not (settings.work_dir / "progress.json").exists():
        return ""
    return f"whole layers are kept in {settings.work_dir}, --resume does the rest"


def _measure_layers(
    out: Path, settings: "QualitySettings", method: Method, *, as_json: bool
) -> None:
    from llmpq_sim.io.quality import write_quality
    from llmpq_sim.report.console import answer_console, print_json
    from runtimes.quality.measured_model import open_measured_model
    from runtimes.quality.report import quality_content, show_quality
    from runtimes.quality.streams import remove_streams

    measured_model = open_measured_model(settings)
    measured = _measured(measured_model, settings, method)
    write_quality(out, measured)
    remove_streams(settings.work_dir)
    layers = measured_model.spec.layers
    if as_json:
        print_json(quality_content(measured, layers, str(out)))
        return
    show_quality(answer_console(), measured, layers, str(out), str(settings.model_dir))


def _measured(
    measured_model: "MeasuredModel", settings: "QualitySettings", method: Method
) -> "MeasuredQuality":
    from runtimes.quality.indicating import measure_indicator
    from runtimes.quality.measuring import measure_kl
    from runtimes.quality.report import pass_text, quality_progress

    with quality_progress(sys.stderr.isatty()) as on_progress:
        if method == "kl":
            return measure_kl(measured_model, settings, _tell, on_progress)
        print(pass_text(measured_model), file=sys.stderr)  # noqa: T201
        return measure_indicator(measured_model, settings, method, on_progress)


def _measure_plan(
    plan: Path, settings: "QualitySettings", profiles: list[Path], *, as_json: bool
) -> None:
    from dataclasses import replace

    from llmpq_sim.api import load
    from llmpq_sim.report.console import answer_console, print_json
    from runtimes.quality.check_report import check_content, missed_text, show_check
    from runtimes.quality.measured_model import open_measured_model
    from runtimes.quality.plan_check import check_plan_quality
    from runtimes.quality.report import quality_progress
    from runtimes.quality.streams import remove_streams
    from runtimes.torch_pipeline.weights.formats.registry import check_stored

    saved = load(plan, profiles=profiles)
    check_stored(saved.plan.layer_formats, "--plan")
    settings = replace(settings, quantizers=saved.quantizers)
    measured_model = open_measured_model(settings)
    with quality_progress(sys.stderr.isatty()) as on_progress:
        found = check_plan_quality(saved, measured_model, settings, _tell, on_progress)
    remove_streams(settings.work_dir)
    if as_json:
        print_json(check_content(found, measured_model.windows.text))
    else:
        show_check(answer_console(), found, measured_model.windows.text)
    if found.misses_target:
        print(f"error: {missed_text(found)}", file=sys.stderr)  # noqa: T201
        raise typer.Exit(1)


def _tell(run: "Run") -> None:
    """Say on stderr how much there is to do, before it is begun."""
    from runtimes.quality.report import run_text

    print(run_text(run), file=sys.stderr)  # noqa: T201
